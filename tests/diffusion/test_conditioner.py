import pytest
import torch
import torch.nn.functional as F

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.conditioning import Conditioner, drop
from rcdm_cli.diffusion.published import split_state
from rcdm_cli.diffusion.spec import ConditionerSpec, Representation


@pytest.fixture
def conditioner():
    torch.manual_seed(0)
    rows = (
        Representation(method="dino", level="backbone", width=6),
        Representation(method="dino", level="projector", width=4),
    )
    return Conditioner(ConditionerSpec(rows=rows, width=8))


def test_a_row_is_linear_in_standardised_h(conditioner):
    h = torch.randn(5, 6)
    row = conditioner.rows[0]
    torch.testing.assert_close(conditioner(h, 0), F.linear(h, row.weight, row.bias), rtol=0, atol=0)

    conditioner.standardise(0, h.mean(0), h.std(0))
    expected = F.linear((h - h.mean(0)) / h.std(0), row.weight, row.bias)
    torch.testing.assert_close(conditioner(h, 0), expected)


def test_a_feature_that_never_varies_is_not_divided(conditioner):
    conditioner.standardise(1, torch.ones(4), torch.zeros(4))
    row = conditioner.rows[1]
    torch.testing.assert_close(
        conditioner(3 * torch.ones(1, 4), 1), F.linear(2 * torch.ones(1, 4), row.weight, row.bias)
    )


def test_statistics_travel_with_the_weights(conditioner):
    conditioner.standardise(0, torch.arange(6.0), torch.arange(1.0, 7.0))
    other = Conditioner(conditioner.spec)
    other.load_state_dict(conditioner.state_dict())
    h = torch.randn(2, 6)
    torch.testing.assert_close(other(h, 0), conditioner(h, 0), rtol=0, atol=0)
    assert {"rows.1.weight", "rows.1.bias", "rows.1.mean", "rows.1.scale"} <= set(conditioner.state_dict())


def test_statistics_that_do_not_fit_are_refused(conditioner):
    with pytest.raises(InputError, match=r"mean of row 0 must be 6 finite numbers; given shape \(4,\)"):
        conditioner.standardise(0, torch.zeros(4), torch.ones(6))
    with pytest.raises(InputError, match="std of row 0 must be 6 finite numbers"):
        conditioner.standardise(0, torch.zeros(6), torch.full((6,), float("nan")))


def test_a_mixed_batch_equals_its_groups(conditioner):
    groups = [(1, torch.randn(3, 4)), (0, torch.randn(2, 6))]
    cond = conditioner.mixed(groups)
    assert cond.shape == (5, 8)
    torch.testing.assert_close(cond[:3], conditioner(groups[0][1], 1))
    torch.testing.assert_close(cond[3:], conditioner(groups[1][1], 0))


def test_unconditional_is_zeros(conditioner):
    assert torch.equal(conditioner.unconditional(3), torch.zeros(3, 8))


def test_drop_zeroes_whole_rows_and_leaves_the_others():
    cond = torch.randn(3, 8)
    assert torch.equal(drop(cond, torch.tensor([False, True, False])), torch.stack([cond[0], torch.zeros(8), cond[2]]))


def test_a_state_without_ssl_emb_is_refused():
    with pytest.raises(InputError, match="no RCDM checkpoint"):
        split_state({"time_embed.0.weight": torch.zeros(1)})
