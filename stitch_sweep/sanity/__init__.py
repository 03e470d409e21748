"""Results one can believe: checks that rule bugs out, and recordings that say why two runs differ."""

from stitch_sweep.sanity.comparison import Comparison, compare
from stitch_sweep.sanity.inspection import inspect_outputs, inspect_weights
from stitch_sweep.sanity.recording import Recording, record
from stitch_sweep.sanity.suite import Sanity, run_sanity

__all__ = [
    "Comparison",
    "Recording",
    "Sanity",
    "compare",
    "inspect_outputs",
    "inspect_weights",
    "record",
    "run_sanity",
]
