"""A sweep: all trials of a configuration, run by Ray Tune, suggested by Optuna, kept in the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stitch_sweep.sweep.run import Outcome, run_sweep

__all__ = ["Outcome", "run_sweep"]


def __getattr__(name: str) -> Any:
    # Not at the top: every worker imports this package for `trainable` alone, and would wait for
    # pandas, matplotlib and Optuna at the start of the sweep.
    if name in __all__:
        from stitch_sweep.sweep import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
