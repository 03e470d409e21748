"""The checks. Each takes a `Subject` and returns a `Finding`; none depends on another.

What a check compares with is worked out apart from the code under test wherever that can be, so that
a fault can't hide by being on both sides; `plain` holds stitching written out.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from stitch_sweep.checks.sanity.duplicates import duplicates
from stitch_sweep.checks.sanity.evaluating import batch_size, evaluate_again, order
from stitch_sweep.checks.sanity.frozen import activations, frozen, identity
from stitch_sweep.checks.sanity.loading import loaders
from stitch_sweep.checks.sanity.precision import precision
from stitch_sweep.checks.sanity.subject import Finding, Subject
from stitch_sweep.checks.sanity.training import (
    no_abstractions,
    other_trials,
    schedule,
    self_against_copy,
    store_and_load,
)

Check = Callable[[Subject], Finding]

CHECKS: MappingProxyType[str, Check] = MappingProxyType(
    {
        "self against copy": self_against_copy,
        "other trials": other_trials,
        "store and load": store_and_load,
        "evaluate again": evaluate_again,
        "batch size": batch_size,
        "order": order,
        "schedule": schedule,
        "no abstractions": no_abstractions,
        "frozen": frozen,
        "identity": identity,
        "activations": activations,
        "loaders": loaders,
        "duplicates": duplicates,
        "precision": precision,
    }
)
"""Every check by its name, in the order in which they run."""
