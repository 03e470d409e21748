"""The tables of a sweep: results, predictions and trajectories, from the ledger's records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from stitch_sweep.analysis.results import PAIR
from stitch_sweep.config.loss import recorded_label
from stitch_sweep.config.paths import flatten
from stitch_sweep.config.trial import label
from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.predictions import decode_predictions


def results_table(
    records: Iterable[Mapping[str, Any]], kinds: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Build the results: identity, crossed factors, searched and all settings, and final metrics.

    Args:
        records: of ended trials.
        kinds: `NetworkConfig.kind` by network name; without it the table lacks the kinds' columns.

    Returns:
        A row per trial.

    Raises:
        InputError: a record's loss isn't valid.
    """
    rows = []
    for record in records:
        settings = record["settings"]
        rows.append(
            {
                "trial": record["trial"],
                "sender": record["sender"],
                "receiver": record["receiver"],
                **({f"{side}_kind": kinds[record[side]] for side in PAIR} if kinds else {}),
                "sender_layer": record["sender_layer"],
                "receiver_layer": record["receiver_layer"],
                "repeat": record["repeat"],
                "number": record["number"],
                "stitch": settings["stitch"]["name"],
                "loss": _loss_label(record),
                **{f"factor.{k}": label(v) for k, v in record["factors"].items()},
                **{f"setting.{k}": label(v) for k, v in record["params"].items()},
                **{
                    path: label(value)
                    for path, value in flatten(settings.get("training", {}), "training")
                    if value is not None
                },
                "status": record["status"],
                **({"stopped_at": record["stopped_at"]} if "stopped_at" in record else {}),
                "error": record.get("error"),
                "copied_from": record.get("copied_from"),
                "metric": record["metric"],
                "val_accuracy": None,
                "test_accuracy": None,
                "penalty": None,
                "converged": None,
                "sender_accuracy": None,
                "receiver_accuracy": None,
                **record["metrics"],
                "seconds": record["seconds"],
            }
        )
    table = pd.DataFrame(rows)
    for column in ("metric", "val_accuracy", "test_accuracy", "penalty"):
        table[column] = table[column].astype("float64")
    for column in ("sender_accuracy", "receiver_accuracy"):
        table[column] = table[column].astype("float64")
    if "stopped_at" in table:
        table["stopped_at"] = table["stopped_at"].astype("Int64")
    table["converged"] = table["converged"].astype("boolean")
    for column in table.columns[table.columns.str.match(r"(factor|setting|training)\.")]:
        # Parquet has no column for numbers beside `null` or names.
        if table[column].dropna().map(type).nunique() > 1:
            table[column] = table[column].map(str, na_action="ignore")
    return table


def predictions_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Build the predictions: a row per finished trial, with the predicted class of every test image."""
    rows = [(r["trial"], p) for r in records if (p := decode_predictions(r)) is not None]
    return pd.DataFrame(rows, columns=["trial", "predictions"])


def trajectory_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Build the trajectories: a row per logged step of every trial."""
    identity = ("trial", "sender", "sender_layer", "receiver", "receiver_layer", "repeat", "number")
    rows = [
        {**{key: record[key] for key in identity}, **row}
        for record in records
        for row in record["trajectory"]
    ]
    return pd.DataFrame(rows, columns=None if rows else list(identity))


def _loss_label(record: Mapping[str, Any]) -> str:
    label = recorded_label(record["settings"]["loss"])
    if label is None:
        raise InputError(
            f"trial {record['trial']}: the loss in its record's settings is not valid; remove the "
            "record to run the trial again"
        )
    return label
