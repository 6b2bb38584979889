import numpy as np
import pytest
import torch
from torch import nn

from rcdm_cli.analyses.fgsm.attacks import (
    cross_entropy_objective,
    drift_objective,
    fgsm,
    pgd,
    project_linf,
    representation,
)
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.spec import EncoderSpec, Preprocessing
from rcdm_cli.metrics.linear_probe import LinearClassifier
from tests.bundle.tiny import TRUNK

EPSILONS = (0.0, 0.5 / 255, 2 / 255, 8 / 255, 0.1)


class Classified(nn.Module):
    """Model for the attacks of foolbox: pixels in [0, 1] to logits, without the code under test."""

    def __init__(self, encoder, classifier):
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    def forward(self, images):
        spec = self.encoder.spec.preprocessing
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        return self.encoder.trunk((images - mean) / std) @ self.classifier.weight.T + self.classifier.bias


@pytest.fixture(scope="module")
def images():
    values = np.random.default_rng(4).integers(0, 256, (24, 3, 24, 24), dtype=np.uint8)
    # Black and white pixels, where attacks are limited by the pixel range.
    values[:, :, :3], values[:, :, 3:6] = 0, 255
    return torch.from_numpy(values).float() / 255


@pytest.fixture(scope="module")
def encoder(images):
    """Encoder with random weights. Its batch norms preserve the differences between images, as in a trained network."""
    torch.manual_seed(3)
    preprocessing = Preprocessing(size=24, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    spec = EncoderSpec(method="mine", trunk="resnet18", trunk_options=TRUNK, width=16, preprocessing=preprocessing)
    made = Encoder(spec).train().requires_grad_(False)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.momentum = 1.0
    made(images * 2 - 1)
    return made.eval()


@pytest.fixture(scope="module")
def classifier(encoder, images):
    """Classifier that predicts three classes about equally often."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        h = representation(encoder, "backbone")(images)
    weight = torch.randn(3, 16, generator=generator) / h.std(dim=0)
    return LinearClassifier(weight, -weight @ h.mean(dim=0))


@pytest.fixture(scope="module")
def labels(encoder, images, classifier):
    with torch.no_grad():
        named = Classified(encoder, classifier)(images).argmax(dim=1)
    # A quarter of the images is classified wrongly before any attack.
    assert min(torch.bincount(named, minlength=3)) > 1
    return torch.where(torch.arange(24) % 4 == 0, (named + 1) % 3, named)


@pytest.fixture(scope="module")
def objective(encoder, classifier, labels):
    return cross_entropy_objective(representation(encoder, "backbone"), classifier, labels)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_accuracy_under_attack_equals_foolbox(encoder, images, classifier, labels, objective, epsilon):
    foolbox = pytest.importorskip("foolbox")

    model = Classified(encoder, classifier).eval()
    other = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attacks = {
        foolbox.attacks.LinfFastGradientAttack(): fgsm(objective, images, epsilon),
        foolbox.attacks.LinfProjectedGradientDescentAttack(steps=5, rel_stepsize=2.5 / 5, random_start=False): pgd(
            objective, images, epsilon, 5
        ),
    }
    for attack, mine in attacks.items():
        _, theirs, misled = attack(other, images, labels, epsilons=[epsilon])
        right = int((model(mine).argmax(dim=1) == labels).sum())
        assert abs(right - int((~misled[0]).sum())) <= 1
        assert float((mine - theirs[0]).abs().mean()) <= 0.02 * epsilon + 1e-7


def test_attack_lowers_the_accuracy(encoder, images, classifier, labels, objective):
    model = Classified(encoder, classifier)
    right = [int((model(fgsm(objective, images, e)).argmax(dim=1) == labels).sum()) for e in (0.0, 0.1)]
    assert right[0] == 18
    assert right[1] < 9


@pytest.mark.parametrize("epsilon", [*EPSILONS[::2], 1e-9, 1 / 3, 1.0])
def test_pixel_changes_are_bounded_by_epsilon(images, objective, epsilon):
    start = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, images.shape))
    for after in (fgsm(objective, images, epsilon), pgd(objective, images, epsilon, 3, start)):
        assert after.dtype == torch.float32
        assert float((after.double() - images.double()).abs().max()) <= epsilon
        assert float(after.min()) >= 0
        assert float(after.max()) <= 1
        assert torch.equal(after, images) == (epsilon == 0)


def test_projection_is_the_nearest_float32(images):
    wanted = images.double() + 0.03
    found = project_linf(wanted, images, 0.03).double()
    inside = images < 0.9
    assert float((wanted - found)[inside].max()) < 1.2e-7


def test_step_follows_the_gradient_through_the_preprocessing(encoder, images, classifier, labels, objective):
    """Central differences, in float64, along the pixels where the gradient is large."""
    double = Encoder(encoder.spec).eval().double().requires_grad_(False)
    double.load_state_dict(encoder.state_dict())
    double.mean, double.std = double.mean.double(), double.std.double()
    model = cross_entropy_objective(
        representation(double, "backbone"), LinearClassifier(*(part.double() for part in classifier)), labels[:1]
    )
    image = images[:1].double()
    signs = torch.sign(fgsm(objective, images, 0.01)[:1].double() - image)
    checked = 0
    for channel, row, column in ((0, 10, 10), (1, 16, 20), (2, 20, 9), (0, 22, 22), (1, 12, 15)):
        ahead, back = image.clone(), image.clone()
        ahead[0, channel, row, column] += 1e-6
        back[0, channel, row, column] -= 1e-6
        slope = float(model(ahead) - model(back)) / 2e-6
        if abs(slope) > 1e-6:
            assert np.sign(slope) == float(signs[0, channel, row, column])
            checked += 1
    assert checked >= 3


def test_drift_attack_lowers_the_similarity_more_than_noise(encoder, images):
    encode = representation(encoder, "backbone")
    with torch.no_grad():
        h = encode(images)
    start = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], images.shape))
    away = pgd(drift_objective(encode, h), images, 4 / 255, 5, start)
    noisy = (images + 4 / 255 * start.float()).clamp(0, 1)

    def similarity(after):
        with torch.no_grad():
            return float(torch.nn.functional.cosine_similarity(encode(after), h).mean())

    assert 1 - similarity(away) > 3 * (1 - similarity(noisy))


def test_gradients_of_images_are_independent(objective, encoder, images, classifier, labels):
    together = fgsm(objective, images, 0.02)
    single = fgsm(
        cross_entropy_objective(representation(encoder, "backbone"), classifier, labels[5:6]), images[5:6], 0.02
    )
    assert float((together[5:6] != single).float().mean()) < 0.01
