"""The kinds of results that a page can show, in the order in which a page of several tells them."""

from collections.abc import Callable, Mapping
from typing import Any

from rcdm_cli.report.elements import Section
from rcdm_cli.report.evaluate import section as evaluate
from rcdm_cli.report.fgsm import section as fgsm
from rcdm_cli.report.interpolate import section as interpolate
from rcdm_cli.report.invariance import section as invariance
from rcdm_cli.report.manipulate import section as manipulate
from rcdm_cli.report.probe import section as probe
from rcdm_cli.report.tune import section as tune
from rcdm_cli.report.visualization import section as visualize

# From what a representation is good for, over what it holds and how good the pictures of it are, to what it withstands;
# then how sampling was tuned.
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
