"""Linear probes of the networks' layers."""

from __future__ import annotations

import pandas as pd

from stitch_sweep.charts.colors import series_style
from stitch_sweep.charts.elements import Axis, LineChart, Series


def describe_probes(table: pd.DataFrame) -> LineChart:
    """Describe the test accuracy of a linear classifier on every layer, with a line per network.

    Args:
        table: the measured table `probes`: `network`, `layer`, `test_accuracy`.
    """
    series = []
    for position, (name, group) in enumerate(table.groupby("network", sort=False)):
        rows = group.sort_values("layer")
        accuracies = rows["test_accuracy"].astype("float64").tolist()
        hover = [f"layer {k}: {v:.3f}" for k, v in zip(rows["layer"], accuracies, strict=True)]
        style = series_style(position)
        series.append(Series(rows["layer"].tolist(), accuracies, style, str(name), hover=hover))
    return LineChart(
        series, Axis("layer", whole_ticks=True), Axis("linear probe, test accuracy", (0, 1.03))
    )
