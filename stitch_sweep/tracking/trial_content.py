"""The content of a trial's MLflow run: its name, params, metrics and tags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from stitch_sweep.config.paths import flatten
from stitch_sweep.core.splits import SHORT_SPLITS
from stitch_sweep.storage.study import format_cell

MOST_CHARACTERS = 500
"""Length of a param or tag; MLflow accepts no more."""


class Point(NamedTuple):
    """A metric's value at a step.

    Attributes:
        key: name of the metric.
        value: of the metric.
        time: milliseconds since the epoch. MLflow keeps equal points once.
        step: training step.
    """

    key: str
    value: float
    time: int
    step: int


def run_name(record: Mapping[str, Any]) -> str:
    """Return the name of a trial's run: cell, stitch and losses; repeat and number unless they are 0."""
    settings = record["settings"]
    parts = [
        format_cell(record),
        settings["stitch"]["name"],
        "+".join(settings["loss"]),
    ]
    parts += [f"{key} {record[key]}" for key in ("repeat", "number") if record[key]]
    return ", ".join(parts)


def run_times(record: Mapping[str, Any]) -> tuple[int, int]:
    """Return the start and the end of an ended trial, in milliseconds since the epoch."""
    started = int(record["started"] * 1000)
    return started, started + int(record["seconds"] * 1000)


def run_params(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cell, its identity, and all settings of a trial."""
    settings = record["settings"]
    return {
        **{k: record[k] for k in ("sender", "sender_layer", "receiver", "receiver_layer")},
        "pair": f"{record['sender']} -> {record['receiver']}",
        "repeat": record["repeat"],
        "number": record["number"],
        "stitch": settings["stitch"]["name"],
        "loss": "+".join(settings["loss"]),
        **flatten_settings({k: v for k, v in settings.items() if k != "loss"}),
        **flatten_settings(settings["loss"], "loss"),
    }


def run_metrics(record: Mapping[str, Any]) -> list[Point]:
    """Return the trajectory as step metrics, and the final metrics at step 0."""
    started, ended = run_times(record)
    points = [
        Point(
            f"{SHORT_SPLITS[row['split']]}/{key}",
            value,
            started + int(row["time"] * 1000),
            row["step"],
        )
        for row in record["trajectory"]
        for key, value in row.items()
        if key not in ("step", "split", "time", "epoch", "kept") and value is not None
    ]
    finals = {
        **record["metrics"],
        # Also as metrics, because MLflow sorts params as text.
        "sender_layer": record["sender_layer"],
        "receiver_layer": record["receiver_layer"],
        "seconds": record["seconds"],
    }
    points += [
        Point(key, float(value), ended, 0) for key, value in finals.items() if value is not None
    ]
    return points


def run_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a failed trial's error, a stopped trial's last epoch, and the original of a copy."""
    tags = {"error": record["error"][:MOST_CHARACTERS]} if record.get("error") else {}
    if record["status"] == "stopped":
        tags |= {"status": "stopped", "stopped_at": str(record["stopped_at"])}
    if record.get("copied_from"):
        tags["copied_from"] = record["copied_from"]
    return tags


def flatten_settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as {dotted path: value}. Empty values are skipped, other values become JSON.

    Args:
        tree: nested settings.
        prefix: path of `tree`.
    """
    return {
        path: value if isinstance(value, str | int | float) else json.dumps(value)
        for path, value in flatten(tree, prefix)
        if value is not None and value != []
    }
