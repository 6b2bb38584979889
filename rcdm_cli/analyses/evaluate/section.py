"""Files and page section of an evaluation: faithfulness, diversity, distances, nearest training images."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_cli.analyses.left_out import left_out_sentence
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid
from rcdm_cli.report.charts import save_chart
from rcdm_cli.report.elements import PAIR, DotChart, Dots, Element, Line, LineChart, Section, Sentence, Table, table
from rcdm_cli.report.grids import grid_files, image_grid, write_grid
from rcdm_cli.report.numbers import counted, interval, name_of, percent
from rcdm_cli.report.run import write_run

if TYPE_CHECKING:
    from rcdm_cli.analyses.evaluate.results import EvaluatedRepresentation, Evaluation

FAITHFUL, NEAREST = "faithfulness.png", "nearest"


def draw_nearest(evaluated: Sequence["EvaluatedRepresentation"]) -> PixelGrid:
    """Lay out input image, sample and training image for the samples most similar to a training image."""
    rows = [
        GridRow(
            [image for nearest in evaluated_pair.nearest for image in (nearest.image, nearest.sample, nearest.nearest)],
            f"{evaluated_pair.pair.method}\n{evaluated_pair.pair.level}\n"
            + "  ".join(f"{nearest.similarity:.3f}" for nearest in evaluated_pair.nearest),
        )
        for evaluated_pair in evaluated
    ]
    return PixelGrid(rows, [GridGroup("image, sample, training image", 3) for _ in evaluated[0].nearest])


def write(folder: Path, result: "Evaluation", about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the chart, the image grid, ``results.json`` and ``report.html``.

    Args:
        folder: Folder of the run, created if missing.
        result: Results.
        about: Further content of ``results.json``: bundle, versions, hashes.

    Returns:
        Content of ``results.json``.
    """
    values = {"kind": "evaluate", **about, **result.as_json()}
    save_chart(_faithful(values), folder / FAITHFUL)
    files = [FAITHFUL]
    if result.bank:
        values["nearest_samples"] = write_grid(folder, NEAREST, draw_nearest(result.evaluated))
        files += grid_files(values["nearest_samples"])
    return write_run(folder, values, section, files)


def section(results: Mapping[str, Any]) -> Section:
    """Build the section from the results of ``rcdm evaluate``."""
    entries, training = results["results"], results["training_images"]
    elements: list[Element] = [
        *(Sentence(text) for text in (*answers(results), *_left_out(results))),
        _faithful(results),
        _faithfulness(results),
        _directions(results),
    ]
    if results["samples"] > 1:
        elements.append(_diversity(results))
    elements.append(_distances(results))
    if entries[0]["inception"]:
        elements.append(_inception(results))
    if training:
        elements += _nearest(results)
    return Section(
        "Quality of the samples",
        "Are samples faithful to their representation, diverse, similar to real images, and not copies of training"
        " images?",
        tuple(elements),
    )


def answers(results: Mapping[str, Any]) -> list[str]:
    """Return the findings as sentences, for the page and for the terminal."""
    entries, images = results["results"], results["images"]
    best = max(entries, key=lambda entry: float(entry["mean_reciprocal_rank"]["value"]))
    sentences = [
        f"Faithfulness: the mean reciprocal rank is highest for {name_of(best)}:"
        f" {interval(best['mean_reciprocal_rank'])} among {images} images (chance: {chance(images):.3f}), with a mean"
        f" rank of {best['mean_rank']['value']:.1f} (chance: {(images + 1) / 2:.1f})."
    ]
    for difference in results["differences"]:
        low, high = difference["pixels"]["low"], difference["pixels"]["high"]
        verdict = "vary more" if low > 0 else "vary less" if high < 0 else "do not vary significantly more or less"
        sentences.append(
            f"Diversity of {difference['method']}: samples of the projector {verdict} than samples of the backbone"
            " (difference of the standard deviation in percentage points of the pixel range:"
            f" {interval(difference['pixels'], '+.2f', 100)})."
        )
    if training := results["training_images"]:
        most = max(entries, key=lambda entry: float(entry["nearest"]["above"]["value"]))
        above, expected = most["nearest"]["above"], training["bar"]["expected_above"]
        # Never "fewer": if no sample is above the threshold, the interval has no width.
        verdict = (
            "more than expected, so samples may be copies" if above["low"] > expected else "not significantly more"
        )
        sentences.append(
            f"Copies: {100 * expected:.1f} % of new images are expected to have a similarity above"
            f" {training['bar']['similarity']:.3f} to a training image. Largest fraction of samples above this"
            f" threshold: {percent(above)} % ({name_of(most)}), {verdict}."
        )
    return sentences


def _left_out(results: Mapping[str, Any]) -> list[str]:
    if not any(entry["knn"] for entry in results["results"]):
        return []
    counts = results.get("left_out_of_knn", {})
    sentences = [left_out_sentence(each, f"{what} of the k-NN accuracy") for what, each in counts.items()]
    return [sentence for sentence in sentences if sentence]


def chance(images: int) -> float:
    """Return the mean reciprocal rank of random ranks from 1 to ``images``."""
    return sum(1 / rank for rank in range(1, images + 1)) / images


def _space(results: Mapping[str, Any]) -> str:
    return f"the representation space of {results['space']['method']} at {results['space']['level']} level"


def _faithful(results: Mapping[str, Any]) -> DotChart:
    points = [entry["mean_reciprocal_rank"] for entry in results["results"]]
    return DotChart(
        "Faithfulness",
        "mean reciprocal rank (1 is best)",
        tuple(name_of(entry) for entry in results["results"]),
        (
            Dots(
                "mean and 95 % interval over images",
                tuple((point["value"], point["low"], point["high"]) for point in points),
            ),
        ),
        "Each representation is measured in its own space.",
    )


def _faithfulness(results: Mapping[str, Any]) -> Table:
    return table(
        results["results"],
        {
            **PAIR,
            "mean reciprocal rank": lambda entry: interval(entry["mean_reciprocal_rank"]),
            "mean rank": lambda entry: interval(entry["mean_rank"], ".1f"),
            "cosine": lambda entry: interval(entry["similarity"]),
            "k-NN accuracy in %": lambda entry: percent(entry["knn"]),
        },
        f"Rank: position of the image among {results['images']} images, ordered by similarity to the representation of"
        f" a sample; 1 is best. Means over {results['samples']} samples of each image. In brackets: 95 % bootstrap"
        " confidence intervals over images.",
    )


def _directions(results: Mapping[str, Any]) -> LineChart:
    lines = []
    for entry in results["results"]:
        explained = [100 * share for share in accumulate(entry["directions"]["variance"])]
        lines.append(Line(name_of(entry), tuple(explained), tuple(entry["directions"]["correlation"])))
    return LineChart(
        "Faithfulness by principal direction",
        "cumulative explained variance of the representation, in %",
        "correlation between sample and image",
        tuple(lines),
        "Correlation between the representations of samples and of images along principal directions. Points: direction"
        " 1, 2, 3–4, 5–8, and so on. 1: samples reproduce the representation along these directions. 0: no relation.",
    )


def _diversity(results: Mapping[str, Any]) -> Table:
    return table(
        results["results"],
        {
            **PAIR,
            "pixels in %": lambda entry: percent(entry["diversity"]["pixels"]),
            "same image": lambda entry: interval(entry["diversity"]["space"]),
            "different images": "{diversity[between]:.3f}",
            "ratio": lambda entry: (
                f"{100 * entry['diversity']['space']['value'] / entry['diversity']['between']:.0f} %"
                if entry["diversity"]["between"] > 0
                else "–"
            ),
        },
        f"Diversity of {results['samples']} samples of one representation. Pixels: standard deviation of the samples"
        " in % of the pixel range: root of the unbiased variance, averaged over pixels and images. Same image,"
        " different images: mean of 1 − cosine similarity between samples in"
        f" {_space(results)}. At a ratio of 100 %, samples of one image differ as much as samples of different images.",
    )


def _distances(results: Mapping[str, Any]) -> Table:
    training = results["training_images"]
    rows = [{**entry, **entry["distances"]} for entry in results["results"]]
    if training:
        rows.append({"method": "training images", "level": "", **training["distances"]})
    return table(
        rows,
        {
            **PAIR,
            "Fréchet distance": "{frechet:.4g}",
            "squared MMD": "{mmd:.3g}",
            "precision": "{precision:.3f}",
            "recall": "{recall:.3f}",
        },
        f"One sample of each image compared with the {results['images']} images, in {_space(results)}. These distances"
        " are not FID or KID, and are comparable only within this space and for sets of this size."
        + (f" Last row: {training['compared']} training images instead of samples." if training else ""),
    )


def _inception(results: Mapping[str, Any]) -> Table:
    training = results["training_images"]
    rows = [{**entry, **entry["inception"]} for entry in results["results"]]
    if training:
        rows.append({"method": "training images", "level": "", **training["inception"]})
    return table(
        rows,
        {
            **PAIR,
            "FID": "{fid:.2f}",
            "KID": "{kid:.5f}",
            "precision": "{precision:.3f}",
            "recall": "{recall:.3f}",
            "inception score": "{inception_score[mean]:.2f} ± {inception_score[deviation]:.2f}",
        },
        f"Distances in the Inception space. FID depends on the number of samples: with {results['images']} samples, FID"
        f" is larger than with many thousands. KID: mean over {counted(rows[0]['kid_subsets'], 'subset')} of"
        f" {rows[0]['kid_subset_size']} samples and as many images.",
    )


def _nearest(results: Mapping[str, Any]) -> list[Element]:
    training = results["training_images"]
    levels = tuple(100 * level for level in training["levels"])
    lines = [Line("images", levels, tuple(training["quantiles_of_images"]))]
    lines += [Line(name_of(entry), levels, tuple(entry["nearest"]["quantiles"])) for entry in results["results"]]
    samples = image_grid(
        results["nearest_samples"],
        "Each row: the samples of one representation with the highest similarity to a training image, with input"
        " image, sample and training image. Row labels: similarities in the same order. A copy is a sample equal to"
        " the training image.",
        "Samples most similar to a training image",
    )
    chart = LineChart(
        "Similarity to the nearest training image",
        "quantile in %",
        "cosine similarity",
        tuple(lines),
        f"Quantiles of the similarity in {_space(results)}. A line above the line of the images: samples are more"
        " similar to training images than new images are.",
    )
    above = table(
        results["results"],
        {**PAIR, "samples above the threshold in %": lambda entry: percent(entry["nearest"]["above"])},
        f"Threshold: a similarity of {training['bar']['similarity']:.3f} to the nearest training image, which"
        f" {100 * training['bar']['expected_above']:.1f} % of new images are expected to exceed. In brackets: 95 %"
        " bootstrap confidence intervals over images at this threshold.",
    )
    return [samples, chart, above]
