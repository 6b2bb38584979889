"""Every layout of the matrix: the representation equals the original network, or the file is refused."""

import pytest
import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.open import open_encoder
from tests.encoders.matrix import CASES
from tools.make_encoder_table import PAGE, with_table


def draw_images(size):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def standardised(images, scaling):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in scaling)
    return ((images + 1) / 2 - mean) / std


def assert_equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    # The representation depends on the image.
    assert float((theirs[0] - theirs[1]).abs().max()) > 0.001 * float(theirs.abs().max())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_representation_equals_the_original_network(case, tmp_path):
    checkpoint = case.make()
    size = f",size={case.size}" if case.size else ""
    target = case.save(checkpoint.content, tmp_path)
    if case.refused:
        with pytest.raises(InputError) as caught:
            open_encoder(f"{target}{size}")
        assert [word for word in case.refused if word not in str(caught.value)] == [], str(caught.value)
        if not case.options:
            return
    encoder = open_encoder(f"{target}{size}" + (f",{case.options}" if case.options else ""))
    preprocessing = encoder.spec.preprocessing
    torch.testing.assert_close((preprocessing.mean, preprocessing.std), case.scaling)
    images = draw_images(preprocessing.size)
    originals = [forward for forward in (checkpoint.backbone, checkpoint.projector) if forward]
    outputs = encoder(images)
    assert len(encoder.spec.levels) == len(outputs) == len(originals) == 1 + bool(case.projector)
    with torch.no_grad():
        pixels = standardised(images, case.scaling)
        for ours, original in zip(outputs, originals, strict=True):
            assert_equal(ours, original(pixels))


def test_names_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_table_of_the_page_is_up_to_date():
    text = PAGE.read_text(encoding="utf-8")
    assert with_table(text, CASES) == text, "run `make docs`"
