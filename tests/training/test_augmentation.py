"""Random changes to training images: what is drawn, what is done, and what the denoiser is told of it."""

import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from rcdm_cli.data.crop import center_crop
from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.training.augmentation import RandomViews
from rcdm_cli.training.batches import generator
from rcdm_cli.training.checkpoint import Checkpoint
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.recipe import RandomChanges, TrainRecipe, read_recipe
from rcdm_cli.training.representations import ComputedRepresentations, EncoderInputs
from tests.training.tiny import AUGMENTATION, TRAIN, random_images, tiny_encoder

CPU = torch.device("cpu")
PROJECTIONS = tuple(
    Representation(method="simclr", level=level, width=width) for level, width in (("backbone", 16), ("projector", 12))
)
ALL = RandomChanges(image_size=48, probability=1, crop=0.5, brightness=0.3, contrast=0.2, saturation=0.4, hue=0.5)
ZOOM, RIGHT, DOWN, BRIGHTNESS, CONTRAST, SATURATION, HUE = range(7)


def random_views(plan=ALL, images=None):
    images = random_images(5, 48) if images is None else images
    return RandomViews(plan, images, [tiny_encoder()], PROJECTIONS, CPU)


def drawn(plan, count=4000, seed=0):
    return random_views(plan).draw(count, torch.Generator().manual_seed(seed))


def view(image, **amounts):
    """One image, changed by named amounts."""
    projection = torch.zeros(1, 7)
    for name, value in amounts.items():
        projection[0, globals()[name.upper()]] = value
    return random_views(images=image[None]).views(torch.tensor([0]), torch.tensor([False]), projection)[0]


def test_each_change_happens_with_the_probability_and_is_uniform():
    amounts = drawn(ALL.model_copy(update={"probability": 0.3}))
    done = amounts != 0
    assert torch.equal(done[:, ZOOM], done[:, RIGHT])
    assert torch.equal(done[:, ZOOM], done[:, DOWN])
    apart = done[:, [ZOOM, BRIGHTNESS, CONTRAST, SATURATION, HUE]].double()
    assert apart.mean(0).sub(0.3).abs().max() < 0.03
    assert (torch.corrcoef(apart.T) - torch.eye(5)).abs().max() < 0.06
    for column in range(7):
        values = amounts[done[:, column], column]
        low = 0.0 if column == ZOOM else -1.0
        assert low <= values.min() < low + 0.02
        assert 0.98 < values.max() <= 1
        assert values.mean() == pytest.approx((low + 1) / 2, abs=0.06)


def test_a_change_of_no_size_is_not_told():
    amounts = drawn(RandomChanges(image_size=48, probability=1, hue=0.1), 50)
    assert amounts[:, HUE].all()
    assert not amounts[:, :HUE].any()
    assert torch.equal(amounts, drawn(RandomChanges(image_size=48, probability=1, hue=0.1), 50))


def test_no_change_gives_the_image_and_a_flip_its_mirror_image():
    changer = random_views()
    plain, turned = changer.views(torch.tensor([3, 3]), torch.tensor([False, True]), torch.zeros(2, 7))
    assert np.array_equal(plain, changer.images[3])
    assert np.array_equal(turned, changer.images[3][:, ::-1])


def test_crops_are_where_the_amounts_say():
    image = random_images(1, 48)[0]
    assert np.array_equal(view(image, zoom=1, right=-1, down=1), image[24:, :24])
    assert np.array_equal(view(image, zoom=0.5), image[6:42, 6:42])
    assert view(image, zoom=0.5, right=0.5).shape == (36, 36, 3)
    assert np.array_equal(view(image, zoom=0.5, right=0.5), image[6:42, 9:45])
    # To the right as one sees it: images are mirrored first.
    amounts = torch.zeros(1, 7)
    amounts[0, [ZOOM, RIGHT]] = 0.5
    (turned,) = random_views(images=image[None]).views(torch.tensor([0]), torch.tensor([True]), amounts)
    assert np.array_equal(turned, image[:, ::-1][6:42, 9:45])


def test_hue_is_told_as_a_point_on_the_circle_and_the_rest_as_it_is():
    amounts = torch.rand(6, 7) * 2 - 1
    amounts[:, HUE] = torch.tensor([0.0, 1.0, -1.0, 0.5, -0.5, 0.25])  # of half a turn
    told = random_views().told(amounts)
    assert torch.equal(told[:, :HUE], amounts[:, :HUE])
    half = 0.5**0.5
    expected = torch.tensor([[0, 0], [-2, 0], [-2, 0], [-1, 1], [-1, -1], [half - 1, half]])
    torch.testing.assert_close(told[:, HUE:], expected, rtol=0, atol=1e-6)
    assert not random_views().told(torch.zeros(1, 7)).any()


@pytest.mark.parametrize(("name", "limit"), [("brightness", 0.3), ("contrast", 0.2), ("saturation", 0.4)])
@pytest.mark.parametrize("amount", [-1.0, 0.6])
def test_colours_change_as_torchvision_changes_them(name, limit, amount):
    image = random_images(1, 48)[0]
    change = getattr(reference, f"adjust_{name}")
    expected = change(torch.from_numpy(image).permute(2, 0, 1), 1 + limit * amount).permute(1, 2, 0).numpy()
    changed = view(image, **{name: amount}).astype(int)
    assert np.abs(changed - expected).max() <= 1
    assert np.abs(changed - image).max() > 10


def test_hue_turns_along_the_circle():
    image = random_images(1, 48)[0]
    changed = view(image, hue=-0.5)
    for before, after in zip(image.reshape(-1, 3)[:40] / 255, changed.reshape(-1, 3)[:40] / 255, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb((h - 0.25) % 1, s, v), abs=8 / 255)


def test_a_view_is_represented_as_an_encoder_sees_it():
    changer = random_views()
    views = changer.views(torch.arange(5), torch.arange(5) % 2 == 0, drawn(ALL, 5))
    assert len({view.shape for view in views}) > 1
    encoder = tiny_encoder()
    crops = to_tensor(np.stack([center_crop(view, 32) for view in views]))
    for projection, level in enumerate(("backbone", "projector")):
        torch.testing.assert_close(changer.representations(views, projection), encoder.encode(crops, level))


@pytest.fixture
def trainer(tmp_path):
    large = random_images(9, 48)
    images = np.stack([center_crop(image, 32) for image in large])
    (tmp_path / "r.toml").write_text(TRAIN + AUGMENTATION)
    representations = ComputedRepresentations([EncoderInputs(tiny_encoder(), images, "a")], PROJECTIONS, CPU)

    def make(*overrides):
        recipe = read_recipe(tmp_path / "r.toml", TrainRecipe, overrides)
        changer = RandomViews(recipe.augmentation, large, [tiny_encoder()], PROJECTIONS, CPU)
        return DenoiserTrainer(recipe, images, representations, CPU, "images", random_views=changer)

    return make


def test_changed_images_come_with_their_own_representations_and_others_with_theirs(trainer):
    made = trainer()
    index, flip, projection = (
        torch.tensor([4, 0, 7, 2]),
        torch.tensor([True, False, True, False]),
        torch.tensor([1, 1, 0, 0]),
    )
    amounts = torch.zeros(4, 7)
    amounts[1, BRIGHTNESS] = amounts[2, ZOOM] = 1.0
    images, groups = made._seen(index, flip, projection, amounts)
    assert [r for r, _ in groups] == [1, 0]
    encoder, large = tiny_encoder(), made.random_views.images
    zoomed = large[7][:, ::-1][8:40, 8:40]  # 0.67 of 48 pixels, in the middle of the mirror image
    expected = {
        0: (1, 0, center_crop(large[4], 32)[:, ::-1]),
        1: (1, 1, center_crop(view(large[0], brightness=1), 32)),
        2: (0, 0, center_crop(zoomed, 32)),
        3: (0, 1, center_crop(large[2], 32)),
    }
    for place, (r, project_linf, image) in expected.items():
        assert np.array_equal(images[place], image)
        h = encoder.encode(to_tensor(image[None].copy()), PROJECTIONS[r].level)
        torch.testing.assert_close(dict(groups)[r][project_linf], h[0])


def test_the_denoiser_is_told_of_each_image_what_was_changed(trainer, monkeypatch):
    """In parts too, and of dropped representations as well."""
    made = trainer("optimization.accumulate=3", "uncond_prob=1.0")
    with torch.no_grad():
        made.tell.weight.normal_()
    conds = []
    monkeypatch.setattr(made, "denoiser", lambda x, t, cond: conds.append(cond) or made.model.denoiser(x, t, cond))
    made.train_step(2)
    amounts = made.random_views.draw(6, generator(0, 5, 2))
    assert len(conds) == 3
    assert amounts.any()
    found, expected = torch.cat(conds).detach(), made.random_views.told(amounts) @ made.tell.weight.detach().T
    # The step has moved the weights since.
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert found.norm() > 1


@pytest.mark.parametrize("extra", [[], ["denoiser.learned_variance=true"]])
def test_what_is_told_is_learned_clipped_and_kept_in_checkpoints(trainer, extra):
    made = trainer("optimization.clip=1e-3", *extra)
    start = made.tell.weight.detach().clone()
    for step in range(3):
        made.train_step(step)
    assert not torch.equal(made.tell.weight, start)
    norms = [parameter.grad.norm() for parameter in (*made.model.parameters(), made.tell.weight)]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-3)
    again = trainer("optimization.clip=1e-3", *extra)
    again.restore(Checkpoint(3, {}, {name: tensor.clone() for name, tensor in made.tensors().items()}))
    assert made.train_step(3) == again.train_step(3)
    assert torch.equal(made.tell.weight, again.tell.weight)
    # What is told of changes is no part of what a bundle is made of.
    assert not any("tell" in name for name in made.model.state_dict())


def test_encoders_are_moved_to_where_the_training_is():
    """Nothing else moves them where their representations are in the cache."""
    drift_objective = RandomViews(
        ALL, random_images(5, 48), [tiny_encoder()], PROJECTIONS, torch.device("meta")
    ).encoders["simclr"]
    assert {tensor.device.type for tensor in (*drift_objective.parameters(), *drift_objective.buffers())} == {"meta"}
