"""Read architectures and layer counts from the measured table of networks."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from pandas.api import types


def is_missing(value: Any) -> bool:
    """Whether a table's entry is missing; a list is never missing."""
    return value is None or (types.is_scalar(value) and bool(pd.isna(value)))


def architectures(networks: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Map each network that has both to its family and its options as text.

    Networks of one architecture that differ in their seed only have equal values.

    Args:
        networks: columns `network`, `family` and `options` (JSON text).
    """
    return {
        str(row["network"]): (
            str(row["family"]),
            json.dumps(_parse_options(row["options"]), sort_keys=True),
        )
        for row in networks.to_dict("records")
        if not is_missing(row.get("family")) and not is_missing(row.get("options"))
    }


def _parse_options(options: Any) -> Any:
    return json.loads(options) if isinstance(options, str) else options


def layer_counts(networks: pd.DataFrame) -> dict[str, int]:
    """Map each network whose `depth` is known to its number of layers from 0 on."""
    return {
        str(row["network"]): int(row["depth"]) + 1
        for row in networks.to_dict("records")
        if not is_missing(row.get("depth"))
    }
