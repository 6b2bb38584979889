"""Pretrain an encoder with one method."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rcdm_cli.core.precision import autocast
from rcdm_cli.data.encode import EncoderFunction, encode_images
from rcdm_cli.encoders.encoder import Encoder, save_encoder
from rcdm_cli.encoders.open import ENCODER_FILE
from rcdm_cli.encoders.spec import EncoderSpec
from rcdm_cli.encoders.trunks import build_trunk, trunk_width
from rcdm_cli.metrics.nearest import knn_predict
from rcdm_cli.training.batches import Batches, generator
from rcdm_cli.training.checkpoint import Checkpoint, grouped, optimizer_tensors, restore_optimizer
from rcdm_cli.training.loop import set_learning_rate
from rcdm_cli.training.objectives import build_objective, build_transform
from rcdm_cli.training.recipe import PretrainRecipe

LEAVE_ONE_OUT = 5000
"""Maximum number of images of a leave-one-out k-NN accuracy, which compares all pairs of images."""


@dataclass(frozen=True)
class LabelledImages:
    """Cropped images with class indices.

    Attributes:
        images: uint8 (N, S, S, 3).
        labels: class indices (N,); -1 is no label.
        classes: class names.
        fingerprint: hash of the images.
    """

    images: np.ndarray
    labels: Tensor
    classes: tuple[str, ...]
    fingerprint: str


def class_indices(
    labels: tuple[str | None, ...], ignore: tuple[str, ...], classes: tuple[str, ...] | None = None
) -> tuple[Tensor, tuple[str, ...]]:
    """Convert labels to class indices.

    Args:
        labels: N class names or None.
        ignore: classes that count as no label.
        classes: class names; by default, the sorted names in ``labels``.

    Returns:
        Indices (N,), -1 for no label and for names not in ``classes``; and the class names.
    """
    if classes is None:
        classes = tuple(sorted({label for label in labels if label is not None and label not in ignore}))
    indices = {name: index for index, name in enumerate(classes)}
    return torch.tensor([indices.get(label, -1) if label is not None else -1 for label in labels]), classes


class _Views(Dataset[tuple[list[Tensor], Tensor]]):
    """Views of images by (image index, draw index). The views do not depend on the worker process."""

    def __init__(self, data: LabelledImages, transform: Callable[[Image.Image], list[Tensor]], seed: int) -> None:
        self.data, self.transform, self.seed = data, transform, seed

    def __getitem__(self, item: tuple[int, int]) -> tuple[list[Tensor], Tensor]:
        image, draw = item
        # lightly and torchvision use the global generators. A seed per draw makes the views repeatable.
        key = generator("views", self.seed, draw).initial_seed()
        torch.manual_seed(key)
        random.seed(key)
        np.random.seed(key % 2**32)
        return self.transform(Image.fromarray(self.data.images[image])), self.data.labels[image]


class PretrainTrainer:
    """Trainer of an encoder with one method, for ``loop.fit``.

    Args:
        recipe: settings.
        method: pretraining method.
        data: training images.
        device: device to train on.
        workers: number of processes that compute views; 0 computes them in this process.
        validation: labelled images for the k-NN evaluation; by default, leave-one-out on the training images.
    """

    def __init__(
        self,
        recipe: PretrainRecipe,
        method: str,
        data: LabelledImages,
        device: torch.device,
        workers: int = 0,
        validation: LabelledImages | None = None,
    ) -> None:
        self.recipe, self.method, self.data, self.device = recipe, method, data, device
        self.workers, self.validation = workers, validation
        self.options, self.plan = recipe.method(method), recipe.optimization
        self.preprocessing = self.options.preprocessing or recipe.preprocessing
        self.per_epoch = max(len(data.images) // self.plan.batch, 1)
        self.steps = self.options.epochs * self.per_epoch
        self.description = recipe.description
        self.images_per_step = self.plan.batch
        torch.manual_seed(self.plan.seed)
        trunk = build_trunk(recipe.trunk.name, recipe.trunk.options, recipe.trunk.pool)
        encoder = Encoder(
            EncoderSpec(
                method=method,
                trunk=recipe.trunk.name,
                trunk_options=recipe.trunk.options,
                pool=recipe.trunk.pool,
                width=trunk_width(trunk),
                head=self.options.head,
                preprocessing=self.preprocessing,
                origin=recipe.data.origin,
                licence=recipe.data.licence,
            )
        )
        self.objective = build_objective(encoder, self.options, len(data.classes)).to(device)
        self.objective.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.objective.parameters() if p.requires_grad],
            lr=self.plan.lr,
            betas=self.plan.betas,
            weight_decay=self.plan.weight_decay,
        )
        transform = build_transform(method, self.options.transform, self.preprocessing.size)
        self.views = _Views(data, transform, self.plan.seed)

    def resume_key(self) -> dict[str, object]:
        """Return the method, its settings, the shared settings and the images."""
        recipe = self.recipe.model_dump(mode="json", exclude={"methods", "description", "knn_every"})
        return {
            "recipe": recipe,
            "method": self.method,
            "options": self.options.model_dump(mode="json"),
            "images": self.data.fingerprint,
        }

    def setup(self, step: int) -> None:
        """Open the data loader at ``step``."""
        batches = Batches(len(self.data.images), self.plan.batch, self.plan.seed, step, self.steps)
        loader: DataLoader[tuple[list[Tensor], Tensor]] = DataLoader(
            self.views,
            batch_sampler=batches,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.device.type == "cuda",
        )
        self.stream = iter(loader)
        self.objective.train()

    def train_step(self, step: int) -> dict[str, float]:
        """Do one optimizer step on one batch of views."""
        views, labels = next(self.stream)
        # Dropout and stochastic depth of the trunk use the global generator.
        torch.manual_seed(generator("dropout", self.plan.seed, step).initial_seed())
        mean = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)
        ready = [
            ((view.to(self.device, non_blocking=True) - mean) / std).contiguous(memory_format=torch.channels_last)
            for view in views
        ]
        lr = self.plan.learning_rate(step, self.steps, self.options.lr)
        set_learning_rate(self.optimizer, lr)
        self.objective.epoch = step // self.per_epoch
        with autocast(self.plan.precision, self.device):
            loss = self.objective(ready, labels.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.plan.clip:
            torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.plan.clip)
        self.optimizer.step()
        self.objective.after_step((step + 1) / self.steps)
        return {"loss": loss.item(), "lr": lr}

    def on_step_end(self, step: int, folder: Path) -> dict[str, float]:
        """Save the encoder and return its k-NN accuracy, every ``knn_every`` epochs and at the end."""
        values: dict[str, float] = {}
        epoch, rest = divmod(step, self.per_epoch)
        if (rest == 0 and epoch % self.recipe.knn_every == 0) or step == self.steps:
            if len(self.data.classes) > 1:
                values = {"epoch": epoch, **self.knn()}
            save_encoder(self.objective.encoder, folder / ENCODER_FILE)
        return values

    def knn(self) -> dict[str, float]:
        """Return the k-NN accuracy per level.

        With validation images, all training images vote. Without validation images, the accuracy is leave-one-out on at
        most ``LEAVE_ONE_OUT`` training images. Images without a class are left out.
        """
        if self.validation is not None:
            bank, labels = self._encode(self.data)
            queries, truth = self._encode(self.validation)
        else:
            bank, labels = queries, truth = self._encode(self.data, LEAVE_ONE_OUT)
        accuracies = {}
        for index, level in enumerate(self.objective.encoder.spec.levels):
            predicted = knn_predict(queries[index], bank[index], labels, leave_one_out=self.validation is None)
            accuracies[f"knn_{level}"] = float((predicted == truth).float().mean())
        return accuracies

    def _encode(self, data: LabelledImages, limit: int | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the representations of the images that have a class, at most ``limit``, and their class indices."""
        encoder = self.objective.encoder
        training = encoder.training
        encoder.eval()
        labelled = torch.nonzero(data.labels >= 0).flatten()
        if limit is not None and len(labelled) > limit:
            labelled = labelled[torch.linspace(0, len(labelled) - 1, limit).long()]
        images = [data.images[index] for index in labelled.tolist()]
        levels = encode_images(EncoderFunction(encoder, self.preprocessing.size), images, self.device)
        encoder.train(training)
        return levels, data.labels[labelled]

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights of the objective, which contains the encoder, and the optimizer's state."""
        return grouped(objective=self.objective.state_dict(), optimizer=optimizer_tensors(self.optimizer))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore weights and the optimizer's state."""
        self.objective.load_state_dict(checkpoint.group("objective"))
        restore_optimizer(self.optimizer, checkpoint.group("optimizer"))
