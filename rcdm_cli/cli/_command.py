"""Turn a function into a command with ``--json``, ``--quiet``, error messages, signal handling and examples."""

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import typer
from typer.models import OptionInfo, ParameterInfo

from rcdm_cli.cli._environment import require_single_process
from rcdm_cli.cli._errors import report_errors, with_flags
from rcdm_cli.cli._options import OUTPUT_PANEL, ParameterCheck, expanded
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._signals import interrupt_on_signals
from rcdm_cli.core.errors import ImageWarning

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON object.", rich_help_panel=OUTPUT_PANEL, envvar="RCDM_JSON"
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print only the result, warnings and errors.",
        rich_help_panel=OUTPUT_PANEL,
        envvar="RCDM_QUIET",
    ),
]


class CommandHelp(NamedTuple):
    """Help of a command.

    Attributes:
        description: paragraphs before the options.
        arguments: text of each parameter in the section ``Args``.
        examples: command lines of the section ``Examples``, each after ``$``, the simplest first.
    """

    description: str
    arguments: dict[str, str]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command that can be added to an app.

    Attributes:
        function: implementation. The first parameter is the ``Output``, the others are annotated options or groups of
            options. A parameter named ``context`` receives Typer's context.
        name: name of the command.
        panel: heading of the command in ``rcdm --help``.
        distributed: whether the command supports several processes started by ``torchrun``.
    """

    function: Callable[..., None]
    name: str
    panel: str
    distributed: bool = False

    @property
    def help(self) -> "CommandHelp":
        """Help from the docstring of the function."""
        description, *sections = re.split(r"\n\n(Args|Examples):\n", inspect.getdoc(self.function) or "")
        # An entry ends before the next line with the indentation of an entry.
        entries = {
            title: [" ".join(entry.split()) for entry in re.findall(r"^ {4}\S.*(?:\n {5,}.*)*", text, re.MULTILINE)]
            for title, text in zip(sections[::2], sections[1::2], strict=True)
        }
        # The terminal wraps paragraphs, so the line ends of the docstring are removed.
        paragraphs = (" ".join(paragraph.split()) for paragraph in description.split("\n\n"))
        arguments = dict(entry.split(": ", 1) for entry in entries.get("Args", ()))
        return CommandHelp("\n\n".join(paragraphs), arguments, tuple(entries.get("Examples", ())))

    def add_to(self, app: typer.Typer) -> None:
        """Register the command with ``app``."""
        epilog = "\n".join(["Examples:", *(f"  {example}" for example in self.help.examples)])
        app.command(self.name, help=self.help.description, epilog=epilog, rich_help_panel=self.panel)(
            self._with_output()
        )

    def _with_output(self) -> Callable[..., None]:
        """Return the function with the signature for Typer.

        The options ``--json`` and ``--quiet`` replace the ``Output``. The options of a group replace the group.
        """
        signature = inspect.signature(self.function, eval_str=True)
        _, *own = signature.parameters.values()
        groups: dict[str, Any] = {
            parameter.name: parameter.annotation for parameter in own if is_dataclass(parameter.annotation)
        }
        parameters = [option for parameter in own for option in _options_of(parameter)]
        for parameter in parameters:
            self._complete(parameter)
        takes_context = "context" in signature.parameters
        shared: dict[str, Any] = {} if takes_context else {"context": typer.Context}
        shared |= {"as_json": Json, "quiet": Quiet}

        checks = [
            (parameter.name, check)
            for parameter in parameters
            for check in getattr(parameter.annotation, "__metadata__", ())
            if isinstance(check, ParameterCheck)
        ]

        @wraps(self.function)
        def run(*, context: typer.Context, as_json: bool, quiet: bool, **options: Any) -> None:
            out = Output(as_json, quiet, lambda message: with_flags(message, context), context)
            if takes_context:
                options["context"] = context
            with report_errors(out), interrupt_on_signals(), _image_warnings(out):
                if not self.distributed:
                    require_single_process(self.name)
                options = {name: expanded(value) for name, value in options.items()}
                for name, check in checks:
                    check(options[name])
                for name, group in groups.items():
                    options[name] = group(**{field.name: options.pop(field.name) for field in fields(group)})
                self.function(out, **options)

        parameters += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if name == "context" else False,
                annotation=annotation,
            )
            for name, annotation in shared.items()
        ]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    def _complete(self, parameter: inspect.Parameter) -> None:
        """Set the help and the flag of an option that has none."""
        kind, *metadata = get_args(parameter.annotation) or (None,)
        for info in metadata:
            if isinstance(info, ParameterInfo) and info.help is None:
                info.help = self.help.arguments.get(parameter.name)
            # Typer stores the first flag as the default, and would add a second flag such as --no-force.
            if isinstance(info, OptionInfo) and info.default is ... and kind is bool:
                info.param_decls = (f"--{parameter.name.replace('_', '-')}",)


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return the options of a group with the defaults of the group's default value, or the option itself."""
    group = parameter.annotation
    if not is_dataclass(group):
        return [parameter]
    types = get_type_hints(group, include_extras=True)
    return [
        parameter.replace(name=item.name, annotation=types[item.name], default=getattr(parameter.default, item.name))
        for item in fields(group)
    ]


@contextmanager
def _image_warnings(out: Output) -> Iterator[None]:
    """Show Python warnings about images as warnings of the command."""
    with warnings.catch_warnings():
        show_others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if issubclass(category, ImageWarning):
                out.warn(str(message))
            else:
                show_others(message, category, *place, **options)

        warnings.simplefilter("always", ImageWarning)
        warnings.showwarning = show
        yield


def command(name: str, *, panel: str, distributed: bool = False) -> Callable[[Callable[..., None]], Command]:
    """Make the decorated function a command of ``rcdm``. The docstring of the function is the help of the command."""
    return lambda function: Command(function, name, panel, distributed)
