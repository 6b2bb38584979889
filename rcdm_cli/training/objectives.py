"""Pretraining objectives: losses and transforms of lightly for each method."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.training import distributed
from rcdm_cli.training.recipe import MethodOptions


def require_lightly() -> None:
    """Check that lightly is installed.

    Raises:
        RcdmError: lightly is not installed.
    """
    if find_spec("lightly") is None:
        raise RcdmError("Pretraining needs lightly, which is not installed: `pip install 'rcdm[pretrain]'`.")


class PretrainingObjective(nn.Module, ABC):
    """Loss over the views of a batch, with the modules that only pretraining needs.

    With several processes, ``forward`` gets the images of one process. The mean of the losses over the processes equals
    the loss of one process with all images.

    Attributes:
        encoder: network to save after pretraining.
        epoch: current epoch, from 0. The trainer sets it before each step.
    """

    encoder: Encoder
    epoch = 0

    @abstractmethod
    def forward(self, views: list[Tensor], labels: Tensor) -> Tensor:
        """Return the scalar loss of preprocessed views (V tensors (B, 3, S, S)) and labels (B,); -1 is no label."""

    def after_step(self, progress: float) -> None:
        """Update state after an optimizer step; ``progress`` rises from 0 to 1."""

    def project(self, views: Tensor) -> Tensor:
        """Return the output (B, D) of the head, or of the trunk without a head, for preprocessed views."""
        h: Tensor = self.encoder.trunk(views)
        if self.encoder.head is not None:
            h = self.encoder.head(h)
        return h


class TwoViews(PretrainingObjective):
    """Objective of SimCLR, VICReg and Barlow Twins: a criterion on the projections of two views."""

    def __init__(self, encoder: Encoder, criterion: nn.Module) -> None:
        super().__init__()
        self.encoder, self.criterion = encoder, criterion

    def forward(self, views: list[Tensor], labels: Tensor) -> Tensor:
        """Return the criterion on the projections of the first and the second view."""
        first, second = self.project(torch.cat(views)).float().chunk(2)
        with _float32(first):
            # The criterion compares the images of all processes.
            loss: Tensor = self.criterion(distributed.gather(first), distributed.gather(second))
        return loss


class Dino(PretrainingObjective):
    """Objective of DINO: a student matches a momentum teacher over prototypes (Caron et al. 2021, arXiv:2104.14294).

    ``encoder`` is the teacher, as in the published models. The first two views are the global crops, which are the only
    input of the teacher.
    """

    teacher_prototypes: Tensor

    def __init__(self, encoder: Encoder, criterion: nn.Module, options: MethodOptions) -> None:
        super().__init__()
        self.student = encoder
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.criterion, self.momentum = criterion, options.momentum
        width = encoder.spec.width_at("projector")
        self.prototypes = nn.Parameter(F.normalize(torch.randn(options.prototypes, width), dim=1))
        self.register_buffer("teacher_prototypes", self.prototypes.detach().clone())

    def forward(self, views: list[Tensor], labels: Tensor) -> Tensor:
        """Return the cross-entropy of teacher and student scores over all pairs of different views."""
        with torch.no_grad():
            teacher = self._scores(self.encoder, torch.cat(views[:2]), self.teacher_prototypes).chunk(2)
        # One forward pass per crop size.
        student = [*self._scores(self.student, torch.cat(views[:2]), self.prototypes).chunk(2)]
        if local := views[2:]:
            student += self._scores(self.student, torch.cat(local), self.prototypes).chunk(len(local))
        with _float32(self.prototypes):
            loss: Tensor = self.criterion(list(teacher), student, epoch=self.epoch)
        return loss

    @staticmethod
    def _scores(encoder: Encoder, views: Tensor, prototypes: Tensor) -> Tensor:
        assert encoder.head is not None
        projected = F.normalize(encoder.head(encoder.trunk(views)).float(), dim=1)
        with _float32(projected):
            return projected @ F.normalize(prototypes, dim=1).T

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the teacher as an EMA of the student. The momentum rises to 1 along a cosine."""
        momentum = 1 - (1 - self.momentum) * (cos(pi * progress) + 1) / 2
        torch._foreach_lerp_(list(self.encoder.parameters()), list(self.student.parameters()), 1 - momentum)
        # As published, the teacher computes its own batch statistics.
        self.teacher_prototypes.lerp_(self.prototypes, 1 - momentum)


class Supervised(PretrainingObjective):
    """Cross-entropy of a linear classifier on the backbone. Images without a label are ignored."""

    def __init__(self, encoder: Encoder, classes: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.spec.width, classes)
        self.criterion = _build(nn.CrossEntropyLoss, options, "loss", ignore_index=-1, reduction="sum")

    def forward(self, views: list[Tensor], labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of the single view; 0 if no image of the batch has a label."""
        total: Tensor = self.criterion(self.classifier(self.project(views[0])).float(), labels)
        labelled = distributed.all_reduce_sum((labels >= 0).sum()).clamp(min=1)
        # The mean over the processes is the mean over the labelled images of all processes.
        return total * (distributed.world_size() / labelled)


def _float32(tensor: Tensor) -> torch.autocast:
    """Return a context without autocast, which would compute a product of float32 tensors in bf16."""
    return torch.autocast(tensor.device.type, enabled=False)


def build_objective(encoder: Encoder, options: MethodOptions, classes: int) -> PretrainingObjective:
    """Return the objective of ``encoder.spec.method``.

    Args:
        encoder: encoder to train.
        options: settings of the method.
        classes: number of classes of the images.

    Raises:
        InputError: the loss does not accept an option, the head is missing or not supported, or supervised training
            has fewer than two classes.
    """
    from lightly.loss import BarlowTwinsLoss, DINOLoss

    # lightly is an optional package.
    from rcdm_cli.training.criteria import NTXent, VICReg

    method = encoder.spec.method
    if method == "supervised":
        if classes < 2:
            raise InputError(f"`method` supervised needs images in at least two class sub-folders; found {classes}.")
        if options.head:
            raise InputError(
                "[methods.supervised] cannot have a head, because its loss is computed at the backbone level."
            )
        return Supervised(encoder, classes, options.loss)
    if not options.head:
        raise InputError(f"[methods.{method}] needs a head, because its loss is computed at the projector level.")
    if method == "dino":
        return Dino(encoder, _build(DINOLoss, options.loss, "loss", output_dim=options.prototypes), options)
    criterion = {"simclr": NTXent, "vicreg": VICReg, "barlow": BarlowTwinsLoss}[method]
    # The objective gathers the images of all processes. A second gathering would count them twice.
    fixed: dict[str, Any] = {"gather_distributed": False}
    if method == "simclr":
        # Checkpoints do not contain a memory bank, so a run with one could not be resumed.
        fixed["memory_bank_size"] = 0
    return TwoViews(encoder, _build(criterion, options.loss, "loss", **fixed))


def build_transform(method: str, options: Mapping[str, Any], size: int) -> Callable[[Any], list[Tensor]]:
    """Return lightly's transform of ``method``, which maps a PIL image to views (3, S, S) in [0, 1].

    Args:
        method: pretraining method.
        options: keyword arguments of the transform.
        size: side of the (global) views in pixels.

    Raises:
        InputError: the transform does not accept an option.
    """
    from lightly.transforms import DINOTransform, SimCLRTransform, VICRegTransform
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    transform: Callable[[Any], list[Tensor]]
    if method == "dino":
        transform = _build(DINOTransform, options, "transform", global_crop_size=size, normalize=None)
        return transform
    if method == "supervised":
        return partial(_one_view, _build(SimCLRViewTransform, options, "transform", input_size=size, normalize=None))
    kind = {"simclr": SimCLRTransform, "vicreg": VICRegTransform, "barlow": VICRegTransform}[method]
    transform = _build(kind, options, "transform", input_size=size, normalize=None)
    return transform


def _one_view(transform: Callable[[Any], Tensor], image: Any) -> list[Tensor]:
    """Return the single view as a list. Worker processes need a function that can be pickled."""
    return [transform(image)]


def _build(kind: Callable[..., Any], options: Mapping[str, Any], section: str, **fixed: Any) -> Any:
    allowed = [name for name in inspect.signature(kind).parameters if name not in fixed]
    if unknown := sorted(set(options) - set(allowed)):
        raise InputError(f"{section} has no option {', '.join(unknown)}. Its options: {', '.join(allowed)}.")
    try:
        return kind(**fixed, **options)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise InputError(f"{kind.__name__} rejects {section} = {dict(options)}: {error}") from error
