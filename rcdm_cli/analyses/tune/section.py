"""The section on what more sampling work buys: faithfulness and Fréchet distance against calls of the network."""

from collections.abc import Mapping
from typing import Any

from rcdm_cli.report.elements import Line, LineChart, Section, Sentence, Table


def section(results: Mapping[str, Any]) -> Section:
    """Build it from what ``rcdm tune`` wrote."""
    tried = results["tried"]
    return Section(
        title="How samples are best sampled",
        question="How many steps, which sampler and how much guidance does this bundle need?",
        elements=(
            Sentence(answer(results)),
            LineChart(
                "Faithfulness",
                "calls of the network for one sample",
                "mean reciprocal rank",
                _lines(tried, "mean_reciprocal_rank"),
                "Mean over the representations; 1 when every sample is nearest to its own image.",
            ),
            LineChart(
                "Fréchet distance",
                "calls of the network for one sample",
                "Fréchet distance",
                _lines(tried, "frechet"),
                "Between representations of samples and of images, in the encoder's own space; mean over the"
                " representations. Less is better.",
            ),
            Table(
                ("sampler", "steps", "guidance", "calls", "mean reciprocal rank", "Fréchet distance", "shortfall"),
                tuple(
                    (
                        one["sampler"],
                        str(one["steps"]),
                        f"{one['guidance']:g}",
                        str(one["calls"]),
                        f"{_mean(one, 'mean_reciprocal_rank'):.3f}",
                        f"{_mean(one, 'frechet'):.4g}",
                        f"{one['shortfall']:.3f}",
                    )
                    for one in tried
                ),
                "Means over the representations. Shortfall: how far a way stays behind the best of all in the worse"
                " of the two measures, as a share of it.",
            ),
        ),
    )


def answer(results: Mapping[str, Any]) -> str:
    """What was chosen, and why."""
    chosen, best = results["chosen"], results["best"]
    return (
        f"{_words(chosen)}: the fewest calls of the network within {100 * results['margin']:g} % of the best way tried"
        f" ({_words(best)}), on {results['images']} images."
    )


def _words(way: Mapping[str, Any]) -> str:
    return f"{way['sampler']}, {way['steps']} steps, guidance {way['guidance']:g}"


def _mean(one: Mapping[str, Any], measure: str) -> float:
    found = [each[measure] for each in one["representations"]]
    values = [float(each["value"] if isinstance(each, Mapping) else each) for each in found]
    return sum(values) / len(values)


def _lines(tried: list[Mapping[str, Any]], measure: str) -> tuple[Line, ...]:
    """One for each sampler and guidance, over the calls."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for one in tried:
        name = f"{one['sampler']}, guidance {one['guidance']:g}"
        groups.setdefault(name, []).append((float(one["calls"]), _mean(one, measure)))
    return tuple(
        Line(name, tuple(x for x, _ in sorted(points)), tuple(y for _, y in sorted(points)))
        for name, points in groups.items()
    )
