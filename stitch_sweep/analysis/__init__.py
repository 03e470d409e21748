"""From a sweep's results to stitching matrices: as tables, CSV, figures and in the terminal.

Example:
    >>> results = load_results("experiments/quickstart/digits")  # doctest: +SKIP
    >>> for matrix in matrices(results):  # doctest: +SKIP
    ...     rich.print(matrix_table(matrix))
"""

from stitch_sweep.analysis.figures import grid, heatmap, save_figure
from stitch_sweep.analysis.matrices import Matrix, matrices, read_matrix, write_matrix
from stitch_sweep.analysis.pareto import draw_fronts, pareto_front, pareto_table
from stitch_sweep.analysis.results import best_trials, check_results, load_results
from stitch_sweep.analysis.terminal import best_table, matrix_table
from stitch_sweep.analysis.writing import write_analysis

__all__ = [
    "Matrix",
    "best_table",
    "best_trials",
    "check_results",
    "draw_fronts",
    "grid",
    "heatmap",
    "load_results",
    "matrices",
    "matrix_table",
    "pareto_front",
    "pareto_table",
    "read_matrix",
    "save_figure",
    "write_analysis",
    "write_matrix",
]
