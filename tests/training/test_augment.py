"""Random changes to training photos: what is drawn, what is done, and what the denoiser is told of it."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.images.crop import center_crop
from rcdm_cli.images.tensor import to_tensor
from rcdm_cli.training.augment import Augmenter
from rcdm_cli.training.checkpoint import Checkpoint
from rcdm_cli.training.denoise import DenoiserTrainer
from rcdm_cli.training.recipe import Augmentation, TrainRecipe, read_recipe
from rcdm_cli.training.representations import ComputedRepresentations, EncoderPhotos
from tests.training.tiny import AUGMENTATION, TRAIN, random_photos, tiny_encoder

CPU = torch.device("cpu")
ROWS = tuple(
    Representation(method="simclr", level=level, width=width) for level, width in (("backbone", 16), ("projector", 12))
)
ALL = Augmentation(photo_size=48, probability=1, crop=0.5, brightness=0.3, contrast=0.2, saturation=0.4, hue=0.5)
ZOOM, RIGHT, DOWN, BRIGHTNESS, CONTRAST, SATURATION, HUE = range(7)


def augmenter(plan=ALL, photos=None):
    photos = random_photos(5, 48) if photos is None else photos
    return Augmenter(plan, photos, [tiny_encoder()], ROWS, CPU)


def drawn(plan, count=4000, seed=0):
    return augmenter(plan).draw(count, torch.Generator().manual_seed(seed))


def view(photo, **amounts):
    """One photo, changed by named amounts."""
    row = torch.zeros(1, 7)
    for name, value in amounts.items():
        row[0, globals()[name.upper()]] = value
    return augmenter(photos=photo[None]).views(torch.tensor([0]), torch.tensor([False]), row)[0]


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
    amounts = drawn(Augmentation(photo_size=48, probability=1, hue=0.1), 50)
    assert amounts[:, HUE].all()
    assert not amounts[:, :HUE].any()
    assert torch.equal(amounts, drawn(Augmentation(photo_size=48, probability=1, hue=0.1), 50))


def test_no_change_gives_the_photo_and_a_flip_its_mirror_image():
    changer = augmenter()
    plain, turned = changer.views(torch.tensor([3, 3]), torch.tensor([False, True]), torch.zeros(2, 7))
    assert np.array_equal(plain, changer.photos[3])
    assert np.array_equal(turned, changer.photos[3][:, ::-1])


def test_crops_are_where_the_amounts_say():
    photo = random_photos(1, 48)[0]
    assert np.array_equal(view(photo, zoom=1, right=-1, down=1), photo[24:, :24])
    assert np.array_equal(view(photo, zoom=0.5), photo[6:42, 6:42])
    assert view(photo, zoom=0.5, right=0.5).shape == (36, 36, 3)
    assert np.array_equal(view(photo, zoom=0.5, right=0.5), photo[6:42, 9:45])


@pytest.mark.parametrize(
    ("name", "enhancer", "limit"),
    [
        ("brightness", ImageEnhance.Brightness, 0.3),
        ("contrast", ImageEnhance.Contrast, 0.2),
        ("saturation", ImageEnhance.Color, 0.4),
    ],
)
@pytest.mark.parametrize("amount", [-1.0, 0.6])
def test_colours_change_as_pillow_changes_them(name, enhancer, limit, amount):
    photo = random_photos(1, 48)[0]
    expected = np.asarray(enhancer(Image.fromarray(photo)).enhance(1 + limit * amount)).astype(int)
    changed = view(photo, **{name: amount}).astype(int)
    assert np.abs(changed - expected).max() <= 1
    assert np.abs(changed - photo).max() > 10


def test_hue_turns_along_the_circle():
    photo = random_photos(1, 48)[0]
    changed = view(photo, hue=-0.5)
    for before, after in zip(photo.reshape(-1, 3)[:40] / 255, changed.reshape(-1, 3)[:40] / 255, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb((h - 0.25) % 1, s, v), abs=3 / 255)


def test_a_view_is_represented_as_an_encoder_sees_it():
    changer = augmenter()
    views = changer.views(torch.arange(5), torch.arange(5) % 2 == 0, drawn(ALL, 5))
    assert len({view.shape for view in views}) > 1
    encoder = tiny_encoder()
    crops = to_tensor(np.stack([center_crop(view, 32) for view in views]))
    for row, level in enumerate(("backbone", "projector")):
        torch.testing.assert_close(changer.representations(views, row), encoder.encode(crops, level))


@pytest.fixture
def trainer(tmp_path):
    large = random_photos(9, 48)
    photos = np.stack([center_crop(photo, 32) for photo in large])
    (tmp_path / "r.toml").write_text(TRAIN + AUGMENTATION)
    recipe = read_recipe(tmp_path / "r.toml", TrainRecipe)
    representations = ComputedRepresentations([EncoderPhotos(tiny_encoder(), photos, "a")], ROWS, CPU)
    changer = Augmenter(recipe.augmentation, large, [tiny_encoder()], ROWS, CPU)
    return lambda: DenoiserTrainer(recipe, photos, representations, CPU, "photos", augmenter=changer)


def test_changed_photos_come_with_their_own_representations_and_others_with_theirs(trainer):
    made = trainer()
    index, flip, row = torch.tensor([4, 0, 7, 2]), torch.tensor([True, False, True, False]), torch.tensor([1, 1, 0, 0])
    amounts = torch.zeros(4, 7)
    amounts[1, BRIGHTNESS] = amounts[2, ZOOM] = 1.0
    photos, groups = made._seen(index, flip, row, amounts)
    assert [r for r, _ in groups] == [1, 0]
    encoder, large = tiny_encoder(), made.augmenter.photos
    zoomed = large[7][10:39, 10:39][:, ::-1]  # 0.6 of 48 pixels, in the middle, mirrored
    expected = {
        0: (1, 0, center_crop(large[4], 32)[:, ::-1]),
        1: (1, 1, center_crop(view(large[0], brightness=1), 32)),
        2: (0, 0, center_crop(zoomed, 32)),
        3: (0, 1, center_crop(large[2], 32)),
    }
    for place, (r, within, photo) in expected.items():
        assert np.array_equal(photos[place], photo)
        h = encoder.encode(to_tensor(photo[None].copy()), ROWS[r].level)
        torch.testing.assert_close(dict(groups)[r][within], h[0])


def test_the_denoiser_is_told_and_a_checkpoint_keeps_how(trainer):
    made = trainer()
    start = made.told.weight.clone()
    for step in range(3):
        made.train_step(step)
    assert not torch.equal(made.told.weight, start)
    again = trainer()
    again.restore(Checkpoint(3, {}, {name: tensor.clone() for name, tensor in made.tensors().items()}))
    assert made.train_step(3) == again.train_step(3)
    assert torch.equal(made.told.weight, again.told.weight)
    # What is told of changes is no part of what a bundle is made of.
    assert not any("told" in name for name in made.model.state_dict())
