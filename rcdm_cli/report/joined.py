"""Several runs on one page: the story of an encoder from probe to robustness."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcdm_cli.report.kinds import SECTIONS
from rcdm_cli.report.page import write_page
from rcdm_cli.report.run import read_run, section_of_run


def write_joined(path: Path, folders: Sequence[Path]) -> dict[str, Any]:
    """Write the page of the runs in ``folders``, in the order of their kinds, then in the order given.

    Args:
        path: of the page.
        folders: of finished runs; one that is given twice appears once.

    Returns:
        what the page holds, JSON-able: its title, and kind, folder and title of each section.

    Raises:
        InputError: a folder holds no results, damaged ones, or ones of an unknown kind.
    """
    runs = [(folder, read_run(folder)) for folder in {folder.resolve(): folder for folder in folders}.values()]
    runs.sort(key=lambda run: list(SECTIONS).index(run[1]["kind"]))
    sections = [(folder, section_of_run(folder, results)) for folder, results in runs]
    titles = Counter(section.title for _, section in sections)
    sections = [
        # Two runs of one kind: only the folder tells them apart.
        (folder, replace(section, title=f"{section.title} ({folder.name})") if titles[section.title] > 1 else section)
        for folder, section in sections
    ]
    bundles = dict.fromkeys(str(results["bundle"]) for _, results in runs if "bundle" in results)
    title = f"What the encoders of {', '.join(bundles)} know" if bundles else "What the encoders know"
    write_page(path, title, sections)
    return {
        "title": title,
        "sections": [
            {"kind": results["kind"], "run": str(folder), "title": section.title}
            for (folder, results), (_, section) in zip(runs, sections, strict=True)
        ],
    }
