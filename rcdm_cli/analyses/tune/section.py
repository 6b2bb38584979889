"""Page section of a tuning run: faithfulness and Fréchet distance against the number of network evaluations."""

from collections.abc import Mapping
from typing import Any

from rcdm_cli.report.elements import Line, LineChart, Section, Sentence, table


def section(results: Mapping[str, Any]) -> Section:
    """Build the section from the results of ``rcdm tune``."""
    tried = results["tried"]
    return Section(
        title="Sampler, steps and guidance",
        question="Which sampler, how many steps and which guidance scale does this bundle need?",
        elements=(
            Sentence(answer(results)),
            LineChart(
                "Faithfulness",
                "network evaluations per sample",
                "mean reciprocal rank",
                _lines(tried, "mean_reciprocal_rank"),
                "Mean over the representations. 1: every sample is most similar to its own image.",
            ),
            LineChart(
                "Fréchet distance",
                "network evaluations per sample",
                "Fréchet distance",
                _lines(tried, "frechet"),
                "Fréchet distance between the representations of samples and of images; mean over the representations."
                " Smaller is better.",
            ),
            table(
                tried,
                {
                    "sampler": "{sampler}",
                    "steps": "{steps}",
                    "guidance": "{guidance:g}",
                    "evaluations": "{calls}",
                    "mean reciprocal rank": lambda trial: f"{_mean(trial, 'mean_reciprocal_rank'):.3f}",
                    "Fréchet distance": lambda trial: f"{_mean(trial, 'frechet'):.4g}",
                    "shortfall": "{shortfall:.3f}",
                },
                "Means over the representations. Shortfall: relative distance to the best setting, in the worse of the"
                " two measures.",
            ),
        ),
    )


def answer(results: Mapping[str, Any]) -> str:
    """Return the chosen setting and the reason."""
    chosen, best = results["chosen"], results["best"]
    return (
        f"Chosen: {_words(chosen)}, with the fewest network evaluations within {100 * results['margin']:g} % of the"
        f" best setting ({_words(best)}), measured on {results['images']} images."
    )


def _words(way: Mapping[str, Any]) -> str:
    return f"{way['sampler']}, {way['steps']} steps, guidance {way['guidance']:g}"


def _mean(entry: Mapping[str, Any], measure: str) -> float:
    measured = [each[measure] for each in entry["representations"]]
    values = [float(each["value"] if isinstance(each, Mapping) else each) for each in measured]
    return sum(values) / len(values)


def _lines(tried: list[Mapping[str, Any]], measure: str) -> tuple[Line, ...]:
    """Return one line for each sampler and guidance scale."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for trial in tried:
        name = f"{trial['sampler']}, guidance {trial['guidance']:g}"
        groups.setdefault(name, []).append((float(trial["calls"]), _mean(trial, measure)))
    return tuple(
        Line(name, tuple(x for x, _ in sorted(points)), tuple(y for _, y in sorted(points)))
        for name, points in groups.items()
    )
