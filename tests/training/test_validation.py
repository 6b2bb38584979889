"""The loss on images that are not trained on: its value in closed form, and that it compares."""

import numpy as np
import pytest
import torch

from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.schedule import Schedule
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, Representation, ScheduleSpec
from rcdm_cli.training.validation import DRAWS, EvalSet
from tests.training.tiny import random_images

CPU = torch.device("cpu")
PROJECTIONS = tuple(Representation(method=method, level="backbone", width=4) for method in ("dino", "simclr", "vicreg"))
SCHEDULE = Schedule(ScheduleSpec())


class Drawn:
    """Representations that are the image's number, and a list of what was asked for."""

    projections = PROJECTIONS

    def __init__(self):
        self.asked = []

    def take(self, projection, index, flip):
        assert not flip.any()
        self.asked += [(projection, int(image)) for image in index]
        return index[:, None].expand(-1, 4).float()


def model(prediction):
    torch.manual_seed(0)
    spec = DenoiserSpec(size=8, channels=32, channel_mult=(1,), num_res_blocks=1, attention=(), prediction=prediction)
    return Model(spec, ConditioningSpec(projections=PROJECTIONS, width=spec.cond_width)).eval()


def test_a_network_that_says_nothing_is_off_by_what_it_should_say():
    # Fresh networks end in zeros. eps has variance 1; v = sqrt(a) eps - sqrt(1 - a) x0, so v^2 is a + (1 - a) x0^2.
    images = random_images(40, 8)
    held = EvalSet(images, Drawn())
    square = float(((images / 127.5 - 1) ** 2).mean())
    a = float(np.mean(SCHEDULE.alphas_cumprod))
    assert held.loss(model("eps"), SCHEDULE, "fp32", CPU) == pytest.approx(1, abs=0.01)
    assert held.loss(model("v"), SCHEDULE, "fp32", CPU) == pytest.approx(a + (1 - a) * square, abs=0.01)


@pytest.mark.parametrize("count", [1, 40, DRAWS + 100])
def test_images_and_representations_have_equal_shares(count):
    drawn = Drawn()
    EvalSet(np.broadcast_to(random_images(1, 8), (count, 8, 8, 3)), drawn).loss(model("eps"), SCHEDULE, "fp32", CPU)
    projections, images = (np.bincount([one[k] for one in drawn.asked]) for k in (0, 1))
    assert len(drawn.asked) == DRAWS
    assert projections.max() - projections.min() <= DRAWS // 64
    used = images[images > 0]
    assert len(used) == min(count, DRAWS)
    assert used.max() - used.min() <= (1 if count > 1 else 0)
    assert len(images) >= count - 1


def test_the_same_weights_have_the_same_loss_and_others_another():
    held, network = EvalSet(random_images(10, 8), Drawn()), model("v")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    first = held.loss(network, SCHEDULE, "fp32", CPU)
    assert held.loss(network, SCHEDULE, "fp32", CPU) == first
    with torch.no_grad():
        network.conditioning.projections[1].bias.add_(1)
    assert held.loss(network, SCHEDULE, "fp32", CPU) != first
