"""Tables of docs/RESULTS.md from the numbers of tools/make_results.py."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

Values = Mapping[str, Any]

BACKENDS = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}

ATTACKS = ("fgsm", "pgd", "drift")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (head, *rows))
    return "\n".join([first, "|---" * len(head) + "|", *others])


def interval(values: Values, form: str = ".3f", scale: float = 1) -> str:
    """Return ``value [low, high]``."""
    value, low, high = (f"{scale * values[key]:{form}}" for key in ("value", "low", "high"))
    return f"{value} {bounds(low, high)}"


def bounds(low: str, high: str) -> str:
    """Return an interval with plain minus signs in Markdown."""
    return f"[{low}, {high}]".replace("-", "−")


def signed(values: Values, form: str = "+.3f", scale: float = 1) -> str:
    """Return a difference with its interval; bold if the interval excludes 0."""
    value = f"{scale * values['value']:{form}}".replace("-", "−")
    text = f"{value} {bounds(*(f'{scale * values[key]:{form}}'.removeprefix('+') for key in ('low', 'high')))}"
    return f"**{text}**" if values["low"] > 0 or values["high"] < 0 else text


def verdict(differences: Sequence[Values]) -> str:
    """Return the verdict on the statement that all ``differences`` are above 0, and the numbers of intervals."""
    above = sum(each["low"] > 0 for each in differences)
    below = sum(each["high"] < 0 for each in differences)
    if above == len(differences):
        word = "Supported"
    elif above and not below:
        word = "Partly supported"
    elif below and not above:
        word = "Contradicted"
    else:
        word = "Mixed" if above else "Undecided"
    count, between = len(differences), len(differences) - above - below
    return f"**{word}.** Of {count} intervals, {above} are above 0, {between} contain 0, and {below} are below 0."


def name(values: Values) -> str:
    """Return the method and the level."""
    return f"{values['method']} {values['level']}"


def _engine(values: Values) -> str:
    settings = values["settings"]
    engine = f"{BACKENDS.get(values['backend'], values['backend'])} at {values['precision']}"
    return f"`{settings['sampler']}`, {settings['steps']} steps, guidance {settings['guidance']:g}, {engine}"


def samples(values: Values) -> str:
    """Faithfulness and distances of one sample of each validation image."""
    rows = [
        [
            each["method"],
            each["level"],
            interval(each["mean_reciprocal_rank"]),
            f"{each['mean_rank']['value']:.1f}",
            f"{each['cosine']:.3f}",
            f"{each['knn']:.3f}",
            f"{each['frechet']:.2f}",
            f"{each['precision']:.3f}",
            f"{each['recall']:.3f}",
        ]
        for each in values["results"]
    ]
    head = ["method", "level", "MRR", "rank", "cosine", "k-NN", "Fréchet", "P", "R"]
    reached = [name(each) for each in values["results"] if each["mean_reciprocal_rank"]["value"] >= 0.9]
    mean = {name(each): each["mean_reciprocal_rank"]["value"] for each in values["results"]}
    methods = [method.split()[0] for method in mean if f"{method.split()[0]} projector" in mean]
    better = sum(mean[f"{method} backbone"] > mean[f"{method} projector"] for method in dict.fromkeys(methods))
    return (
        f"One sample of each of the {values['images']} images: {_engine(values['engine'])}.\n\n{table(head, rows)}\n\n"
        f"Samples are more faithful at backbone level than at projector level for {better} of"
        f" {len(dict.fromkeys(methods))} methods. A mean reciprocal rank of 0.9 is reached by"
        f" {', '.join(reached) or 'no representation'}."
    )


def directions(values: Values) -> str:
    """Correlation along principal directions at backbone level."""
    chosen = [each for each in values["results"] if each["level"] == "backbone"]
    last = chosen[0]["directions"]["last"]
    first = [1, *(end + 1 for end in last[:-1])]
    head = ["direction", *(f"{a}–{b}" if a < b else str(b) for a, b in zip(first, last, strict=True))]
    rows = []
    for each in chosen:
        found = each["directions"]
        rows.append([each["method"], *(f"{value:.2f}" for value in found["correlation"])])
        rows.append(["variance", *(f"{value:.3f}" for value in found["variance"])])
    return table(head, rows)


def backbones(values: Values) -> str:
    """Mean reciprocal rank of every method at backbone level."""
    found = {each["method"]: each["mean_reciprocal_rank"] for each in values["results"]}
    return table([*found], [[interval(each) for each in found.values()]])


def denoised(values: Values) -> str:
    """Rank of images that were noised and denoised without ``h``."""
    found = values["mean_reciprocal_rank"]
    return table(["t", *found], [[str(values["timestep"]), *(f"{value:.3f}" for value in found.values())]])


def tune(values: Values) -> str:
    """Mean reciprocal rank and Fréchet distance of every setting."""
    methods = [each["method"] for each in values["tried"][0]["representations"]]
    rows = [
        [
            trial["sampler"],
            str(trial["steps"]),
            f"{trial['guidance']:g}",
            *(
                f"{each['mean_reciprocal_rank']['value']:.3f} / {each['frechet']:.2f}"
                for each in trial["representations"]
            ),
        ]
        for trial in sorted(values["tried"], key=lambda trial: (trial["guidance"], trial["steps"]))
    ]
    chosen = values["chosen"]
    return (
        f"{table(['sampler', 'steps', 'guidance', *methods], rows)}\n\n`tune` selects {chosen['steps']} steps and"
        f" guidance {chosen['guidance']:g}."
    )


def speed(values: Values) -> str:
    """Seconds and memory of ``rcdm visualize``, and the gain of cached representations."""
    rows = [
        [
            {"torch": "PyTorch", "graphs": "exported graphs"}[key],
            f"{each['visualize']['seconds']:.1f}",
            f"{100 * each['denoiser_fraction']:.0f} %",
            f"{each['visualize']['peak_mib']:,.0f}",
        ]
        for key, each in values.items()
    ]
    ratio = values["torch"]["training"]["ratio"]
    return (
        table(["engine", "seconds", "time in the denoiser", "peak memory, MiB"], rows)
        + f"\n\nTraining on cached representations processes {ratio:.2f} times as many images per second as computing"
        " the representations in each step."
    )


def probe(values: Values) -> str:
    """Accuracy of the backbone minus accuracy of the projector."""

    def cell(each: Values) -> str:
        return f"{signed(each, '+.1f', 100)} / {signed(each['over_seeds'], '+.1f', 100)}"

    rows = [[each["method"], cell(each["linear"]), cell(each["knn"])] for each in values["differences"]]
    both = [each[kind] for each in values["differences"] for kind in ("linear", "knn")]
    significant = sum(each["low"] > 0 and each["over_seeds"]["low"] > 0 for each in both)
    higher = sum(each["value"] > 0 for each in both)
    return (
        f"{table(['method', 'linear', 'k-NN'], rows)}\n\nIntervals over images: {verdict(both)} The backbone is more"
        f" accurate in {higher} of {len(both)} comparisons. In {significant} of them, both intervals are above 0."
    )


def invariance(values: Values) -> str:
    """Number of augmentations under which the projector is more similar than the backbone."""
    found = values["projector_minus_backbone"]
    rows = []
    for method in dict.fromkeys(each["method"] for each in found):
        own = [each for each in found if each["method"] == method]
        above, below = sum(each["low"] > 0 for each in own), sum(each["high"] < 0 for each in own)
        most, least = (pick(own, key=lambda each: float(each["value"])) for pick in (max, min))
        extremes = [f"{each['augmentation']} {signed(each).strip('*')}" for each in (most, least)]
        rows.append([method, str(above), str(len(own) - above - below), str(below), *extremes])
    head = ["method", "projector more similar", "undecided", "backbone more similar", "largest difference", "smallest"]
    return f"{table(head, rows)}\n\n{verdict(found)}"


def spread(values: Values) -> str:
    """Spread of samples at backbone and projector level."""
    found = {(each["method"], each["level"]): each["diversity"] for each in values["results"]}
    differences = {each["method"]: each for each in values["differences"]}
    rows = []
    for method in dict.fromkeys(method for method, _ in found):
        row = [method]
        for measure in ("pixels", "space"):
            own = [found.get((method, level)) for level in ("backbone", "projector")]
            row.append(" / ".join(f"{each[measure]['value']:.3f}" if each else "–" for each in own))
            row.append(signed(differences[method][measure]) if method in differences else "–")
        rows.append(row)
    head = ["method", "pixels: backbone / projector", "difference", "space: backbone / projector", "difference"]
    both = [each[measure] for each in values["differences"] for measure in ("pixels", "space")]
    return f"{table(head, rows)}\n\n{verdict(both)}"


def fgsm(values: Values) -> str:
    """Accuracy under attack, and retained accuracy compared with the supervised encoder."""
    differences = {(each["attack"], name(each)): each["relative_accuracy"] for each in values["against_supervised"]}
    # Epsilon 0 is the first.
    shown = [0, 1, 2]
    head = ["representation", *(f"{255 * values['epsilons'][i]:.0f}/255" if i else "0" for i in shown)]
    rows = []
    for each in values["results"]:
        if each["attack"] == "fgsm":
            compared = [differences.get((attack, name(each))) for attack in ATTACKS]
            rows.append(
                [
                    name(each),
                    *(f"{each['accuracy'][i]['value']:.2f}" for i in shown),
                    *(signed(found, "+.2f") if found else "–" for found in compared),
                ]
            )
    both = [found for (attack, _), found in differences.items() if attack != "drift" and found]
    return f"{table([*head, 'retained − supervised, FGSM', 'PGD', 'drift'], rows)}\n\n{verdict(both)}"


TABLES: dict[str, dict[str, Callable[[Values], str]]] = {
    "samples": {"samples": samples, "directions": directions},
    "probe": {"probe": probe},
    "invariance": {"invariance": invariance},
    "spread": {"spread": spread},
    "fgsm": {"fgsm": fgsm},
    "denoised": {"denoised": denoised},
    "tune": {"tune": tune},
    "speed": {"speed": speed},
    "samples_of_training_images": {"training images": backbones},
    "guidance_2": {"guidance 2": backbones},
}
"""By measurement, the tables by the names of their marks in the document."""


def _between(text: str, found: re.Match[str]) -> str:
    return found[1] + text + found[2]


def with_tables(document: str, numbers: Values) -> str:
    """Replace each table between ``<!-- NAME -->`` and ``<!-- end -->`` for which ``numbers`` has the measurement."""
    for measurement, tables in TABLES.items():
        for mark, build in tables.items() if measurement in numbers else ():
            pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
            text = f"\n{build(numbers[measurement])}\n\n"
            document, count = pattern.subn(partial(_between, text), document)
            if count != 1:
                raise ValueError(f"The document has {count} tables <!-- {mark} --> with an <!-- end -->.")
    return document
