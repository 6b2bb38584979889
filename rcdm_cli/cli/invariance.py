"""``rcdm invariance``: similarity of representations under augmentations."""

from pathlib import Path
from typing import Annotated

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import SAMPLING_PANEL, Images, ShardedOptions, option
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import fail_if_skipped, print_run, run_analysis


@command("invariance", panel="Analyses", distributed=True)
def invariance(
    output: Output,
    images: Images,
    examples: Annotated[int, option("N", min=0, panel=SAMPLING_PANEL)] = 1,
    analysis: ShardedOptions = ShardedOptions(num_samples=3, out=Path("invariance")),
) -> None:
    """Measure the similarity of a representation before and after augmentations of the image.

    The augmentations are crop, shift, rotation, flip, grey, hue, brightness, blur, noise, background colour and JPEG,
    each at several strengths.

    Writes heat maps of methods and levels, samples before and after from the same noise, results.json with all numbers
    and confidence intervals over images, and report.html. The same command resumes an interrupted run.

    Args:
        examples: Number of images, from the first, to sample before and after each augmentation; 0 generates no
            samples.

    Examples:
        $ rcdm invariance imgs
        $ rcdm invariance imgs --method vicreg,dino --examples 3 --out invariance-vicreg-dino
    """
    from rcdm_cli.analyses.invariance.compute import invariance as compute
    from rcdm_cli.analyses.invariance.section import sentences
    from rcdm_cli.data.augment import AUGMENTATIONS

    def samples_of(count: int) -> int:
        return min(examples, count) * (1 + len(AUGMENTATIONS)) * analysis.num_samples

    run_analysis(
        output,
        analysis,
        compute,
        images,
        samples_of=samples_of,
        examples=examples,
    )
    values = print_run(output, analysis.out, sentences)
    fail_if_skipped(len(values["unreadable"]), len(values["unreadable"]) + values["images"])
