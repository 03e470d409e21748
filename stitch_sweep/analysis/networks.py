"""What the measured table of networks says about them."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from pandas.api import types


def absent(value: Any) -> bool:
    """Whether a table's entry is missing; a list never is."""
    return value is None or (types.is_scalar(value) and bool(pd.isna(value)))


def architectures(networks: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Family and options, as text, of every network that has both; equal for seeds of one architecture.

    Args:
        networks: columns `network`, `family` and `options` (JSON text).
    """
    return {
        str(row["network"]): (
            str(row["family"]),
            json.dumps(_parsed(row["options"]), sort_keys=True),
        )
        for row in networks.to_dict("records")
        if not absent(row.get("family")) and not absent(row.get("options"))
    }


def _parsed(options: Any) -> Any:
    return json.loads(options) if isinstance(options, str) else options


def layer_counts(networks: pd.DataFrame) -> dict[str, int]:
    """How many layers from 0 on each network has, of those whose `depth` is known."""
    return {
        str(row["network"]): int(row["depth"]) + 1
        for row in networks.to_dict("records")
        if not absent(row.get("depth"))
    }
