"""Losses of the pretraining methods against their formulas."""

import pickle
from math import cos, pi

import pytest
import torch
from torch.nn import functional as F

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.precision import autocast
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.training.objectives import build_objective, build_transform
from rcdm_cli.training.recipe import MethodOptions
from tests.training.tiny import HEAD, encoder_spec

CPU = torch.device("cpu")
BATCH = 6
LABELS = torch.tensor([0, 1, -1, 2, 1, -1])


def objective(method, classes=3, **options):
    torch.manual_seed(0)
    encoder = Encoder(encoder_spec(method, head=method != "supervised"))
    head = () if method == "supervised" else HEAD
    return build_objective(encoder, MethodOptions(epochs=1, head=head, **options), classes).train()


def views(*sizes):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, 3, size, size, generator=draw) for size in sizes]


def projections(encoder, batch, parts):
    return encoder.head(encoder.trunk(torch.cat(batch))).float().chunk(parts)


# The loss is computed in float32 at every precision of the encoder.
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_simclr_equals_nt_xent(precision):
    made, batch = objective("simclr", loss={"temperature": 0.2}), views(32, 32)
    with autocast(precision, CPU):
        loss, z = made(batch, LABELS), projections(made.encoder, batch, 2)
    z = F.normalize(torch.cat(z), dim=1)
    similarity = (z @ z.T / 0.2).exp()
    expected = 0.0
    for i in range(2 * BATCH):
        positive = (i + BATCH) % (2 * BATCH)
        others = similarity[i].sum() - similarity[i, i]
        expected -= torch.log(similarity[i, positive] / others) / (2 * BATCH)
    torch.testing.assert_close(loss, expected)


def test_vicreg_equals_invariance_variance_and_covariance_terms():
    made, batch = objective("vicreg", loss={"nu_param": 2.0}), views(32, 32)
    za, zb = projections(made.encoder, batch, 2)
    expected = 25 * ((za - zb) ** 2).mean()
    for z in (za, zb):
        expected = expected + 25 * 0.5 * (1 - (z.var(0) + 1e-4).sqrt()).clamp(min=0).mean()
        covariance = torch.cov(z.T)
        expected = expected + 2.0 * ((covariance**2).sum() - (covariance.diagonal() ** 2).sum()) / z.shape[1]
    torch.testing.assert_close(made(batch, LABELS), expected)


def test_barlow_equals_the_cross_correlation_loss():
    made, batch = objective("barlow", loss={"lambda_param": 0.01}), views(32, 32)
    za, zb = projections(made.encoder, batch, 2)
    za, zb = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (za, zb))
    c = za.T @ zb / BATCH
    diagonal = ((1 - c.diagonal()) ** 2).sum()
    expected = diagonal + 0.01 * ((c**2).sum() - (c.diagonal() ** 2).sum())
    torch.testing.assert_close(made(batch, LABELS), expected)


@pytest.mark.parametrize(
    ("method", "lightly_name", "options"),
    [
        ("simclr", "NTXentLoss", {"temperature": 0.05}),
        ("vicreg", "VICRegLoss", {"lambda_param": 3.0, "mu_param": 5.0, "nu_param": 7.0, "eps": 0.1}),
    ],
)
def test_losses_without_masks_equal_the_losses_of_lightly(method, lightly_name, options):
    import lightly.loss

    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(BATCH, 5, generator=draw).mul(3).requires_grad_() for _ in range(2)]
    own = objective(method, loss=options).criterion(*inputs)
    gradients = torch.autograd.grad(own, inputs)
    expected = getattr(lightly.loss, lightly_name)(**options)(*inputs)
    torch.testing.assert_close(own, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs))


def test_supervised_equals_cross_entropy_of_labelled_images():
    made, batch = objective("supervised", loss={"label_smoothing": 0.1}), views(32)
    logs = F.log_softmax(made.classifier(made.encoder.trunk(batch[0])), dim=1)
    chosen = [0.9 * logs[i, label] + 0.1 * logs[i].mean() for i, label in enumerate(LABELS.tolist()) if label >= 0]
    torch.testing.assert_close(made(batch, LABELS), -torch.stack(chosen).mean())
    assert made(batch, torch.full_like(LABELS, -1)) == 0


@pytest.mark.parametrize(
    ("epoch", "temperature", "precision"), [(0, 0.03, "fp32"), (1, 0.04, "bf16"), (2, 0.05, "fp32"), (9, 0.05, "fp32")]
)
def test_dino_equals_cross_entropy_over_pairs_of_different_views(epoch, temperature, precision):
    rising = {"warmup_teacher_temp": 0.03, "teacher_temp": 0.05, "warmup_teacher_temp_epochs": 3}
    made, batch = objective("dino", prototypes=16, loss=rising), views(32, 32, 16, 16)
    made.epoch = epoch
    with torch.no_grad():
        # The teacher must differ from the student to detect an exchange of the two.
        for parameter in (*made.encoder.parameters(), made.teacher_prototypes):
            parameter.add_(torch.randn(parameter.shape) * 0.1)

    def scores(encoder, part, prototypes):
        with autocast(precision, CPU):
            z = encoder.head(encoder.trunk(torch.cat(part))).float()
        z = F.normalize(z, dim=1)
        return (z @ F.normalize(prototypes, dim=1).T).chunk(2)

    teacher = scores(made.encoder, batch[:2], made.teacher_prototypes)
    student = [*scores(made.student, batch[:2], made.prototypes), *scores(made.student, batch[2:], made.prototypes)]
    pairs = []
    for t, target in enumerate(teacher):
        for s, guess in enumerate(student):
            if s != t:
                p, log_q = (target / temperature).softmax(1), (guess / 0.1).log_softmax(1)
                pairs.append(-(p * log_q).sum(1).mean())
    assert len(pairs) == 6
    with autocast(precision, CPU):
        loss = made(batch, LABELS)
    torch.testing.assert_close(loss, torch.stack(pairs).mean())
    loss.backward()
    assert all(p.grad is None for p in made.encoder.parameters())
    assert all(p.grad is not None for p in (*made.student.parameters(), made.prototypes))


def test_dino_teacher_equals_the_closed_form_of_the_ema():
    made = objective("dino", prototypes=16, momentum=0.9)
    with torch.no_grad():
        for parameter in (*made.student.parameters(), made.prototypes):
            parameter.add_(torch.randn(parameter.shape))
    pairs = [(made.encoder.trunk.conv1.weight, made.student.trunk.conv1.weight)]
    pairs += [(made.encoder.head[0].weight, made.student.head[0].weight), (made.teacher_prototypes, made.prototypes)]
    before = [teacher.detach().clone() for teacher, _ in pairs]
    left = 1.0
    for progress in (0.0, 0.5, 0.75):
        made.after_step(progress)
        left *= 1 - 0.1 * (cos(pi * progress) + 1) / 2
    for (teacher, student), start in zip(pairs, before, strict=True):
        torch.testing.assert_close(teacher, student + left * (start - student), rtol=1e-5, atol=1e-6)
    made.after_step(1.0)
    for (teacher, student), start in zip(pairs, before, strict=True):
        torch.testing.assert_close(teacher, student + left * (start - student), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "count", "sizes"),
    [
        ("dino", {"n_local_views": 3, "local_crop_size": 16}, 5, [32, 32, 16, 16, 16]),
        ("simclr", {"gaussian_blur": 0.0}, 2, [32, 32]),
        ("vicreg", {}, 2, [32, 32]),
        ("barlow", {}, 2, [32, 32]),
        ("supervised", {}, 1, [32]),
    ],
)
def test_views_have_the_expected_sizes_and_range(method, options, count, sizes):
    from PIL import Image

    # Spawned processes of a DataLoader pickle the transform.
    transform = pickle.loads(pickle.dumps(build_transform(method, options, 32)))
    made = transform(Image.new("RGB", (40, 40), (255, 128, 0)))
    assert len(made) == count
    assert [tuple(view.shape) for view in made] == [(3, size, size) for size in sizes]
    assert all(0 <= float(view.min()) <= float(view.max()) <= 1 for view in made)


@pytest.mark.parametrize("method", ["dino", "simclr", "vicreg", "barlow"])
def test_missing_head_raises(method):
    with pytest.raises(InputError, match=rf"\[methods\.{method}\] needs a head"):
        build_objective(Encoder(encoder_spec(method, head=False)), MethodOptions(epochs=1), 2)


def test_supervised_with_one_class_raises():
    with pytest.raises(InputError, match="at least two class sub-folders"):
        objective("supervised", classes=1)


def test_supervised_with_a_head_raises():
    with pytest.raises(InputError, match=r"\[methods\.supervised\] cannot have a head"):
        build_objective(Encoder(encoder_spec("supervised")), MethodOptions(epochs=1, head=HEAD), 2)


def test_unknown_option_raises_and_lists_the_options():
    with pytest.raises(InputError, match=r"loss has no option temperatur\. Its options: temperature\."):
        objective("simclr", loss={"temperatur": 0.1})
    with pytest.raises(InputError, match=r"transform has no option input_size\. Its options: cj_prob, "):
        build_transform("simclr", {"input_size": 3}, 32)
    # Checkpoints do not contain a memory bank.
    with pytest.raises(InputError, match="loss has no option memory_bank_size"):
        objective("simclr", loss={"memory_bank_size": 8})


@pytest.mark.parametrize("method", ["simclr", "vicreg", "barlow"])
def test_losses_cannot_gather_the_images_of_all_processes_twice(method):
    with pytest.raises(InputError, match="loss has no option gather_distributed"):
        objective(method, loss={"gather_distributed": True})


def test_invalid_option_value_raises():
    with pytest.raises(InputError, match=r"NTXent rejects loss = \{'temperature': 0\.0\}: Illegal temperature"):
        objective("simclr", loss={"temperature": 0.0})
    with pytest.raises(InputError, match=r"DINOTransform rejects transform = \{'gaussian_blur': \[1\.0\]\}"):
        build_transform("dino", {"gaussian_blur": [1.0]}, 32)
