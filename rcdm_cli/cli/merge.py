"""``rcdm merge``: join the shards of an analysis to one run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import EXISTING, OUTPUT_PANEL, Force, option
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._request import Request
from rcdm_cli.cli._shards import Merge
from rcdm_cli.core.errors import InputError


@command("merge", panel="Analyses")
def merge(
    output: Output,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN..."), EXISTING],
    out: Annotated[Path, option("PATH", flags=("--out", "-o"), panel=OUTPUT_PANEL)],
    force: Force = False,
) -> None:
    """Join the shards of an analysis to one run, which equals the run without --shard.

    The shards were computed with --shard by `rcdm embed`, `rcdm visualize`, `rcdm evaluate`, `rcdm invariance` or
    `rcdm fgsm`. The expensive steps are read from the shards. Measures that need all samples are computed by this
    command, which therefore needs the same inputs and bundle, under the same paths.

    Args:
        runs: Folders of all shards of one run, which the command of the shards wrote as --out.
        out: Folder for the results; a file for the shards of `rcdm embed`.

    Examples:
        $ rcdm merge shards/0 shards/1 shards/2 --out visualization
        $ rcdm merge shards/* --out all.safetensors
    """
    from rcdm_cli.analyses.shards import SHARD, require_whole

    record = require_whole(runs)
    where = f"{runs[0] / SHARD}"
    if record.request is None:
        raise InputError(f"{where} has no request. Shards of `rcdm` commands contain one.")
    request = Request.parse(record.request, where)
    commands: Any = getattr(output.context.find_root().command, "commands", {})
    target = commands.get(request.command)
    # A request comes from a file, so that only commands with shards are run.
    if target is None or "shard" not in {parameter.name for parameter in target.params}:
        raise InputError(f"{where}: {request.command!r} is not a command with shards.")
    flags = {"--force": force, "--json": output.as_json, "--quiet": output.quiet}
    given = [flag for flag, is_given in flags.items() if is_given]
    arguments = [*given, f"--out={out}", *_arguments(target, request, where)]
    merging = Merge(runs, request)
    with target.make_context(request.command, arguments, parent=output.context, obj=merging) as context:
        target.invoke(context)


def _arguments(target: Any, request: Request, where: str) -> Iterator[str]:
    """Yield the command line of a request, without the output; arguments last."""
    parameters = {parameter.name: parameter for parameter in target.params}
    positional = []
    for name, value in request.options.items():
        if name not in parameters:
            raise InputError(f"{where}: `rcdm {request.command}` has no parameter {name!r}.")
        parameter, values = parameters[name], value if isinstance(value, list) else [value]
        if parameter.param_type_name == "argument":
            positional += [str(one) for one in values]
            continue
        flag = max(parameter.opts, key=len)
        if value is True:
            yield flag
        elif value is not None and value is not False:
            yield from (f"{flag}={one}" for one in values)
    yield from ("--", *positional)
