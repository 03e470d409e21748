"""Stitch Sweep: model stitching between frozen networks, swept, tracked and read.

The names in `__all__` are the public interface. Each is imported on first use, so that commands and
scripts load only what they need.

Example:
    >>> import stitch_sweep as ss
    >>> result = ss.stitch(net_a, net_b, 2, 3, data=(images, labels))  # doctest: +SKIP
    >>> result.metrics["test_accuracy"]  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stitch_sweep.api.experiment import SweepExperiment, load
    from stitch_sweep.api.matrices import matrix
    from stitch_sweep.api.networks import cut, describe, layers
    from stitch_sweep.api.similarity import similarity
    from stitch_sweep.api.stitching import TrainedStitch, stitch
    from stitch_sweep.api.sweeping import sweep
    from stitch_sweep.checks.inspection import inspect_outputs, inspect_weights
    from stitch_sweep.core.errors import InputError, StoppedError
    from stitch_sweep.measuring.tables import measure
    from stitch_sweep.networks.zoo import load as load_network
    from stitch_sweep.report.writing import analyze
    from stitch_sweep.stitches.storage import load_stitch

    __version__: str

__all__ = [
    "InputError",
    "StoppedError",
    "SweepExperiment",
    "TrainedStitch",
    "analyze",
    "cut",
    "describe",
    "inspect_outputs",
    "inspect_weights",
    "layers",
    "load",
    "load_network",
    "load_stitch",
    "matrix",
    "measure",
    "similarity",
    "stitch",
    "sweep",
]

_LOCATIONS = {
    "InputError": "stitch_sweep.core.errors.InputError",
    "StoppedError": "stitch_sweep.core.errors.StoppedError",
    "SweepExperiment": "stitch_sweep.api.experiment.SweepExperiment",
    "TrainedStitch": "stitch_sweep.api.stitching.TrainedStitch",
    "analyze": "stitch_sweep.report.writing.analyze",
    "cut": "stitch_sweep.api.networks.cut",
    "describe": "stitch_sweep.api.networks.describe",
    "inspect_outputs": "stitch_sweep.checks.inspection.inspect_outputs",
    "inspect_weights": "stitch_sweep.checks.inspection.inspect_weights",
    "layers": "stitch_sweep.api.networks.layers",
    "load": "stitch_sweep.api.experiment.load",
    "load_network": "stitch_sweep.networks.zoo.load",
    "load_stitch": "stitch_sweep.stitches.storage.load_stitch",
    "matrix": "stitch_sweep.api.matrices.matrix",
    "measure": "stitch_sweep.measuring.tables.measure",
    "similarity": "stitch_sweep.api.similarity.similarity",
    "stitch": "stitch_sweep.api.stitching.stitch",
    "sweep": "stitch_sweep.api.sweeping.sweep",
}


class _CallableModule(ModuleType):
    """The package `stitch_sweep.sweep`, which is called like the function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> Any:
        from inspect import signature

        return signature(self._function())

    @staticmethod
    def _function() -> Any:
        return import_module("stitch_sweep.api.sweeping").sweep


class _Root(ModuleType):
    """The package `stitch_sweep`, whose attribute `sweep` an import of `stitch_sweep.sweep` sets."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "sweep" and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("stitch-sweep")
    if name == "sweep":
        return import_module("stitch_sweep.sweep")
    if name in _LOCATIONS:
        module, _, attribute = _LOCATIONS[name].rpartition(".")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
