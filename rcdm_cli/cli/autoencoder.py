"""``rcdm autoencoder``: train an autoencoder, whose latents are the space of a denoiser."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import MACHINE_PANEL, Device, Log, Out, RecipeName, Set, Source, Split, option
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._training import training_process


@command("autoencoder", panel="Models", distributed=True)
def autoencoder(
    output: Output,
    data: Source,
    recipe: RecipeName,
    split: Split = None,
    validation_split: Annotated[str | None, option("NAME")] = None,
    overrides: Set = None,
    workers: Annotated[int, option(panel=MACHINE_PANEL, min=0)] = 2,
    out: Out = Path("runs/autoencoder"),
    log: Log = None,
    device: Device = "auto",
) -> None:
    """Train an autoencoder on images, for a denoiser of latents.

    The run's folder contains config.json and diffusion_pytorch_model.safetensors, which `rcdm train` opens as the
    `autoencoder` of a recipe and diffusers opens with `AutoencoderKL.from_pretrained`. The loss is the absolute error,
    the distance of the features of an encoder, and the KL divergence of the latents. The same command resumes an
    interrupted run. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 write a checkpoint first.

    `torchrun --standalone --nproc-per-node 8 --module rcdm_cli autoencoder …` trains with several processes, one per
    GPU.

    Args:
        validation_split: Sub-folder of DATA for the error of reconstructions. By default, training images are used.
        workers: Number of processes that crop images; 0 crops them in the main process. The result does not depend on
            this number.

    Examples:
        $ rcdm autoencoder images.tar --split train --validation-split val --recipe clothing64-autoencoder
        $ rcdm autoencoder images --recipe clothing64-autoencoder --set perceptual.encoder=timm:resnet18,pretrained
    """
    # A wrong recipe is reported before the import of PyTorch.
    from rcdm_cli.encoders.reference import require_encoder_file
    from rcdm_cli.training.recipe import AutoencoderRecipe, read_recipe

    settings = read_recipe(recipe, AutoencoderRecipe, overrides or ())
    if settings.perceptual:
        require_encoder_file(settings.perceptual.encoder)
    from rcdm_cli.training.run import train_autoencoder

    with training_process(output, device) as process:
        result = train_autoencoder(
            settings,
            data,
            out,
            split=split,
            validation_split=validation_split,
            workers=workers,
            log=log or (),
            **process,
        )
    values = asdict(result)
    del values["encoder"]
    output.result(values, [out])
