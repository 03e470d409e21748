"""A sweep: all trials of a configuration, run by Ray Tune, suggested by Optuna, kept in the ledger."""

from __future__ import annotations

from stitch_sweep.sweep.run import Outcome, run_sweep

__all__ = ["Outcome", "run_sweep"]
