"""Paths and values that are refused before any work, names beside folders of the same name, and narrow encodings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rcdm_cli.cli._options import EncoderReference, Out, Source
from rcdm_cli.cli.app import COMMANDS
from rcdm_cli.core.resources import bundle_path, recipe_path
from rcdm_cli.encoders.reference import parse_reference
from rcdm_cli.exporting.run import _bundle_to_compile
from tests.bundle.tiny import tiny_bundle
from tests.cli.conftest import ROOT, start
from tests.cli.test_app import CLICK_COMMANDS, MEASURE
from tests.training.tiny import TRAIN, write_images

NARROW = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("home", ["~/x", "~"])
def test_home_folder_is_expanded_in_every_path(invoke_function, workplace, monkeypatch, home):
    monkeypatch.setenv("HOME", str(workplace / "home"))
    (workplace / "home" / "x").mkdir(parents=True)
    (workplace / "home" / "x" / "e.pth").touch()
    found = {}

    def run(output, data: Source, others: list[Path], out: Out = Path("y"), encoder: EncoderReference = None):
        found.update(data=data, others=others, folder=out, encoder=encoder)

    done = invoke_function(run, home, home, "a/~/b", f"--out={home}", "--encoder=~/x/e.pth,size=32")
    assert done.exit_code == 0, done.output
    expected = Path(home.replace("~", str(workplace / "home")))
    encoder = f"{workplace}/home/x/e.pth,size=32"
    assert found == {"data": expected, "others": [expected, Path("a/~/b")], "folder": expected, "encoder": encoder}
    assert parse_reference("a.pth,head=~/x/head.pth").head == f"{workplace}/home/x/head.pth"


FOLDER_OUT = ("visualize", "evaluate", "probe", "interpolate", "manipulate", "invariance", "fgsm", "pretrain", "train",
              "export", "import", "pull", "tune")  # fmt: skip
ARGUMENTS = {
    "visualize": ["images"],
    "evaluate": ["images"],
    "probe": ["images"],
    "interpolate": ["images", "images"],
    "manipulate": ["images", "images", "--neighbours", "images"],
    "invariance": ["images"],
    "fgsm": ["images"],
    "pretrain": ["images", "--recipe", "clothing32-encoders", "--method", "dino"],
    "train": ["images", "--recipe", "clothing32"],
    "export": ["run"],
    "import": ["images", "--method", "dino"],
    "pull": ["dino"],
    "tune": ["clothing32", "images"],
    "embed": ["images"],
    "report": ["images"],
}


@pytest.mark.parametrize("name", FOLDER_OUT)
def test_existing_file_as_out_is_refused_before_any_work(invoke, workplace, name):
    (workplace / "images").mkdir()
    (workplace / "file").write_text("important")
    done = invoke(name, *ARGUMENTS[name], "--out", "file")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "file is a file" in done.stderr
    assert "--out" in done.stderr
    assert (workplace / "file").read_text() == "important"


@pytest.mark.parametrize("name", ["embed", "report"])
def test_folder_as_output_file_is_refused_before_any_work(invoke, workplace, name):
    (workplace / "images").mkdir()
    done = invoke(name, *ARGUMENTS[name], "--out", "images")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "images is a folder" in done.stderr


def test_every_command_with_out_checks_the_path():
    with_out = {name for name, made in CLICK_COMMANDS.items() if any("--out" in one.opts for one in made.params)}
    assert with_out == {*FOLDER_OUT, "autoencoder", "distill", "embed", "merge", "report"}


WRONG = {
    "missing data": ["train", "nowhere", "--recipe", "clothing32"],
    "recipe that does not validate": ["train", "images", "--recipe", "wrong.toml"],
    "missing recipe": ["pretrain", "images", "--recipe", "nothing", "--method", "dino"],
    "value of the recipe": ["train", "images", "--recipe", "clothing32", "--set", "steps=none"],
    "method of the recipe": ["pretrain", "images", "--recipe", "clothing32-encoders", "--method", "dinosaur"],
    "option of an encoder": ["train", "images", "--recipe", "clothing32", "--encoder", "a.pth,pool=none"],
    "missing encoder": ["embed", "images", "--encoder", "nowhere.pth", "-o", "a.npz"],
    "missing bundle": ["visualize", "images", "--bundle", "nowhere"],
    "missing bundle to time": ["bench", "nowhere"],
    "missing bundle to export": ["export", "nowhere"],
    "missing images": ["visualize", "nowhere"],
    "missing initial weights": ["train", "images", "--recipe", "clothing32", "--encoder", "images", "--init", "no"],
    "suffix of the file": ["embed", "images", "-o", "a.txt"],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_value_is_refused_before_the_import_of_pytorch(workplace, wrong):
    write_images(workplace / "images", {"cat": 1})
    (workplace / "wrong.toml").write_text(TRAIN.replace("steps = 10", "steps = 0"))
    process = start(MEASURE.format(arguments=WRONG[wrong]), cwd=workplace)
    stdout, stderr = process.communicate(timeout=60)
    message, facts = stderr.strip().rsplit("\n", 1)
    facts = json.loads(facts)
    assert (facts["code"], stdout) == (2, "")
    assert message.startswith("Error: ")
    assert "torch" not in facts["modules"]


@pytest.mark.parametrize("name", ["probe", "tune"])
def test_several_processes_are_refused_by_commands_without_support(invoke, workplace, monkeypatch, name):
    (workplace / "images").mkdir()
    for variable, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(variable, value)
    done = invoke(name, *ARGUMENTS[name], "--out", "new")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "torchrun started 2" in done.stderr
    monkeypatch.setenv("RANK", "1")
    done = invoke(name, *ARGUMENTS[name], "--out", "new")
    assert (done.exit_code, done.output) == (2, "")


def test_name_beside_a_folder_of_the_same_name_is_the_bundle_or_recipe(invoke, workplace):
    (workplace / "clothing32").mkdir()
    (workplace / "own64").write_text("my notes")
    installed = ROOT / "engines" / "clothing32"
    assert bundle_path("clothing32") == installed
    assert _bundle_to_compile("clothing32", print) == installed
    assert json.loads(invoke("info", "clothing32", "--json").stdout)["kind"] == "bundle"
    assert recipe_path("own64") == ROOT / "recipes" / "own64.toml"
    assert json.loads(invoke("info", "own64", "--json").stdout)["kind"] == "recipe"
    # A path with a separator is that folder.
    for arguments in (["export", "./clothing32"], ["info", "./clothing32"], ["bench", "clothing32/"]):
        done = invoke(*arguments)
        assert (done.exit_code, "is not a bundle" in done.stderr) == (2, True)


@pytest.mark.parametrize("env", NARROW, ids=str)
def test_help_of_every_command_is_printed_in_any_encoding(env):
    code = """
import sys
from rcdm_cli.cli.app import COMMANDS, main
for arguments in ([], ["--help"], ["list"], *([command.name, "--help"] for command in COMMANDS)):
    sys.argv = ["rcdm", *arguments]
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, None, 2), (arguments, end.code)
"""
    process = start(code, env, encoding="cp1252", cwd=ROOT)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.count("Usage: ") >= len(COMMANDS)


@pytest.mark.parametrize("env", NARROW, ids=str)
def test_result_with_any_path_is_printed_in_any_encoding(tmp_path, env):
    folder = tiny_bundle(tmp_path / "한국 é − bundle")
    environment = {**{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}, **env}
    command = [sys.executable, "-m", "rcdm_cli", "info"]
    done = subprocess.run([*command, folder], env=environment, cwd=ROOT, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    printed = done.stdout.split(b"\n")[0].removeprefix(b"bundle: ")
    escaped = str(folder).replace("−", "-").encode(env.get("PYTHONIOENCODING", "ascii"), "backslashreplace")
    # In the C locale, the path is bytes, which are printed unchanged.
    assert printed in (escaped, os.fsencode(folder))
    done = subprocess.run([*command, folder / "없음"], env=environment, cwd=ROOT, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"Error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "images", "--recipe", "clothing32"),
        ("pretrain", "images", "--recipe", "clothing32-encoders", "--method", "dino"),
        ("autoencoder", "images", "--recipe", "clothing64-autoencoder"),
        ("distill", "clothing32", "images"),
    ],
)
def test_logger_without_its_package_is_refused_before_any_work(invoke, workplace, monkeypatch, arguments):
    monkeypatch.setattr("rcdm_cli.training.loggers.find_spec", lambda name: None)
    (workplace / "images").mkdir(exist_ok=True)
    done = invoke(*arguments, "--out", "logged", "--log", "wandb")
    assert done.exit_code == 2
    assert "--log wandb needs wandb" in " ".join(done.stderr.split())
    assert "rcdm[wandb]" in done.stderr
    assert not (workplace / "logged").exists()
