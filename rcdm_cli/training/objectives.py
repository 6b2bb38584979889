"""What each method minimises, with lightly's losses; everything here is left behind after pretraining."""

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
from rcdm_cli.training.recipe import MethodOptions


def needs_lightly() -> None:
    """Look for the package that the losses and the views are from.

    Raises:
        RcdmError: it is not installed.
    """
    if find_spec("lightly") is None:
        raise RcdmError("Pretraining needs lightly, which is not installed: `pip install 'rcdm[pretrain]'`.")


class Objective(nn.Module, ABC):
    """A loss over the views of a batch, with the modules that only training needs.

    ``encoder`` is the network that is kept; ``epoch``, from 0, is set before each step.
    """

    encoder: Encoder
    epoch = 0

    @abstractmethod
    def forward(self, views: list[Tensor], labels: Tensor) -> Tensor:
        """The scalar loss of views (V tensors of (B, 3, S, S), preprocessed) and labels (B,), -1 for none."""

    def after_step(self, progress: float) -> None:
        """Called after each optimizer step; ``progress`` runs from 0 to 1."""

    def last(self, views: Tensor) -> Tensor:
        """The head's output (B, D) for one preprocessed view."""
        h: Tensor = self.encoder.trunk(views)
        if self.encoder.head is not None:
            h = self.encoder.head(h)
        return h


class TwoViews(Objective):
    """SimCLR, VICReg and Barlow Twins: a criterion on the projections of two views."""

    def __init__(self, encoder: Encoder, criterion: nn.Module) -> None:
        super().__init__()
        self.encoder, self.criterion = encoder, criterion

    def forward(self, views: list[Tensor], labels: Tensor) -> Tensor:
        """The criterion on the first and the second view's projections."""
        first, second = self.last(torch.cat(views)).float().chunk(2)
        with _float32(first):
            loss: Tensor = self.criterion(first, second)
        return loss


class Dino(Objective):
    """DINO: a student matches a momentum teacher over prototypes (Caron et al. 2021, arXiv:2104.14294).

    The teacher is the encoder that is kept, as the authors publish it. The first two views are the
    global crops, the only ones that the teacher sees.
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
        """Cross-entropy between the teacher's and the student's prototype scores over all pairs of other views."""
        with torch.no_grad():
            teacher = self._scores(self.encoder, torch.cat(views[:2]), self.teacher_prototypes).chunk(2)
        # One pass a crop size: convolutions need equal sizes.
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
        """Move the teacher towards the student; its momentum rises to 1 along a cosine."""
        momentum = 1 - (1 - self.momentum) * (cos(pi * progress) + 1) / 2
        for kept, trained in zip(self.encoder.parameters(), self.student.parameters(), strict=True):
            kept.lerp_(trained, 1 - momentum)
        # Batch statistics are the teacher's own: it normalises its batches itself, as published.
        self.teacher_prototypes.lerp_(self.prototypes, 1 - momentum)


class Supervised(Objective):
    """Cross-entropy of a linear classifier on the backbone; images without a class are left out."""

    def __init__(self, encoder: Encoder, classes: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.spec.width, classes)
        self.criterion = _build(nn.CrossEntropyLoss, options, "loss", ignore_index=-1, reduction="sum")

    def forward(self, views: list[Tensor], labels: Tensor) -> Tensor:
        """Mean cross-entropy on the one view; 0 where no image of the batch has a class."""
        total: Tensor = self.criterion(self.classifier(self.last(views[0])).float(), labels)
        return total / (labels >= 0).sum().clamp(min=1)


def _float32(tensor: Tensor) -> torch.autocast:
    """A context without autocast, which would take a product of float32 tensors in bf16."""
    return torch.autocast(tensor.device.type, enabled=False)


def build_objective(encoder: Encoder, options: MethodOptions, classes: int) -> Objective:
    """The objective of ``encoder.spec.method``.

    Raises:
        InputError: an option that the loss does not know or refuses, a head that is missing or has no loss, or
            supervised training without classes.
    """
    from lightly.loss import BarlowTwinsLoss, DINOLoss, NTXentLoss, VICRegLoss

    method = encoder.spec.method
    if method == "supervised":
        if classes < 2:
            raise InputError("supervised needs images in at least two class sub-folders; found none.")
        if options.head:
            raise InputError("[methods.supervised] can have no head: its loss is taken at the backbone level.")
        return Supervised(encoder, classes, options.loss)
    if not options.head:
        raise InputError(f"[methods.{method}] needs a head: its loss is taken at the projector level.")
    if method == "dino":
        return Dino(encoder, _build(DINOLoss, options.loss, "loss", output_dim=options.prototypes), options)
    criterion = {"simclr": NTXentLoss, "vicreg": VICRegLoss, "barlow": BarlowTwinsLoss}[method]
    # A memory bank is in no checkpoint, so that a run could not go on.
    fixed = {"memory_bank_size": 0} if method == "simclr" else {}
    return TwoViews(encoder, _build(criterion, options.loss, "loss", **fixed))


def build_views(method: str, options: Mapping[str, Any], size: int) -> Callable[[Any], list[Tensor]]:
    """Get lightly's transform of ``method``: a PIL image → its views, tensors (3, S, S) in [0, 1].

    ``size`` is the side of the (global) views in pixels.

    Raises:
        InputError: an option that the transform does not know or refuses.
    """
    from lightly.transforms import DINOTransform, SimCLRTransform, VICRegTransform
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    views: Callable[[Any], list[Tensor]]
    if method == "dino":
        views = _build(DINOTransform, options, "transform", global_crop_size=size, normalize=None)
        return views
    if method == "supervised":
        view = _build(SimCLRViewTransform, options, "transform", input_size=size, normalize=None)
        return partial(_one_view, view)
    transform = {"simclr": SimCLRTransform, "vicreg": VICRegTransform, "barlow": VICRegTransform}[method]
    views = _build(transform, options, "transform", input_size=size, normalize=None)
    return views


def _one_view(transform: Callable[[Any], Tensor], image: Any) -> list[Tensor]:
    """Not a lambda, which could not be sent to the processes that draw views."""
    return [transform(image)]


def _build(kind: Callable[..., Any], options: Mapping[str, Any], section: str, **fixed: Any) -> Any:
    known = [name for name in inspect.signature(kind).parameters if name not in fixed]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"{section} has no option {', '.join(unknown)}; it has: {', '.join(known)}.")
    try:
        return kind(**fixed, **options)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise InputError(f"{kind.__name__} refuses {section} = {dict(options)}: {error}") from error
