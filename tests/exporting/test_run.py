"""``export`` as a Python function. tests/cli/test_export.py covers complete exports."""

import pytest

from rcdm_cli.core.errors import InputError
from rcdm_cli.exporting.run import export
from tests.bundle.tiny import tiny_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_batch": 0}, "`max_batch` .* given 0"),
        ({"precisions": ["fp61"]}, "Unknown precision 'fp61'"),
        ({"precisions": ["fp32"], "calibration": "images"}, "`calibration` is used for 8-bit graphs only"),
        ({"precisions": ["int8"], "split": "val"}, "`split` selects images of `calibration`"),
        ({"precisions": ["int8"]}, "int8 needs images"),
        ({"out": "somewhere"}, "not the folder of an `rcdm train` run|no checkpoint"),
    ],
)
def test_invalid_arguments_are_rejected_before_any_work(folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if "out" in arguments:
        arguments = {"out": tmp_path / arguments["out"]}
    with pytest.raises(InputError, match=message):
        export(folder, **arguments)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not list(tmp_path.iterdir())


def test_folder_that_is_neither_bundle_nor_run_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"is not a bundle.* set `out`"):
        export(tmp_path)


def test_bundle_is_not_overwritten_by_a_run_without_force(folder, tmp_path):
    with pytest.raises(InputError, match="already contains a bundle"):
        export(tmp_path, out=folder)


def test_export_without_graphs_returns_the_manifest(folder):
    result = export(folder, onnx=False)
    assert (result.manifest.name, result.written, result.worst_relative_error) == ("tiny", [], None)
