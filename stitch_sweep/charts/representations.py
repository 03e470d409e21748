"""Differences between representations, by region of the matrix."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from stitch_sweep.analysis.results import FACTOR, PAIR
from stitch_sweep.charts.colors import series_style
from stitch_sweep.charts.elements import Axis, ChartRow, LineChart, Series
from stitch_sweep.core.measures import short_title

_REGIONS = ("lower", "band", "upper")


def describe_regions(table: pd.DataFrame, quantities: Sequence[str]) -> ChartRow:
    """Describe means by region of the matrix: a chart per quantity, a line per loss and pair.

    Args:
        table: as `comparison.regional.regional` returns it.
        quantities: names of quantities in the table.
    """
    loss = "similarity_loss" if "similarity_loss" in table else "loss"
    keys = [name for name in table.columns if name in (*PAIR, loss) or name.startswith(FACTOR)]
    charts = []
    for quantity in quantities:
        rows = table[table["quantity"] == quantity]
        series = []
        for position, (values, group) in enumerate(rows.groupby(keys, sort=False, dropna=False)):
            key = dict(zip(keys, values, strict=True))
            regions = group.set_index("region").reindex(list(_REGIONS))
            means = regions["mean"].astype("float64").tolist()
            errors = regions["standard_error"].astype("float64").fillna(0).tolist()
            series.append(
                Series(
                    x=list(range(len(_REGIONS))),
                    y=means,
                    style=series_style(position),
                    name=f"{key['sender']} → {key['receiver']}, {key[loss]}",
                    errors=(errors, errors),
                    hover=[f"{r}: {v:.3g}" for r, v in zip(_REGIONS, means, strict=True)],
                )
            )
        ticks = tuple((float(k), region) for k, region in enumerate(_REGIONS))
        x = Axis("", (-0.3, 2.3), ticks)
        charts.append(LineChart(series, x, Axis("", (0, None)), title=short_title(quantity)))
    return ChartRow(charts)
