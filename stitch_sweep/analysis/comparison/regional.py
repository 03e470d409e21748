"""Average measures by region of the matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.api import types

from stitch_sweep.analysis.comparison.losses import cell_means, identity_columns
from stitch_sweep.analysis.matrix.order_parameters import REGIONS
from stitch_sweep.analysis.results import CELL, PAIR
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.measures import DIFFERENCES, OUTLIER_SCORES, SIMILARITIES


def regional(
    table: pd.DataFrame,
    regions: pd.DataFrame | Mapping[tuple[str, str], pd.DataFrame],
    quantities: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Average quantities below, in and above the band of equal depth.

    Args:
        table: `representations.parquet` as `measure` wrote it, or the result of `loss_table`.
        regions: by sender layer (rows) and receiver layer (columns), "lower", "band" or "upper", missing
            where a cell belongs to none, as `analysis.matrix.order_parameters.regions` returns them; one
            table for all pairs, or one per (sender, receiver).
        quantities: numeric columns of `table`; if not given, those of `measures.DIFFERENCES` and
            `measures.OUTLIER_SCORES` that it has, or else those of `measures.SIMILARITIES`.

    Returns:
        A row per sender, receiver, factors, loss (column `similarity_loss` or `loss`, whichever `table`
        has), `quantity` and `region`: `n` cells, their `mean`, and `standard_error` = standard deviation
        / sqrt(n), NaN for one cell. Repeats of a cell are averaged first. Cells of a matrix share two
        networks, so the standard error describes their spread and does not generalize to other
        networks.

    Raises:
        InputError: a quantity is not a numeric column, or a pair has no regions.
    """
    measured = [q for q in (*DIFFERENCES, *OUTLIER_SCORES) if q in table]
    default = measured or [q for q in SIMILARITIES if q in table]
    shown = list(default if quantities is None else quantities)
    numeric = [str(name) for name in table.columns if types.is_numeric_dtype(table[name])]
    if wrong := [name for name in shown if name not in numeric]:
        raise InputError(
            *(
                f"quantity {name!r} is not a numeric column; {nearest(name, numeric)}"
                for name in wrong
            )
        )
    loss = "similarity_loss" if "similarity_loss" in table else "loss"
    names = identity_columns(table)
    means = cell_means(table, [*PAIR, *names], loss, shown)
    means["region"] = pd.Series(_regions_of(means, regions), index=means.index, dtype="object")
    long = means.melt(
        [*PAIR, *names, loss, "region"], shown, var_name="quantity", value_name="value"
    ).dropna(subset=["region", "value"])
    long["region"] = pd.Categorical(long["region"], list(REGIONS))
    long["quantity"] = pd.Categorical(long["quantity"], shown)
    keys = [*PAIR, *names, loss, "quantity", "region"]
    summary = long.groupby(keys, dropna=False, observed=True)["value"].agg(["count", "mean", "sem"])
    summary = summary.reset_index().rename(columns={"count": "n", "sem": "standard_error"})
    return summary.astype({"quantity": "str", "region": "str"})


def _regions_of(
    cells: pd.DataFrame, regions: pd.DataFrame | Mapping[tuple[str, str], pd.DataFrame]
) -> list[object]:
    """Look up the region of each cell; None for a cell that belongs to none."""
    names = []
    for sender, receiver, i, j in cells[[*PAIR, *CELL]].itertuples(index=False):
        if isinstance(regions, pd.DataFrame):
            pair_regions: pd.DataFrame | None = regions
        else:
            pair_regions = regions.get((sender, receiver))
        if pair_regions is None:
            raise InputError(f"there are no regions for the pair {sender} -> {receiver}")
        inside = i in pair_regions.index and j in pair_regions.columns
        names.append(pair_regions.loc[i, j] if inside else None)
    return names
