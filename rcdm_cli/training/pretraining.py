"""Pretrain an encoder with one method."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.profiler import record_function
from torch.utils.data import Dataset

from rcdm_cli.core.precision import autocast
from rcdm_cli.data.array_file import Rows
from rcdm_cli.data.encode import EncoderFunction, encode_images
from rcdm_cli.data.loader import load_batches
from rcdm_cli.encoders.encoder import Encoder, save_encoder
from rcdm_cli.encoders.open import ENCODER_FILE
from rcdm_cli.encoders.spec import EncoderSpec
from rcdm_cli.encoders.trunks import build_trunk, trunk_width
from rcdm_cli.metrics.nearest import knn_predict
from rcdm_cli.training import distributed
from rcdm_cli.training.batch_norm import SyncedBatchNorm
from rcdm_cli.training.batches import Batches, generator
from rcdm_cli.training.checkpoint import Checkpoint, grouped, optimizer_tensors, restore_optimizer
from rcdm_cli.training.objectives import build_objective, build_transform
from rcdm_cli.training.optimizer import adamw, set_learning_rate
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
    """Batches of views by lists of (image index, draw index). The views do not depend on the worker process."""

    def __init__(self, data: LabelledImages, transform: Callable[[Image.Image], list[Tensor]], seed: int) -> None:
        self.images, self.labels = Rows(data.images), data.labels
        self.transform, self.seed = transform, seed

    def __getitem__(self, items: list[tuple[int, int]]) -> tuple[list[Tensor], Tensor]:
        index = np.array([image for image, _ in items])
        images = self.images.take(index)
        views = [self._views(image, draw) for image, (_, draw) in zip(images, items, strict=True)]
        return [torch.stack(view) for view in zip(*views, strict=True)], self.labels[torch.from_numpy(index)]

    def _views(self, image: np.ndarray, draw: int) -> list[Tensor]:
        # lightly and torchvision use the global generators. A seed per draw makes the views repeatable.
        key = generator("views", self.seed, draw).initial_seed()
        torch.manual_seed(key)
        random.seed(key)
        np.random.seed(key % 2**32)
        return self.transform(Image.fromarray(image))


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
        self.optimizer = adamw([p for p in self.objective.parameters() if p.requires_grad], self.plan)
        self.network = distributed.data_parallel(self.objective, self.plan.gradient_compression, static_graph=True)
        # Views are in [0, 1].
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        transform = build_transform(method, self.options.transform, self.preprocessing.size)
        self.views = _Views(data, transform, self.plan.seed)

    def resume_key(self) -> dict[str, object]:
        """Return the method, its settings, the shared settings and the images."""
        excluded: Any = {"methods": True, "description": True, "knn_every": True}
        excluded |= {"optimization": {"gradient_compression"}}
        recipe = self.recipe.model_dump(mode="json", exclude=excluded)
        return {
            "recipe": recipe,
            "method": self.method,
            "options": self.options.model_dump(mode="json"),
            "images": self.data.fingerprint,
        }

    def setup(self, step: int) -> None:
        """Open the data loader at ``step``."""
        batches = Batches(
            len(self.data.images),
            self.plan.batch,
            self.plan.seed,
            step,
            self.steps,
            distributed.rank(),
            distributed.world_size(),
        )
        self.stream = load_batches(self.views, batches, self.device, self.workers)
        self.objective.train()

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """Do one optimizer step on one batch of views."""
        with record_function("train: data"):
            views, labels = next(self.stream)
        # Dropout and stochastic depth of the trunk use the global generator. Processes have different images.
        torch.manual_seed(generator("dropout", self.plan.seed, step, distributed.rank()).initial_seed())
        lr = self.plan.learning_rate(step, self.steps, self.options.lr)
        set_learning_rate(self.optimizer, lr)
        self.objective.epoch = step // self.per_epoch
        self.optimizer.zero_grad(set_to_none=True)
        with distributed.explain_lost_process():
            with record_function("train: forward"), autocast(self.plan.precision, self.device), SyncedBatchNorm():
                ready = [
                    ((view - self.mean) / self.std).contiguous(memory_format=torch.channels_last) for view in views
                ]
                loss = self.network(ready, labels)
            with record_function("train: backward"):
                loss.backward()
        with record_function("train: optimizer"):
            if self.plan.clip:
                torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.plan.clip)
            self.optimizer.step()
        with record_function("train: ema"):
            self.objective.after_step((step + 1) / self.steps)
        return {"loss": distributed.all_reduce_sum(loss.detach() / distributed.world_size()), "lr": lr}

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
