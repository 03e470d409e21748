"""The objectives of a search: their check, and their values in a trial's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stitch_sweep.analysis.results import uses_test_images
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.measures import MEASURES


def check_objectives(config: Config) -> None:
    """Check that every objective is a metric of a trial that doesn't depend on test images.

    Raises:
        InputError: an objective isn't.
    """
    metrics = [
        "val_accuracy",
        "val_loss",
        "stitch_parameters",
        "stitch_multiply_adds",
        *(f"val_{measure}" for measure in MEASURES),
    ]
    problems = []
    for name in config.search.objectives:
        if uses_test_images(name):
            problems.append(
                f"search.objectives.{name}: is computed on test images and can't guide a search"
            )
        elif name not in metrics:
            problems.append(f"search.objectives.{name}: is not a metric: {nearest(name, metrics)}")
    if problems:
        raise InputError(*problems)


def learning_curve(record: Mapping[str, Any], config: Config) -> list[float]:
    """Return the search metric after each epoch of a trial, from the trajectory in its record.

    An epoch in which the training ended early has no value, unless it is the first.
    """
    column = config.search.metric.removeprefix("val_")
    rows = (row for row in record.get("trajectory", ()) if row["split"] == "validation")
    # Row 0 is the start. An epoch may have several rows; the last one is at its end.
    last_rows = {row["epoch"]: row for row in rows if row["step"] > 0}
    if last_rows:
        epoch, steps_per_epoch = max(last_rows), last_rows[min(last_rows)]["step"]
        if last_rows[epoch]["step"] < epoch * steps_per_epoch:
            del last_rows[epoch]
    return [row[column] for row in last_rows.values()]


def objective_values(record: Mapping[str, Any], config: Config) -> list[float] | None:
    """Return a trial's value of each objective; None if it failed, was stopped, or lacks one."""
    if record["status"] != "finished":
        return None
    values = [record["metrics"].get(name) for name in config.search.goals]
    return None if any(value is None for value in values) else values
