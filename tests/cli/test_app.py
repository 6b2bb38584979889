"""Tests of the program as a whole: help, version, examples, start-up time and completion."""

import json
import shlex

import pytest
import typer
from typer.testing import CliRunner

import rcdm_cli
from rcdm_cli.cli.app import COMMANDS, app
from tests.cli.conftest import start

CLICK_COMMANDS = typer.main.get_command(app).commands

MODEL_LIBRARIES = {"torch", "timm", "numpy", "PIL", "onnx", "openvino", "safetensors"}

MEASURE = """
import json, sys, time
sys.argv = ["rcdm", *{arguments!r}]
from rcdm_cli.cli.app import main
try:
    main()
except SystemExit as end:
    facts = {{"code": end.code, "cpu": time.process_time(), "modules": list(sys.modules)}}
    print(json.dumps(facts), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"], ["--version"]])
def test_help_is_fast_and_imports_no_model_library(arguments):
    best = 1e9
    for _ in range(3):
        stdout, stderr = start(MEASURE.format(arguments=arguments)).communicate(timeout=60)
        facts = json.loads(stderr)
        assert facts["code"] in (0, None)
        assert "rcdm" in stdout
        assert not MODEL_LIBRARIES & set(facts["modules"])
        best = min(best, facts["cpu"])
    assert best < 0.5, f"{best:.2f} s of CPU time"


def test_version_option_prints_the_version(invoke):
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"rcdm {rcdm_cli.__version__}\n")


def test_help_lists_every_command(invoke):
    text = invoke("--help").stdout
    for command in COMMANDS:
        assert command.name in text


def test_no_command_prints_help_and_exits_2(invoke):
    result = invoke()
    assert result.exit_code == 2
    assert "Usage: rcdm" in result.output


def test_misspelt_command_exits_2_and_suggests_the_nearest(invoke):
    result = invoke("docter")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "doctor" in result.stderr


def test_misspelt_option_exits_2_and_suggests_the_nearest(invoke):
    result = invoke("doctor", "--devise", "cpu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--device" in result.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_examples_of_every_command_parse(command, invoke):
    text = invoke(command.name, "--help").stdout
    assert command.help.examples
    for example in command.help.examples:
        prompt, program, name, *arguments = shlex.split(example)
        assert (prompt, program, name) == ("$", "rcdm", command.name)
        # Parses and checks every option without running the command.
        CLICK_COMMANDS[name].make_context(name, arguments)
    assert f"rcdm {command.name}" in text.split("Examples")[1]


# Options with one meaning whose help text names the subject of the command.
HELP_DIFFERS = {
    "--backend",
    "--batch",
    "--encoder",
    "--guidance",
    "--out",
    "--precision",
    "--dry-run",
    "--limit",
    "--samples",
    "--sampler",
    "--examples",
    "--split",
    "--steps",
    "--validation-split",
    "--workers",
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_has_a_help_and_every_documented_name_is_an_option(command):
    parameters = [item for item in CLICK_COMMANDS[command.name].params if item.name != "help"]
    assert [item.name for item in parameters if not item.help] == []
    assert set(command.help.arguments) <= {item.name for item in parameters}


def test_option_has_the_same_help_in_every_command():
    helps: dict[str, set[str]] = {}
    for command in CLICK_COMMANDS.values():
        for item in command.params:
            if item.param_type_name == "option":
                helps.setdefault(item.opts[0], set()).add(item.help)
    assert {name for name, texts in helps.items() if len(texts) > 1} <= HELP_DIFFERS
    assert "--json" in helps


def completion_environment(shell: str, line: str) -> dict[str, str]:
    """Return the environment in which ``shell`` asks for the completions of ``line``."""
    return {
        "_RCDM_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }


def complete(shell: str, line: str) -> str:
    return CliRunner().invoke(app, env=completion_environment(shell, line), prog_name="rcdm").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "expected", "unexpected"),
    [
        ("rcdm visualize --method d", ["dino"], ["simclr"]),
        ("rcdm visualize --method dino,s", ["dino,simclr", "dino,supervised"], ["vicreg"]),
        ("rcdm visualize --level ", ["backbone", "projector", "both"], []),
        ("rcdm visualize --bundle ", ["mine"], ["broken"]),
        ("rcdm visualize --backend o", ["onnxruntime", "openvino"], ["torch"]),
        ("rcdm visualize --sampler dd", ["ddpm", "ddim"], ["dpmpp"]),
        ("rcdm train data --recipe own", ["own64"], ["clothing32"]),
        ("rcdm list b", ["bundles"], ["recipes"]),
        ("rcdm vis", ["visualize"], ["evaluate"]),
    ],
)
def test_shell_completion_offers_values(workplace, shell, line, expected, unexpected):
    for name in ("mine", "broken"):
        (workplace / "engines" / name).mkdir(parents=True)
    (workplace / "engines" / "mine" / "manifest.json").write_text("{}")
    printed = complete(shell, line)
    for value in expected:
        assert value in printed
    for value in unexpected:
        assert value not in printed


def test_completion_of_methods_includes_methods_of_bundles(workplace):
    (workplace / "engines" / "mine").mkdir(parents=True)
    (workplace / "engines" / "mine" / "manifest.json").write_text('{"encoders": {"my_method": {}}}')
    assert complete("bash", "rcdm visualize --method my").split() == ["my_method"]


def test_completion_is_fast_and_imports_no_model_library():
    environment = completion_environment("bash", "rcdm visualize --method d")
    stdout, stderr = start(MEASURE.format(arguments=[]), environment).communicate(timeout=60)
    facts = json.loads(stderr)
    assert stdout.split() == ["dino"]
    assert not MODEL_LIBRARIES & set(facts["modules"])
    assert facts["cpu"] < 0.5


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_show_completion_prints_a_script(invoke, monkeypatch, shell):
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    result = invoke("--show-completion")
    assert result.exit_code == 0
    assert f"_RCDM_COMPLETE=complete_{shell}" in result.stdout
