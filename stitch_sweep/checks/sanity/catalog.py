"""The list of checks. A check takes a `Subject` and returns a `Finding`; none depends on another.

Where possible, a check computes its reference values without the code under test, so that a fault
cannot appear on both sides and hide. `plain` is model stitching in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from stitch_sweep.checks.sanity.abstractions import no_abstractions
from stitch_sweep.checks.sanity.batch_sizes import batch_size
from stitch_sweep.checks.sanity.duplicates import duplicates
from stitch_sweep.checks.sanity.fast_network import fast_network
from stitch_sweep.checks.sanity.findings import Finding
from stitch_sweep.checks.sanity.frozen import frozen
from stitch_sweep.checks.sanity.halves import activations, identity
from stitch_sweep.checks.sanity.independence import other_trials, self_against_copy
from stitch_sweep.checks.sanity.loaders import loaders
from stitch_sweep.checks.sanity.order import order
from stitch_sweep.checks.sanity.packs import pack
from stitch_sweep.checks.sanity.precision import precision
from stitch_sweep.checks.sanity.repetition import evaluate_again
from stitch_sweep.checks.sanity.schedule import schedule
from stitch_sweep.checks.sanity.storing import store_and_load
from stitch_sweep.checks.sanity.subject import Subject

LOADERS = "loaders"
"""Name of the check that concerns configurations with FFCV only."""

Check = Callable[[Subject], Finding]

CHECKS: MappingProxyType[str, Check] = MappingProxyType(
    {
        "self against copy": self_against_copy,
        "other trials": other_trials,
        "pack": pack,
        "store and load": store_and_load,
        "evaluate again": evaluate_again,
        "batch size": batch_size,
        "order": order,
        "schedule": schedule,
        "no abstractions": no_abstractions,
        "frozen": frozen,
        "fast network": fast_network,
        "identity": identity,
        "activations": activations,
        LOADERS: loaders,
        "duplicates": duplicates,
        "precision": precision,
    }
)
"""Every check by its name, in the order in which they run."""

TINY = "little: "
"""Prefix of the names of checks that run on tiny networks."""
