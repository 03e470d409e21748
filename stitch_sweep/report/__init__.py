"""The report: one page that says what a sweep showed, with figures for papers and tables beside it.

Example:
    >>> analyze([Path("experiments/quickstart/digits")]).page  # doctest: +SKIP
"""

from stitch_sweep.report.experiment import Experiment, load_experiment
from stitch_sweep.report.findings import Findings, analyse
from stitch_sweep.report.merging import merge
from stitch_sweep.report.page import Page
from stitch_sweep.report.writing import Report, analyze, analyze_matrix

__all__ = [
    "Experiment",
    "Findings",
    "Page",
    "Report",
    "analyse",
    "analyze",
    "analyze_matrix",
    "load_experiment",
    "merge",
]
