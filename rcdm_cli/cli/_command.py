"""How a function becomes a command: ``--json``, ``--quiet``, errors, signals and examples come with it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from rcdm_cli.cli._errors import reporting
from rcdm_cli.cli._options import OUTPUT_PANEL
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._signals import interrupting

Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=OUTPUT_PANEL),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Say only the result, warnings and errors.", rich_help_panel=OUTPUT_PANEL),
]


@dataclass(frozen=True)
class Command:
    """A command that is ready to be added to an app.

    Attributes:
        function: what does the work. Its first parameter is the ``Output``, the others are annotated options;
            its docstring is the help.
        name: what a person types after ``rcdm``.
        panel: the heading in ``rcdm --help`` under which it stands.
        examples: command lines for its help; the first is the plainest.
    """

    function: Callable[..., None]
    name: str
    panel: str
    examples: tuple[str, ...]

    def add_to(self, app: typer.Typer) -> None:
        """Make it a command of ``app``."""
        epilog = "\n".join(["Examples:", *(f"  $ {example}" for example in self.examples)])
        # The terminal wraps paragraphs; the docstring's own line ends would come on top.
        paragraphs = (inspect.getdoc(self.function) or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(self.name, help=text, epilog=epilog, rich_help_panel=self.panel)(self._with_output())

    def _with_output(self) -> Callable[..., None]:
        """The function as Typer shall see it: ``--json`` and ``--quiet`` in place of the ``Output``."""
        signature = inspect.signature(self.function, eval_str=True)
        _, *own = signature.parameters.values()
        shared = [
            inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json),
            inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
        ]

        @wraps(self.function)
        def run(*, as_json: bool, quiet: bool, **options: Any) -> None:
            out = Output(as_json, quiet)
            with reporting(out), interrupting():
                self.function(out, **options)

        parameters = [*own, *shared]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run


def command(name: str, *, panel: str, examples: tuple[str, ...]) -> Callable[[Callable[..., None]], Command]:
    """Decorate a command's function with what ``rcdm`` needs to show and run it."""
    return lambda function: Command(function, name, panel, examples)
