"""``distill``: the run, the students as bundles, and the gate."""

import json
import shutil

import numpy as np
import pytest
import torch

from rcdm_cli import distill, load_bundle, tune
from rcdm_cli.analyses.plan import sampling_plan
from rcdm_cli.bundle.manifest import read_manifest, replace_manifest
from rcdm_cli.core.errors import CheckFailed, InputError, Interrupted
from rcdm_cli.core.files import read_tensors
from rcdm_cli.diffusion.noise import initial_noise, sample_seed
from rcdm_cli.diffusion.spec import GuidanceRange, Settings
from rcdm_cli.exporting import quality
from rcdm_cli.training.checkpoint import load_checkpoint
from rcdm_cli.training.recipe import DistillRecipe, Optimization
from rcdm_cli.training.run import read_run
from tests.bundle.tiny import tiny_bundle
from tests.training.tiny import equal_tensors, write_images

RECIPE = DistillRecipe(
    kind="distill",
    start=4,
    substeps=2,
    steps=3,
    save_every=1,
    optimization=Optimization(batch=6, lr=1e-3, clip=1.0, precision="fp32"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    manifest = read_manifest(tiny_bundle(folder / "tiny"))
    replace_manifest(folder / "tiny", manifest.model_copy(update={"defaults": Settings(steps=2, guidance=1.5)}))
    write_images(folder / "images" / "train", {"cat": 4, "dog": 3})
    write_images(folder / "images" / "val", {"cat": 2, "dog": 1})
    return folder


@pytest.fixture(scope="module", autouse=True)
def accepting():
    """Accept every student."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAX_RANK_LOSS", "MAX_FRECHET_RATIO", "MAX_SPREAD_CHANGE"):
            patch.setattr(quality, name, 1e9)
        yield


def run(data, out, steps=2, **options):
    splits = {"split": "train", "validation_split": "val"}
    given = {"recipe": RECIPE, "num_samples": 2, **splits, **options}
    return distill(data / "tiny", data / "images", out, steps=steps, **given)


@pytest.fixture(scope="module")
def distilled(data, tmp_path_factory):
    return run(data, tmp_path_factory.mktemp("distilled") / "run")


def test_students_are_installed_as_bundles_with_their_own_defaults(data, distilled):
    assert (distilled.training.steps, distilled.training.began_at) == (6, 0)
    assert list(distilled.bundles) == [4, 2]
    for steps, folder in distilled.bundles.items():
        bundle, teacher = load_bundle(folder), load_bundle(data / "tiny")
        manifest = bundle.manifest
        assert manifest.name == folder.name == f"tiny-{steps}steps"
        assert (manifest.defaults.sampler, manifest.defaults.steps, manifest.defaults.guidance) == (
            "ddim_angle",
            steps,
            1.0,
        )
        assert (manifest.student.teacher, manifest.student.guidance) == ("tiny", 1.5)
        assert manifest.student.teacher_sha256 == teacher.manifest.model.sha256
        assert (manifest.denoiser.prediction, manifest.denoiser.learned_variance) == ("v", False)
        assert manifest.encoders == teacher.manifest.encoders
        assert manifest.measured["images"] == 3
        assert equal_tensors(bundle.model.conditioning.state_dict(), teacher.model.conditioning.state_dict())
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".students")]


def test_sample_of_a_one_step_student_is_its_prediction_from_the_noise_of_the_seed(data, tmp_path):
    bundle = load_bundle(run(data, tmp_path / "run", steps=1).bundles[1])
    h = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    samples = bundle.sample(h, method="dino", num_samples=1, names=["a", "b"], seed=3)[:, 0]
    noise = initial_noise([sample_seed(3, name, 0) for name in "ab"], (3, 16, 16))
    cond = bundle.condition(h, method="dino")
    v = bundle.model.denoiser(noise, torch.tensor([999, 999]), cond).detach()
    a = bundle.schedule.alphas_cumprod[999]
    x0 = (a**0.5 * noise - (1 - a) ** 0.5 * v).clamp(-1, 1)
    expected = ((x0 + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(samples, expected, atol=1.01)


def test_student_with_guidance_as_an_input_accepts_the_scales_of_its_range(data, tmp_path):
    recipe = RECIPE.model_copy(update={"guidance": GuidanceRange(low=1, high=3), "start": 2})
    with pytest.raises(InputError, match="`guidance` 4 is not in the range of the recipe, 1 to 3"):
        run(data, tmp_path / "run", recipe=recipe, guidance=4.0)
    bundle = load_bundle(run(data, tmp_path / "run", recipe=recipe).bundles[2])
    assert (bundle.manifest.defaults.guidance, bundle.manifest.student.guidance) == (1.5, None)
    assert bundle.calls(bundle.settings(guidance=2)) == 2
    assert sampling_plan(bundle, 1, 5, [bundle.settings(guidance=2)]).network_calls == 10
    with pytest.raises(InputError, match="from 1 to 3, the scales that the student has learned; given 4"):
        bundle.settings(guidance=4)
    with torch.no_grad():
        bundle.model.conditioning.guidance.weight.normal_(std=5)
    h = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    default, same, other = (
        bundle.sample(h, method="dino", num_samples=1, guidance=scale) for scale in (None, 1.5, 3.0)
    )
    assert np.array_equal(default, same)
    assert not np.array_equal(default, other)


def test_settings_of_a_student_are_fixed(distilled):
    bundle = load_bundle(distilled.bundles[2])
    assert bundle.settings("ddim_angle", 2) == bundle.manifest.defaults
    for arguments, words in (
        ({"guidance": 1.0}, "guidance scale 1.5 of its teacher tiny"),
        ({"steps": 4}, "`steps` 2 only; given 4"),
        ({"sampler": "dpmpp"}, "`sampler` ddim_angle only"),
    ):
        with pytest.raises(InputError, match=words):
            bundle.settings(**arguments)
    with pytest.raises(InputError, match=r"student with 2 steps.*Tune its teacher tiny"):
        tune(bundle, [np.zeros((8, 8, 3), np.uint8)] * 2)


def test_student_and_run_are_no_teacher_and_no_training_run(data, distilled, tmp_path):
    with pytest.raises(InputError, match=r"is a student.*teacher tiny"):
        distill(distilled.bundles[2], data / "images", tmp_path / "again", recipe=RECIPE, steps=2)
    with pytest.raises(InputError, match="not a checkpoint of an `rcdm train` run"):
        read_run(distilled.training.checkpoint.parent)


@pytest.mark.parametrize("stop_at", [2, 3, 4])
def test_interrupted_run_resumes_to_the_same_students(data, distilled, tmp_path, stop_at):
    """Step 3 is the last step of the first student."""
    out = tmp_path / "interrupted"
    shutil.copytree(distilled.training.checkpoint.parent, out)
    for name in ("checkpoint.safetensors", "log.jsonl"):
        (out / name).unlink()
    shutil.rmtree(out / "students")
    with pytest.raises(Interrupted):
        run(data, out, stop=lambda: steps_done(out) >= stop_at)
    again = run(data, out)
    assert again.training.began_at == stop_at
    for steps in (4, 2):
        assert equal_tensors(
            *(read_tensors(each.bundles[steps] / "denoiser.safetensors") for each in (again, distilled))
        )


def steps_done(out):
    """Return the steps of the checkpoint in ``out``, plus the step that is not yet saved."""
    path = out / "checkpoint.safetensors"
    return load_checkpoint(path).step + 1 if path.is_file() else 0


def test_finished_run_continues_with_fewer_steps_and_keeps_installed_students(data, distilled, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(distilled.training.checkpoint.parent, out)
    marker = out / "tiny-4steps" / "graph.onnx"
    marker.touch()
    further = run(data, out, steps=1)
    assert (further.training.began_at, further.training.steps) == (6, 9)
    assert list(further.bundles) == [4, 2, 1]
    assert marker.exists()


def test_rejected_student_is_not_installed(data, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "MAX_SPREAD_CHANGE", -1.0)
    notes = []
    with pytest.raises(CheckFailed, match=r"student with `steps` 2 is rejected\. .* and -100%\..*another `out` folder"):
        run(data, tmp_path / "run", on_note=notes.append)
    for note, steps in zip(notes[-2:], (4, 2), strict=True):
        assert f"samples at {steps} steps lose" in note
        assert "spread changes by" in note
        assert note.endswith("dB. This student is not installed.")
    assert not list((tmp_path / "run").glob("tiny-*"))
    measured = json.loads((tmp_path / "run" / "students.json").read_text())
    assert {steps: found["accepted"] for steps, found in measured.items()} == {"4": False, "2": False}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 3}, "`steps` must be one of 4, 2, 1"),
        ({"num_samples": 1}, "at least 2"),
        ({"split": None}, "also training images"),
        ({"overrides": ["start=0"]}, "start: .* equal to 1, given 0"),
    ],
)
def test_wrong_arguments_raise_before_files_are_written(data, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        run(data, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
