"""Stitch Sweep: model stitching between frozen networks, swept, tracked and read.

The names in `__all__` are the public interface. Each is imported on first use, so that commands and
scripts load only what they need.

Example:
    >>> from stitch_sweep import load_results, matrices
    >>> for matrix in matrices(load_results("experiments/quickstart/digits")):  # doctest: +SKIP
    ...     print(matrix.sender, matrix.receiver)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stitch_sweep.analysis.matrix.matrices import matrices
    from stitch_sweep.analysis.results import load_results
    from stitch_sweep.checks.inspection import inspect_outputs, inspect_weights
    from stitch_sweep.config.reading import read_config
    from stitch_sweep.measuring.tables import measure
    from stitch_sweep.networks.zoo import load as load_network
    from stitch_sweep.report.writing import analyze
    from stitch_sweep.stitches.storage import load_stitch
    from stitch_sweep.sweep.run import run_sweep
    from stitch_sweep.training.train_stitch import train_stitch

    __version__: str

__all__ = [
    "analyze",
    "inspect_outputs",
    "inspect_weights",
    "load_network",
    "load_results",
    "load_stitch",
    "matrices",
    "measure",
    "read_config",
    "run_sweep",
    "train_stitch",
]

_LOCATIONS = {
    "analyze": "stitch_sweep.report.writing.analyze",
    "inspect_outputs": "stitch_sweep.checks.inspection.inspect_outputs",
    "inspect_weights": "stitch_sweep.checks.inspection.inspect_weights",
    "load_network": "stitch_sweep.networks.zoo.load",
    "load_results": "stitch_sweep.analysis.results.load_results",
    "load_stitch": "stitch_sweep.stitches.storage.load_stitch",
    "matrices": "stitch_sweep.analysis.matrix.matrices.matrices",
    "measure": "stitch_sweep.measuring.tables.measure",
    "read_config": "stitch_sweep.config.reading.read_config",
    "run_sweep": "stitch_sweep.sweep.run.run_sweep",
    "train_stitch": "stitch_sweep.training.train_stitch.train_stitch",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("stitch-sweep")
    if name in _LOCATIONS:
        module, _, attribute = _LOCATIONS[name].rpartition(".")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
