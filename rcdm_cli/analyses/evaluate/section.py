"""The section on how good the samples are, and the sample of those nearest to a training image."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.data.image_file import write_png
from rcdm_cli.report.dot_figure import draw_dots
from rcdm_cli.report.elements import DotChart, Dots, Element, Figure, Line, LineChart, Section, Sentence, Table
from rcdm_cli.report.grid import Group, Row, grid
from rcdm_cli.report.numbers import percent
from rcdm_cli.report.run import write_run

if TYPE_CHECKING:
    from rcdm_cli.analyses.evaluate.results import Evaluated, Evaluation

FAITHFUL, NEAREST = "faithfulness.png", "nearest.png"
_CELL = 96


def draw_nearest(evaluated: Sequence["Evaluated"]) -> NDArray[np.uint8]:
    """A row for each (method, level): image, sample and nearest training image of the samples nearest to one."""
    rows = [
        Row(
            [sample for shown in one.shown for sample in (shown.image, shown.sample, shown.nearest)],
            f"{one.pair.method}\n{one.pair.level}\n" + "  ".join(f"{shown.similarity:.3f}" for shown in one.shown),
        )
        for one in evaluated
    ]
    groups = [Group(f"{place}: image, sample, training image", 3) for place in range(1, len(evaluated[0].shown) + 1)]
    return grid(rows, groups, scale=max(1, -(-_CELL // evaluated[0].shown[0].image.shape[0])))


def write(folder: Path, found: "Evaluation", about: Mapping[str, Any]) -> dict[str, Any]:
    """Write samples, ``results.json`` and ``report.html``; returns what stands in the JSON.

    Args:
        folder: of the run; made where it is missing.
        found: what to write.
        about: what else the JSON holds: the bundle, versions, hashes.
    """
    values = {"kind": "evaluate", **about, **found.as_json()}
    write_png(folder / FAITHFUL, draw_dots(_faithful(values)))
    files = [FAITHFUL]
    if found.bank:
        values["nearest_sample"] = NEAREST
        write_png(folder / NEAREST, draw_nearest(found.evaluated))
        files.append(NEAREST)
    return write_run(folder, values, section, files)


def section(results: Mapping[str, Any]) -> Section:
    """Build it from what ``rcdm evaluate`` wrote."""
    found, training = results["results"], results["training_images"]
    elements: list[Element] = [
        *(Sentence(text) for text in answers(results)),
        _faithful(results),
        _faithfulness(results),
    ]
    # Runs of earlier versions have none.
    if "directions" in found[0]:
        elements.append(_directions(results))
    if results["samples"] > 1:
        elements.append(_diversity(results))
    elements.append(_distances(results))
    if found[0]["inception"]:
        elements.append(_inception(results))
    if training:
        elements += _nearest(results)
    return Section(
        "How good the samples are",
        "Are they faithful to h, diverse at fixed h, like images, and no copies of training images?",
        tuple(elements),
    )


def answers(results: Mapping[str, Any]) -> list[str]:
    """The sentences that the numbers support, for the page and for the terminal."""
    found = results["results"]
    best = max(found, key=lambda one: float(one["mean_reciprocal_rank"]["value"]))
    said = [
        f"The highest mean reciprocal rank, each in its own space, is that of {_name(best)}:"
        f" {_interval(best['mean_reciprocal_rank'])} among {results['images']} images, with a mean rank of"
        f" {best['mean_rank']['value']:.1f}; samples that have nothing to do with h would have"
        f" {chance(results['images']):.3f} and {(results['images'] + 1) / 2:.1f}."
    ]
    for one in results["differences"]:
        low, high = one["pixels"]["low"], one["pixels"]["high"]
        verdict = (
            "vary more at projector than at backbone level"
            if low > 0
            else "vary less at projector than at backbone level"
            if high < 0
            else "vary at both levels alike, as far as these images tell"
        )
        said.append(
            f"{one['method']}: samples of one h {verdict} (difference of the pixels' deviation, in percentage points"
            f" of the range: {100 * one['pixels']['value']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}])."
        )
    if training := results["training_images"]:
        most = max(found, key=lambda one: float(one["nearest"]["above"]["value"]))
        above, new = most["nearest"]["above"], training["bar"]["expected_above"]
        # Never "fewer": where no sample is beyond the bar, none is in any resample, and the interval has no width.
        verdict = (
            "more than that, so look for copies among the samples" if above["low"] > new else "not more beyond doubt"
        )
        said.append(
            f"{100 * new:.1f} % of new images are expected to be nearer to a training image than the bar of"
            f" {training['bar']['similarity']:.3f}. Of the samples, at most {percent(above)} % are ({_name(most)}):"
            f" {verdict}."
        )
    return said


def chance(images: int) -> float:
    """Mean reciprocal rank of ranks drawn evenly from 1 to ``images``."""
    return sum(1 / rank for rank in range(1, images + 1)) / images


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['method']} at {one['level']} level"


def _space(results: Mapping[str, Any]) -> str:
    return f"the representation space of {results['space']['method']} at {results['space']['level']} level"


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _faithful(results: Mapping[str, Any]) -> DotChart:
    points = [one["mean_reciprocal_rank"] for one in results["results"]]
    return DotChart(
        "Faithfulness",
        "mean reciprocal rank; 1 is perfect",
        tuple(f"{one['method']} {one['level']}" for one in results["results"]),
        (Dots("mean and interval over images", tuple((one["value"], one["low"], one["high"]) for one in points)),),
        "Each in its own space.",
    )


def _faithfulness(results: Mapping[str, Any]) -> Table:
    return Table(
        ("method", "level", "mean reciprocal rank", "mean rank", "cosine", "k-NN accuracy in %"),
        tuple(
            (
                one["method"],
                one["level"],
                _interval(one["mean_reciprocal_rank"]),
                f"{one['mean_rank']['value']:.1f} [{one['mean_rank']['low']:.1f}, {one['mean_rank']['high']:.1f}]",
                _interval(one["similarity"]),
                percent(one["knn"]) if one["knn"] else "–",
            )
            for one in results["results"]
        ),
        f"Faithfulness, each in its own space: the rank of the image's own h among those of {results['images']} images,"
        f" by nearness to the representation of each of {results['samples']} samples; 1 is perfect. In brackets, 95 %"
        " intervals of the bootstrap over the images.",
    )


def _directions(results: Mapping[str, Any]) -> LineChart:
    lines = []
    for one in results["results"]:
        held = [100 * share for share in accumulate(one["directions"]["variance"])]
        lines.append(Line(f"{one['method']} {one['level']}", tuple(held), tuple(one["directions"]["correlation"])))
    return LineChart(
        "What of h the samples follow",
        "variance of h held by a direction and all that are stronger, in %",
        "correlation of samples with h",
        tuple(lines),
        "Principal directions of h, strongest first; a dot stands for the 1st, the 2nd, the 3rd and 4th, the 5th to"
        " 8th, and so on. At 1, samples have what h says along these directions; at 0, they have nothing of it.",
    )


def _diversity(results: Mapping[str, Any]) -> Table:
    return Table(
        ("method", "level", "pixels in %", "space", "different images", "share"),
        tuple(
            (
                one["method"],
                one["level"],
                percent(one["diversity"]["pixels"]),
                _interval(one["diversity"]["space"]),
                f"{one['diversity']['between']:.3f}",
                f"{100 * one['diversity']['space']['value'] / one['diversity']['between']:.0f} %"
                if one["diversity"]["between"] > 0
                else "–",
            )
            for one in results["results"]
        ),
        f"Diversity of {results['samples']} samples at fixed h. Pixels: deviation among samples, in % of the pixel"
        f" range. Space: mean of 1 - cosine similarity between samples of one h in {_space(results)}, and between"
        " samples of different images; at a share of 100 %, h tells nothing that this space sees.",
    )


def _distances(results: Mapping[str, Any]) -> Table:
    training = results["training_images"]
    rows = [(one["method"], one["level"], one["distances"]) for one in results["results"]]
    if training:
        rows.append(("training images", "", training["distances"]))
    return Table(
        ("method", "level", "Fréchet distance", "kernel distance", "precision", "recall"),
        tuple(
            (
                method,
                level,
                f"{one['frechet']:.4g}",
                f"{one['kernel']:.3g}",
                f"{one['precision']:.3f}",
                f"{one['recall']:.3f}",
            )
            for method, level, one in rows
        ),
        f"One sample of each image against the {results['images']} images at the samples' size, in {_space(results)}."
        " These are no FID and no KID: they compare only within this space and for sets of this size."
        + (f" The last row is what {training['compared']} training images have." if training else ""),
    )


def _inception(results: Mapping[str, Any]) -> Table:
    training = results["training_images"]
    rows = [(one["method"], one["level"], one["inception"]) for one in results["results"]]
    if training:
        rows.append(("training images", "", training["inception"]))
    return Table(
        ("method", "level", "FID", "KID", "precision", "recall", "inception score"),
        tuple(
            (
                method,
                level,
                f"{one['fid']:.2f}",
                f"{one['kid']:.5f}",
                f"{one['precision']:.3f}",
                f"{one['recall']:.3f}",
                f"{one['inception_score']['mean']:.2f} ± {one['inception_score']['deviation']:.2f}",
            )
            for method, level, one in rows
        ),
        f"The same in the Inception space. A FID of {results['images']} samples is larger than one of many thousands.",
    )


def _nearest(results: Mapping[str, Any]) -> list[Element]:
    training = results["training_images"]
    levels = tuple(100 * level for level in training["levels"])
    lines = [Line("images", levels, tuple(training["quantiles_of_images"]))]
    lines += [
        Line(f"{one['method']} {one['level']}", levels, tuple(one["nearest"]["quantiles"]))
        for one in results["results"]
    ]
    shown = Figure(
        results["nearest_sample"],
        "For each method and level, the samples nearest to a training image: the image that was sampled for, the"
        " sample, and the training image.",
        "The samples that are nearest to a training image: image, sample, nearest training image; the similarities"
        " stand on the left in the same order. A copy would show as two equal samples on the right of each three.",
    )
    chart = LineChart(
        "Similarity to the nearest training image",
        "share of samples in %",
        "cosine similarity",
        tuple(lines),
        f"Sorted; in {_space(results)}. A line above that of the images means samples nearer to training images than"
        " new images are.",
    )
    above = Table(
        ("method", "level", "samples above the bar in %"),
        tuple((one["method"], one["level"], percent(one["nearest"]["above"])) for one in results["results"]),
        f"The bar is a similarity of {training['bar']['similarity']:.3f} to the nearest training image, beyond which"
        f" {100 * training['bar']['expected_above']:.1f} % of new images are expected. In brackets, 95 % intervals of"
        " the bootstrap over the images, for this bar.",
    )
    return [shown, chart, above]
