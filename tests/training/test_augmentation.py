"""Random augmentation of training images: draws, augmented images and augmentation conditioning."""

import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.tensor import to_tensor, to_uint8
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.training.augmentation import Augmenter
from rcdm_cli.training.batches import generator
from rcdm_cli.training.checkpoint import Checkpoint
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.recipe import AugmentationConfig, TrainRecipe, read_recipe
from rcdm_cli.training.representations import ComputedRepresentations, EncoderInputs
from tests.training.tiny import AUGMENTATION, TRAIN, random_images, tiny_encoder

CPU = torch.device("cpu")
PROJECTIONS = tuple(
    Representation(method="simclr", level=level, width=width) for level, width in (("backbone", 16), ("projector", 12))
)
ALL = AugmentationConfig(image_size=48, probability=1, crop=0.5, brightness=0.3, contrast=0.2, saturation=0.4, hue=0.5)
ZOOM, RIGHT, DOWN, BRIGHTNESS, CONTRAST, SATURATION, HUE = range(7)


def make_augmenter(config=ALL, images=None):
    images = random_images(5, 48) if images is None else images
    return Augmenter(config, images)


def draw(config, count=4000, seed=0):
    return make_augmenter(config).draw(count, torch.Generator().manual_seed(seed))


def augment(image, **values):
    """Augment one image with named parameters."""
    params = torch.zeros(1, 7)
    for name, value in values.items():
        params[0, globals()[name.upper()]] = value
    return make_augmenter(images=image[None]).apply(torch.tensor([0]), torch.tensor([False]), params)[0]


def test_augmentations_have_the_probability_and_are_uniform():
    params = draw(ALL.model_copy(update={"probability": 0.3}))
    done = params != 0
    assert torch.equal(done[:, ZOOM], done[:, RIGHT])
    assert torch.equal(done[:, ZOOM], done[:, DOWN])
    apart = done[:, [ZOOM, BRIGHTNESS, CONTRAST, SATURATION, HUE]].double()
    assert apart.mean(0).sub(0.3).abs().max() < 0.03
    assert (torch.corrcoef(apart.T) - torch.eye(5)).abs().max() < 0.06
    for column in range(7):
        values = params[done[:, column], column]
        low = 0.0 if column == ZOOM else -1.0
        assert low <= values.min() < low + 0.02
        assert 0.98 < values.max() <= 1
        assert values.mean() == pytest.approx((low + 1) / 2, abs=0.06)


def test_augmentations_without_strength_are_not_drawn():
    params = draw(AugmentationConfig(image_size=48, probability=1, hue=0.1), 50)
    assert params[:, HUE].all()
    assert not params[:, :HUE].any()
    assert torch.equal(params, draw(AugmentationConfig(image_size=48, probability=1, hue=0.1), 50))


def test_zero_parameters_return_the_image_or_its_mirror_image():
    augmenter = make_augmenter()
    plain, turned = augmenter.apply(torch.tensor([3, 3]), torch.tensor([False, True]), torch.zeros(2, 7))
    assert np.array_equal(plain, augmenter.images.array[3])
    assert np.array_equal(turned, augmenter.images.array[3][:, ::-1])


def test_crop_position_follows_the_parameters():
    image = random_images(1, 48)[0]
    assert np.array_equal(augment(image, zoom=1, right=-1, down=1), image[24:, :24])
    assert np.array_equal(augment(image, zoom=0.5), image[6:42, 6:42])
    assert augment(image, zoom=0.5, right=0.5).shape == (36, 36, 3)
    assert np.array_equal(augment(image, zoom=0.5, right=0.5), image[6:42, 9:45])
    # Images are flipped before they are cropped.
    params = torch.zeros(1, 7)
    params[0, [ZOOM, RIGHT]] = 0.5
    (turned,) = make_augmenter(images=image[None]).apply(torch.tensor([0]), torch.tensor([True]), params)
    assert np.array_equal(turned, image[:, ::-1][6:42, 9:45])


def test_aug_cond_contains_the_hue_as_a_point_on_a_circle():
    params = torch.rand(6, 7) * 2 - 1
    params[:, HUE] = torch.tensor([0.0, 1.0, -1.0, 0.5, -0.5, 0.25])  # of half a turn
    aug_cond = make_augmenter().aug_cond(params)
    assert torch.equal(aug_cond[:, :HUE], params[:, :HUE])
    half = 0.5**0.5
    expected = torch.tensor([[0, 0], [-2, 0], [-2, 0], [-1, 1], [-1, -1], [half - 1, half]])
    torch.testing.assert_close(aug_cond[:, HUE:], expected, rtol=0, atol=1e-6)
    assert not make_augmenter().aug_cond(torch.zeros(1, 7)).any()


@pytest.mark.parametrize(("name", "limit"), [("brightness", 0.3), ("contrast", 0.2), ("saturation", 0.4)])
@pytest.mark.parametrize("amount", [-1.0, 0.6])
def test_colour_augmentations_equal_torchvision(name, limit, amount):
    image = random_images(1, 48)[0]
    change = getattr(reference, f"adjust_{name}")
    expected = change(torch.from_numpy(image).permute(2, 0, 1), 1 + limit * amount).permute(1, 2, 0).numpy()
    changed = augment(image, **{name: amount}).astype(int)
    assert np.abs(changed - expected).max() <= 1
    assert np.abs(changed - image).max() > 10


def test_hue_rotates_along_the_circle():
    image = random_images(1, 48)[0]
    changed = augment(image, hue=-0.5)
    for before, after in zip(image.reshape(-1, 3)[:40] / 255, changed.reshape(-1, 3)[:40] / 255, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb((h - 0.25) % 1, s, v), abs=8 / 255)


@pytest.fixture
def trainer(tmp_path):
    large = random_images(9, 48)
    images = np.stack([center_crop(image, 32) for image in large])
    (tmp_path / "r.toml").write_text(TRAIN + AUGMENTATION)
    representations = ComputedRepresentations([EncoderInputs(tiny_encoder(), images, "a")], PROJECTIONS, CPU)

    def make(*overrides):
        recipe = read_recipe(tmp_path / "r.toml", TrainRecipe, overrides)
        augmenter = Augmenter(recipe.augmentation, large)
        encoders = [tiny_encoder()]
        return DenoiserTrainer(recipe, images, representations, CPU, "images", augmenter=augmenter, encoders=encoders)

    return make


def test_augmented_images_and_other_images_have_their_own_representations(trainer):
    made = trainer()
    index, flip, projection = (
        torch.tensor([4, 0, 7, 2]),
        torch.tensor([True, False, True, False]),
        torch.tensor([1, 1, 0, 0]),
    )
    params = torch.zeros(4, 7)
    params[1, BRIGHTNESS] = params[2, ZOOM] = 1.0
    part = made.data._part(torch.arange(4), index, flip, projection, params)
    images, groups = to_uint8(made._x0(part) + 1 / 255), {group.projection: made._h(group) for group in part.groups}
    assert list(groups) == [1, 0]
    encoder, large = tiny_encoder(), made.augmenter.images.array
    zoomed = large[7][:, ::-1][8:40, 8:40]  # 0.67 of 48 pixels, in the centre of the mirror image
    expected = {
        0: (1, 0, center_crop(large[4], 32)[:, ::-1]),
        1: (1, 1, center_crop(augment(large[0], brightness=1), 32)),
        2: (0, 0, center_crop(zoomed, 32)),
        3: (0, 1, center_crop(large[2], 32)),
    }
    for item, (r, position, image) in expected.items():
        assert np.array_equal(images[item], image)
        h = encoder.encode(to_tensor(image[None].copy()), PROJECTIONS[r].level)
        torch.testing.assert_close(groups[r][position], h[0])


def test_denoiser_is_conditioned_on_the_augmentation_of_each_image(trainer):
    """With accumulation, and with dropped representations."""
    made = trainer("optimization.accumulate=3", "uncond_prob=1.0")
    with torch.no_grad():
        made.aug_cond.weight.normal_()
    conds = []
    made.model.denoiser.register_forward_pre_hook(lambda _, inputs: conds.append(inputs[2]))
    made.setup(2)
    made.train_step(2)
    params = made.augmenter.draw(6, generator("augmentation", 0, 2))
    assert len(conds) == 3
    assert params.any()
    found, expected = torch.cat(conds).detach(), made.augmenter.aug_cond(params) @ made.aug_cond.weight.detach().T
    # The optimizer step has changed the weights since.
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert found.norm() > 1


@pytest.mark.parametrize("extra", [[], ["denoiser.learned_variance=true"]])
def test_aug_cond_weights_are_trained_clipped_and_saved(trainer, extra):
    made = trainer("optimization.clip=1e-3", *extra)
    start = made.aug_cond.weight.detach().clone()
    made.setup(0)
    for step in range(3):
        made.train_step(step)
    assert not torch.equal(made.aug_cond.weight, start)
    norms = [parameter.grad.norm() for parameter in (*made.model.parameters(), made.aug_cond.weight)]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-3)
    again = trainer("optimization.clip=1e-3", *extra)
    again.restore(Checkpoint(3, {}, {name: tensor.clone() for name, tensor in made.tensors().items()}))
    again.setup(3)
    assert made.train_step(3) == again.train_step(3)
    assert torch.equal(made.aug_cond.weight, again.aug_cond.weight)
    # Augmentation conditioning is not part of the model.
    assert not any("aug" in name for name in made.model.state_dict())
