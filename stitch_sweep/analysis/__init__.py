"""From a sweep's results to stitching matrices: as tables, CSV, figures and in the terminal.

Example:
    >>> results = load_results("experiments/quickstart/digits")  # doctest: +SKIP
    >>> for matrix in matrices(results):  # doctest: +SKIP
    ...     rich.print(matrix_table(matrix))
"""

from stitch_sweep.analysis.comparison import (
    against_task,
    hacking,
    loss_table,
    measure_correlations,
    regional,
)
from stitch_sweep.analysis.figures import grid, heatmap, save_figure
from stitch_sweep.analysis.knock_out import by_removed, gap_matrices, gap_matrix, is_knock_out
from stitch_sweep.analysis.ladder import ladder_points
from stitch_sweep.analysis.ladder_fit import LadderFit
from stitch_sweep.analysis.matrices import Matrix, matrices, read_matrix, write_matrix
from stitch_sweep.analysis.pareto import pareto_front, pareto_table
from stitch_sweep.analysis.populations import architecture_verdicts, judge_networks
from stitch_sweep.analysis.results import best_trials, check_results, load_results
from stitch_sweep.analysis.terminal import best_table, matrix_table
from stitch_sweep.analysis.transition import fit_ladder, fit_ladders
from stitch_sweep.analysis.verdict import Verdict, judge, judge_bare, verdicts
from stitch_sweep.analysis.writing import write_analysis

__all__ = [
    "LadderFit",
    "Matrix",
    "Verdict",
    "against_task",
    "architecture_verdicts",
    "best_table",
    "best_trials",
    "by_removed",
    "check_results",
    "fit_ladder",
    "fit_ladders",
    "gap_matrices",
    "gap_matrix",
    "grid",
    "hacking",
    "heatmap",
    "is_knock_out",
    "judge",
    "judge_bare",
    "judge_networks",
    "ladder_points",
    "load_results",
    "loss_table",
    "matrices",
    "matrix_table",
    "measure_correlations",
    "pareto_front",
    "pareto_table",
    "read_matrix",
    "regional",
    "save_figure",
    "verdicts",
    "write_analysis",
    "write_matrix",
]
