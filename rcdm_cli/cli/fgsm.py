"""``rcdm fgsm``: robustness of a representation to adversarial attacks."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import SAMPLING_PANEL, IgnoredClasses, ShardedOptions, Source, Split, limit_option, option
from rcdm_cli.cli._output import Output
from rcdm_cli.cli._runs import print_run, run_analysis
from rcdm_cli.core.errors import CheckFailed, unknown_name_message

ATTACKS = ("fgsm", "pgd", "drift")
EPSILONS = ["1/255", "2/255", "4/255", "8/255"]


def _attacks(values: list[str] | None) -> list[str] | None:
    if not values:
        return None
    names = list(dict.fromkeys(name.strip() for value in values for name in value.split(",")))
    for name in names:
        if name not in ATTACKS:
            raise typer.BadParameter(unknown_name_message("attack", name, ATTACKS))
    return names


def _epsilon(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    try:
        value = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is not a number such as 0.01 or 2/255.") from None
    if not 0 < value <= 1:
        raise typer.BadParameter(f"{text} is not above 0 and at most 1, the range of a pixel.")
    return value


def _epsilons(values: list[str]) -> list[str]:
    texts = [text.strip() for value in values for text in value.split(",")]
    return sorted(set(texts), key=_epsilon)


@command("fgsm", panel="Analyses", distributed=True)
def fgsm(
    output: Output,
    images: Source,
    split: Split = None,
    limit: Annotated[int | None, limit_option(1)] = None,
    probe: Annotated[Path | None, option("DATA")] = None,
    probe_split: Annotated[str | None, option("NAME")] = None,
    ignore_classes: IgnoredClasses = None,
    attacks: Annotated[
        list[str] | None,
        option("|".join(ATTACKS), flags=("--attack",), callback=_attacks, show_default="all that are possible"),
    ] = None,
    epsilons: Annotated[list[str], option("E[,E]", flags=("--epsilon",), callback=_epsilons)] = EPSILONS,
    attack_steps: Annotated[int, option("N", min=1)] = 10,
    max_drift: Annotated[float | None, option("X", min=0)] = None,
    examples: Annotated[int, option("N", min=0, panel=SAMPLING_PANEL)] = 3,
    analysis: ShardedOptions = ShardedOptions(num_samples=2, out=Path("fgsm")),
) -> None:
    """Measure the robustness of representations to small adversarial changes of the image.

    Linear classifiers are trained on the frozen representations of --probe. Then every image is changed, by at most
    epsilon in each pixel, to maximise the loss of the classifier (fgsm, pgd) or the change of the representation
    (drift).

    Writes accuracy and drift over epsilon, samples of the representations before and after an attack, results.json with
    all numbers, and report.html. The same command resumes an interrupted run.

    Args:
        probe: Training images of the linear classifiers: a dataset with class folders, or a file written by `rcdm
            embed`. Without --probe, only the attack drift is possible.
        probe_split: Sub-folder of the --probe data to use. Default: all images.
        attacks: fgsm: one step against the classifier. pgd: several steps. drift: several steps away from the
            representation, without classes. Repeatable.
        epsilons: Largest change of a pixel, for pixels in [0, 1]. Repeatable. Epsilon 0 is always included.
        attack_steps: Number of steps of pgd and drift.
        max_drift: End with exit code 3 if a mean drift (1 − cosine similarity of the representations before and after)
            exceeds X.
        examples: Number of images, from the first, to sample before and after the first attack; 0 generates no samples.

    Examples:
        $ rcdm fgsm images.tar --split val --probe images.tar --probe-split train --limit 100
        $ rcdm fgsm imgs --attack drift --epsilon 2/255 --max-drift 0.1
    """
    from rcdm_cli.analyses.fgsm.compute import fgsm as compute
    from rcdm_cli.analyses.fgsm.section import answers

    run_analysis(
        output,
        analysis,
        compute,
        images,
        samples_of=lambda count: min(examples, count) * (1 + len(epsilons)) * analysis.num_samples,
        split=split,
        limit=limit,
        probe=probe,
        probe_split=probe_split,
        ignore_classes=ignore_classes or (),
        attacks=attacks,
        epsilons=[_epsilon(text) for text in epsilons],
        attack_steps=attack_steps,
        examples=examples,
    )
    values = print_run(output, analysis.out, answers)
    largest, curve = max(
        ((drift["value"], curve) for curve in values["results"] for drift in curve["drift"]), key=lambda pair: pair[0]
    )
    if max_drift is not None and largest > max_drift:
        raise CheckFailed(
            f"The representation of {curve['method']} at {curve['level']} level has a mean drift of {largest:.4f}"
            f" under the attack {curve['attack']}, above --max-drift {max_drift:g}."
        )
