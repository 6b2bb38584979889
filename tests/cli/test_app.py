"""The program as a whole: help, version, examples, start-up."""

import json
import shlex

import pytest
import typer

import rcdm_cli
from rcdm_cli.cli.app import COMMANDS, app
from tests.cli.conftest import start

CLICK_COMMANDS = typer.main.get_command(app).commands

MEASURE_HELP = """
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
def test_help_is_quick_and_loads_no_model_library(arguments):
    best = 1e9
    for _ in range(3):
        stdout, stderr = start(MEASURE_HELP.format(arguments=arguments)).communicate(timeout=60)
        facts = json.loads(stderr)
        assert facts["code"] in (0, None)
        assert "rcdm" in stdout
        assert not {"torch", "timm", "numpy", "PIL", "onnx", "openvino", "safetensors"} & set(facts["modules"])
        best = min(best, facts["cpu"])
    assert best < 0.5, f"{best:.2f} s of CPU time"


def test_version(invoke):
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"rcdm {rcdm_cli.__version__}\n")


def test_help_lists_every_command(invoke):
    text = invoke("--help").stdout
    for command in COMMANDS:
        assert command.name in text


def test_without_a_command_the_help_is_shown_and_it_is_wrong_use(invoke):
    result = invoke()
    assert result.exit_code == 2
    assert "Usage: rcdm" in result.output


def test_a_mistyped_command_is_wrong_use_and_names_the_nearest(invoke):
    result = invoke("docter")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "doctor" in result.stderr


def test_a_mistyped_option_is_wrong_use_and_names_the_nearest(invoke):
    result = invoke("doctor", "--devise", "cpu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--device" in result.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_explains_itself_with_examples_that_parse(command, invoke):
    text = invoke(command.name, "--help").stdout
    assert command.examples
    for example in command.examples:
        program, name, *arguments = shlex.split(example)
        assert (program, name) == ("rcdm", command.name)
        # Parses and checks every option, and runs nothing.
        CLICK_COMMANDS[name].make_context(name, arguments)
    assert f"rcdm {command.name}" in text.split("Examples")[1]


# One meaning each, told in the words of a command's own subject: what is timed, tuned, probed or imported.
SAID_FOR_ITS_COMMAND = {
    "--backend",
    "--batch",
    "--encoder",
    "--guidance",
    "--out",
    "--precision",
    "--sampler",
    "--shown",
    "--split",
    "--steps",
    "--validation-split",
}


def test_the_same_option_means_the_same_in_every_command():
    helps: dict[str, set[str]] = {}
    for command in CLICK_COMMANDS.values():
        for item in command.params:
            if item.param_type_name == "option":
                helps.setdefault(item.opts[0], set()).add(item.help)
    assert {name for name, texts in helps.items() if len(texts) > 1} <= SAID_FOR_ITS_COMMAND
    assert "--json" in helps
