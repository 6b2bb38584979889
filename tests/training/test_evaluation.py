"""Evaluation loss: closed form, equal weights of images and representations, and repeatability."""

import numpy as np
import pytest
import torch
from PIL import Image

from rcdm_cli.data.image_grid import draw_grid
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, Representation, ScheduleSpec
from rcdm_cli.training import evaluation
from rcdm_cli.training.evaluation import NUM_DRAWS, EvalSet
from tests.training.tiny import random_images

CPU = torch.device("cpu")
PROJECTIONS = tuple(Representation(method=method, level="backbone", width=4) for method in ("dino", "simclr", "vicreg"))
SCHEDULE = Schedule(ScheduleSpec())


class IndexRepresentations:
    """Representations equal to the image index. Records the calls of ``take``."""

    projections = PROJECTIONS

    def __init__(self):
        self.calls = []

    def take(self, projection, index, flip):
        assert not flip.any()
        self.calls += [(projection, int(image)) for image in index]
        return index[:, None].expand(-1, 4).float()


def model(prediction):
    torch.manual_seed(0)
    spec = DenoiserSpec(size=8, channels=32, channel_mult=(1,), num_res_blocks=1, attention=(), prediction=prediction)
    return Model(spec, ConditioningSpec(projections=PROJECTIONS, width=spec.cond_width)).eval()


def test_loss_of_a_zero_prediction_equals_the_mean_square_of_the_target():
    # A new network predicts zeros. eps has variance 1; v = sqrt(a) eps - sqrt(1 - a) x0, so v^2 is a + (1 - a) x0^2.
    images = random_images(40, 8)
    eval_set = EvalSet(images, IndexRepresentations(), CPU)
    square = float(((images / 127.5 - 1) ** 2).mean())
    a = float(np.mean(SCHEDULE.alphas_cumprod))
    assert eval_set.loss(model("eps"), SCHEDULE, "fp32") == pytest.approx(1, abs=0.01)
    assert eval_set.loss(model("v"), SCHEDULE, "fp32") == pytest.approx(a + (1 - a) * square, abs=0.01)


@pytest.mark.parametrize("count", [1, 40, NUM_DRAWS + 100])
def test_images_and_representations_are_drawn_equally_often(count):
    drawn = IndexRepresentations()
    EvalSet(np.broadcast_to(random_images(1, 8), (count, 8, 8, 3)), drawn, CPU).loss(model("eps"), SCHEDULE, "fp32")
    projections, images = (np.bincount([entry[k] for entry in drawn.calls]) for k in (0, 1))
    assert len(drawn.calls) == NUM_DRAWS
    assert projections.max() - projections.min() <= NUM_DRAWS // 64
    used = images[images > 0]
    assert len(used) == min(count, NUM_DRAWS)
    assert used.max() - used.min() <= (1 if count > 1 else 0)
    assert len(images) >= count - 1


def test_loss_is_repeatable_and_depends_on_the_weights():
    eval_set, network = EvalSet(random_images(10, 8), IndexRepresentations(), CPU), model("v")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    first = eval_set.loss(network, SCHEDULE, "fp32")
    assert eval_set.loss(network, SCHEDULE, "fp32") == first
    with torch.no_grad():
        network.conditioning.projections[1].bias.add_(1)
    assert eval_set.loss(network, SCHEDULE, "fp32") != first


def test_sample_grid_has_one_row_per_image_and_one_column_per_representation(tmp_path, monkeypatch):
    grids = []
    monkeypatch.setattr(evaluation, "draw_grid", lambda grid: grids.append(grid) or draw_grid(grid))
    images = random_images(20, 8)
    path = tmp_path / "samples" / "grid.png"
    EvalSet(images, IndexRepresentations(), CPU).write_sample_grid(model("v"), SCHEDULE, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
    [grid] = grids
    assert [group.label for group in grid.groups] == ["image", "dino\nbackbone", "simclr\nbackbone", "vicreg\nbackbone"]
    assert len(grid.rows) == 8
    assert {len(row.images) for row in grid.rows} == {4}
    assert np.array_equal(grid.rows[0].images[0], images[0])
    assert np.array_equal(grid.rows[-1].images[0], images[19])
