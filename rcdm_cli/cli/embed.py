"""``rcdm embed``: representations as a file."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import (
    EXISTING,
    OUTPUT_PANEL,
    Batch,
    Device,
    EncoderReference,
    Force,
    SelectionOptions,
    ShardText,
    Split,
    option,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._request import is_written, request_of
from rcdm_cli.cli._runs import fail_if_skipped, open_source
from rcdm_cli.cli._shards import chosen_shard, end_finished_shard, ending_shard, merged_shards
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.outputs import require_output_file, require_output_folder
from rcdm_cli.core.resources import EMBEDDINGS


def _require_suffix(path: Path) -> None:
    if path.suffix.lower() not in EMBEDDINGS:
        raise InputError(f"A file of representations ends in {' or '.join(EMBEDDINGS)}; given {path}.")


@command("embed", panel="Analyses", distributed=True)
def embed(
    output: Output,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES|DATA..."), EXISTING],
    out: Annotated[Path, option("FILE", flags=("--out", "-o"), panel=OUTPUT_PANEL)],
    split: Split = None,
    selection: SelectionOptions = SelectionOptions(),
    encoder: EncoderReference = None,
    batch: Batch = 64,
    device: Device = "auto",
    force: Force = False,
    shard: ShardText = None,
) -> None:
    """Write the representations of images to a file, with paths, classes and the specs of the encoders.

    The file contains a tensor (images, D) for each method and level, named METHOD/LEVEL. The same command resumes an
    interrupted run. Other commands accept the file instead of images: `rcdm visualize`, `rcdm interpolate`,
    `rcdm probe`, `rcdm fgsm --probe` and `rcdm manipulate --neighbours`.

    Args:
        images: Images and folders of images, or one dataset: a folder with class folders, a tar, a folder of tars.
        out: File to write; it ends in .safetensors or .npz. With --shard, a folder.

    Examples:
        $ rcdm embed imgs -o imgs.safetensors
        $ rcdm embed images.tar --split val --method dino,vicreg --level backbone -o val.npz
    """
    own_shard, out = chosen_shard(output.context, shard, out)
    if own_shard:
        require_output_folder(out)
    else:
        require_output_file(out)
        _require_suffix(out)
    from rcdm_cli.analyses.embed import embed as compute
    from rcdm_cli.analyses.embed import remove_leftovers
    from rcdm_cli.encoders.embeddings import read_embeddings

    request = request_of(output.context)
    shards = merged_shards(output.context, request)
    if own_shard:
        end_finished_shard(output, out, own_shard, request, force)
    if not own_shard and is_written(out, request, force):
        remove_leftovers(out)
        output.note(f"{out} contains the representations of the same command and inputs.")
    else:
        source, methods = open_source(output, selection, encoder, device)
        with ending_shard(output, out, own_shard), output.stages() as show:
            compute(
                source,
                images,
                split=split,
                methods=methods,
                level=selection.level,
                batch=batch,
                out=out,
                force=force,
                request=request.model_dump(),
                shard=own_shard,
                shards=shards,
                on_progress=show,
                on_note=output.warn,
            )
    found = read_embeddings(out)
    values = {
        "file": out,
        **found.origin,
        "images": len(found.paths),
        "representations": [{**pair._asdict(), "width": h.shape[1]} for pair, h in found.representations.items()],
    }
    output.result(values, [out])
    unreadable = found.origin.get("unreadable")
    skipped = len(unreadable) if isinstance(unreadable, list) else 0
    fail_if_skipped(skipped, skipped + len(found.paths))
