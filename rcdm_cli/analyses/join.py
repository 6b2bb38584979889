"""Several runs on one page."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcdm_cli.analyses.evaluate.schema import EvaluateResults
from rcdm_cli.analyses.evaluate.section import section as evaluate
from rcdm_cli.analyses.fgsm.schema import FgsmResults
from rcdm_cli.analyses.fgsm.section import section as fgsm
from rcdm_cli.analyses.interpolate.schema import InterpolateResults
from rcdm_cli.analyses.interpolate.section import section as interpolate
from rcdm_cli.analyses.invariance.schema import InvarianceResults
from rcdm_cli.analyses.invariance.section import section as invariance
from rcdm_cli.analyses.manipulate.schema import ManipulateResults
from rcdm_cli.analyses.manipulate.section import section as manipulate
from rcdm_cli.analyses.probe.schema import ProbeResults
from rcdm_cli.analyses.probe.section import section as probe
from rcdm_cli.analyses.tune.schema import TuneResults
from rcdm_cli.analyses.tune.section import section as tune
from rcdm_cli.analyses.visualize.schema import VisualizeResults
from rcdm_cli.analyses.visualize.section import section as visualize
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.outputs import output_file
from rcdm_cli.report.elements import Section
from rcdm_cli.report.page import write_page
from rcdm_cli.report.run import RESULTS, read_results, with_settings
from rcdm_cli.report.schema import RunResults

# In the order of the page.
SECTIONS: dict[str, Callable[[Mapping[str, Any]], Section]] = {
    "probe": probe,
    "visualize": visualize,
    "evaluate": evaluate,
    "interpolate": interpolate,
    "manipulate": manipulate,
    "invariance": invariance,
    "fgsm": fgsm,
    "tune": tune,
}

MODELS: dict[str, type[RunResults]] = {
    "probe": ProbeResults,
    "visualize": VisualizeResults,
    "evaluate": EvaluateResults,
    "interpolate": InterpolateResults,
    "manipulate": ManipulateResults,
    "invariance": InvarianceResults,
    "fgsm": FgsmResults,
    "tune": TuneResults,
}


def write_joined(path: Path, folders: Sequence[Path]) -> dict[str, Any]:
    """Write the page of several runs, ordered by kind, then by position in ``folders``.

    Args:
        path: File of the page.
        folders: Folders of finished runs. Repeated folders are used once.

    Returns:
        JSON-able content: title of the page; kind, folder and title of each section.

    Raises:
        InputError: The results of a folder are missing, damaged or of an unknown kind.
    """
    runs = [
        (folder, read_results(folder, MODELS)) for folder in {folder.resolve(): folder for folder in folders}.values()
    ]
    runs.sort(key=lambda run: list(SECTIONS).index(run[1]["kind"]))
    sections = [(folder, section_of_run(folder, results)) for folder, results in runs]
    titles = Counter(section.title for _, section in sections)
    sections = [
        # The folder distinguishes two runs of one kind.
        (folder, replace(section, title=f"{section.title} ({folder.name})") if titles[section.title] > 1 else section)
        for folder, section in sections
    ]
    bundles = dict.fromkeys(str(results["bundle"]) for _, results in runs if "bundle" in results)
    title = f"What the encoders of {', '.join(bundles)} encode" if bundles else "What the encoders encode"
    with output_file(path):
        write_page(path, title, sections)
    return {
        "title": title,
        "sections": [
            {"kind": results["kind"], "run": str(folder), "title": section.title}
            for (folder, results), (_, section) in zip(runs, sections, strict=True)
        ],
    }


def section_of_run(folder: Path, results: Mapping[str, Any]) -> Section:
    """Build the section of results that were read from a file.

    Raises:
        InputError: The values contradict each other.
    """
    try:
        return with_settings(SECTIONS[results["kind"]](results), results)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / RESULTS} is incomplete ({type(error).__name__}: {error}). Run the command that wrote it again."
        ) from error
