"""Every chart is described once; both renderers show its values, names and marks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from stitch_sweep.charts.colors import SERIES, SeriesStyle, series_style
from stitch_sweep.charts.elements import (
    Axis,
    BarChart,
    ChartRow,
    Heatmap,
    ImageTable,
    LineChart,
    ReferenceLine,
    Series,
    SmallMultiples,
    Span,
)
from stitch_sweep.charts.figures import draw
from stitch_sweep.charts.ladder import select_ticks, short_size
from stitch_sweep.charts.matrices import describe_correlations
from stitch_sweep.charts.networks import describe_probes
from stitch_sweep.charts.plotly_renderer import escape_markup, matrix_to_plotly, to_plotly
from stitch_sweep.charts.representations import describe_regions
from stitch_sweep.charts.search import MOST_BAR_GROUPS, describe_importances
from stitch_sweep.charts.trajectories import describe_trajectories

DASHED = SeriesStyle("#0072b2", "dashed", "square")


def lines() -> LineChart:
    return LineChart(
        series=[
            Series([1, 2, 4], [0.5, math.nan, 1.0], series_style(0), "a <b> $x$", has_line=False,
                   errors=([0.1, 0, 0.2], [0.2, 0, 0.1]), hover=["one\ntwo", "", "<i>"]),
            Series([1, 4], [0.4, 0.9], DASHED, has_markers=False),
        ],
        x=Axis("size", (0.9, 4.4), ((1, "1"), (4, "4")), is_log=True),
        y=Axis("value"),
        spans=[Span(2, 3, SERIES[0])],
        references=[ReferenceLine(1.0, "triangle")],
    )  # fmt: skip


def heatmap() -> Heatmap:
    return Heatmap(
        values=np.array([[0.5, math.nan], [math.nan, 1.0]]),
        texts=[["0.50", "×"], ["", "1.00*"]],
        states=[["", "failed"], ["not run", ""]],
        row_labels=["0", "1"],
        column_labels=["0", "1"],
        row_title="sender layer",
        column_title="receiver layer",
        limits=(0.0, 1.0),
        value_title="test accuracy",
    )


def probe_table() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"network": name, "layer": layer, "test_accuracy": 0.1 * layer + 0.2 * k}
            for k, name in enumerate("ab")
            for layer in (1, 0)
        ]
    )


def region_table() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"sender": "a", "receiver": "b", "similarity_loss": loss, "quantity": quantity,
             "region": region, "mean": 1.0 + k, "standard_error": error}
            for quantity in ("ev_relative", "es_relative")
            for loss in ("mse", "cka")
            for k, (region, error) in enumerate((("lower", 0.1), ("upper", math.nan)))
        ]
    )  # fmt: skip


def importance_table(groups: int) -> tuple[pd.DataFrame, list[str]]:
    rows = [(setting, share, f"group {k}") for k in range(groups)
            for setting, share in (("lr", 0.8), ("batch", 0.2))]  # fmt: skip
    table = pd.DataFrame([{"setting": s, "importance": v} for s, v, _ in rows])
    return table, [name for *_, name in rows]


def test_lines_have_the_same_points_in_both_renderers():
    chart = lines()
    figure, page = draw(chart), to_plotly(chart)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    points, line = axes.containers
    drawn = np.asarray(points.lines[0].get_ydata(), dtype="float64")
    np.testing.assert_array_equal(drawn, [0.5, math.nan, 1.0])
    np.testing.assert_array_equal(line.lines[0].get_ydata(), [0.4, 0.9])
    assert line.lines[0].get_linestyle() == "--"
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == (0.9, 4.4)
    assert list(page.data[0].y) == [0.5, None, 1.0]
    assert list(page.data[1].y) == [0.4, 0.9]
    assert page.data[0].mode == "markers"
    assert page.data[1].mode == "lines"
    assert page.data[1].line.dash == "dash"
    assert list(page.data[0].error_y.arrayminus) == [0.1, 0, 0.2]
    assert list(page.data[0].error_y.array) == [0.2, 0, 0.1]
    np.testing.assert_allclose(page.layout.xaxis.range, [math.log10(0.9), math.log10(4.4)])
    words = {text.get_text() for text in axes.texts} | {
        annotation.text for annotation in page.layout.annotations
    }
    assert words == {"triangle"}
    # The span and the reference line.
    assert len(page.layout.shapes) == 2
    assert axes.get_legend().get_texts()[0].get_text() == "a <b> $x$"


def test_the_page_shows_no_text_as_markup():
    page = to_plotly(lines())
    assert page.data[0].name == "a &lt;b&gt; $x$"
    assert page.data[0].hovertext == ("one<br>two", "", "&lt;i&gt;")
    assert escape_markup("<a>\n&") == "&lt;a&gt;<br>&amp;"


def test_cells_show_numbers_failures_and_gaps():
    page = matrix_to_plotly(heatmap())
    cells, empty = page.data
    assert [list(row) for row in cells.z] == [[0.5, None], [None, 1.0]]
    assert [list(row) for row in cells.text] == [["0.50", ""], ["", "1.00*"]]
    assert list(empty.text) == ["×", ""]
    assert [row[2] for row in empty.customdata] == ["failed", "not run"]
    # The outline of the selected cell, and a frame per empty cell.
    assert len(page.layout.shapes) == 3
    figure = draw(heatmap())
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["0.50", "×", "1.00*"]
    assert [bool(patch.get_hatch()) for patch in axes.patches] == [False, True]


def test_correlations_have_a_fixed_scale_and_short_titles():
    square = pd.DataFrame(
        [[1.0, -0.5], [-0.5, math.nan]],
        index=["accuracy_calibrated", "val_cka"],
        columns=["accuracy_calibrated", "val_cka"],
    )
    chart = describe_correlations(square)
    page, figure = to_plotly(chart), draw(chart)
    assert chart.row_labels == ["calibrated accuracy", "CKA"]
    assert (page.data[0].zmin, page.data[0].zmax) == (-1, 1)
    assert list(page.layout.xaxis.ticktext) == chart.column_labels
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "-0.50", "-0.50"]


def test_probes_have_a_line_per_network_ordered_by_layer():
    chart = describe_probes(probe_table())
    assert [series.name for series in chart.series] == ["a", "b"]
    assert [list(series.x) for series in chart.series] == [[0, 1], [0, 1]]
    assert chart.series[1].hover == ["layer 0: 0.200", "layer 1: 0.300"]
    assert len(to_plotly(chart).data) == len(draw(chart).axes[0].containers) == 2


def test_regions_share_one_legend():
    row = describe_regions(region_table(), ["ev_relative", "es_relative"])
    assert isinstance(row, ChartRow)
    assert [chart.title for chart in row.charts] == ["EV, relative", "ES, relative"]
    first, second = row.charts[0].series
    assert (first.name, second.name) == ("a → b, mse", "a → b, cka")
    # There is no mean in the band, and a single cell has no error.
    np.testing.assert_array_equal(first.y, [1.0, math.nan, 2.0])
    assert first.errors[0] == [0.1, 0, 0]
    page = to_plotly(row)
    assert [trace.showlegend for trace in page.data] == [True, True, False, False]
    assert [trace.xaxis for trace in page.data] == ["x", "x", "x2", "x2"]
    legends = [axes.get_legend() for axes in draw(row).axes]
    assert [legend is not None for legend in legends] == [False, True]


@pytest.mark.parametrize("groups", [1, MOST_BAR_GROUPS, MOST_BAR_GROUPS + 1])
def test_importances_are_bars_or_points(groups):
    chart = describe_importances(*importance_table(groups))
    assert isinstance(chart, BarChart)
    assert chart.categories == ["batch", "lr"]
    assert [group.values for group in chart.groups] == [[0.2, 0.8]] * groups
    assert chart.as_points == (groups > MOST_BAR_GROUPS)
    page, (axes,) = to_plotly(chart), draw(chart).axes
    assert {trace.type for trace in page.data} == {"scatter" if chart.as_points else "bar"}
    assert [trace.name for trace in page.data] == [group.name for group in chart.groups]
    assert len(axes.patches) == (0 if chart.as_points else 2 * groups)
    assert len(axes.collections) == (groups if chart.as_points else 0)


def test_trajectories_stand_in_the_cells_of_their_layers():
    paths = {(0, 2): [([0.0, 4.0], [0.0, 1.0])], (1, 2): []}
    chart = describe_trajectories(paths, [0, 1], [2], "validation accuracy")
    assert chart.x.title == "receiver layer; in each cell epochs 0 to 4"
    frames, lines_of_cells = draw(chart).axes[0].collections
    assert len(frames.get_segments()) == 2
    (line,) = lines_of_cells.get_segments()
    np.testing.assert_allclose(line, [[0.07, 0.93], [0.93, 0.07]])


def test_a_trajectory_of_one_point_is_a_level_line():
    level, steps = ([0.0], [0.25]), ([0.0, 4.0], [0.0, 1.0])
    for paths in ({(0, 2): [level], (1, 2): [steps]}, {(0, 2): [level]}):
        chart = describe_trajectories(paths, [0, 1], [2], "validation accuracy")
        line = draw(chart).axes[0].collections[1].get_segments()[0]
        np.testing.assert_allclose(line, [[0.07, 0.715], [0.93, 0.715]])


def test_small_multiples_share_their_axes():
    series = Series([1.0, 100.0], [0.1, 0.9], DASHED)
    chart = SmallMultiples(
        row_labels=["sender layer 0"],
        column_labels=["receiver layer 0", "receiver layer 1"],
        cells={(0, 0): [series], (0, 1): []},
        x=Axis("loss", is_log=True),
        y=Axis("accuracy"),
        title="$ is no formula",
    )
    figure = draw(chart)
    FigureCanvasAgg(figure).draw()
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()
    assert right.get_xscale() == "log"
    assert left.get_title() == "receiver layer 0"


def test_images_may_have_colors():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (3, 1, 4, 4), dtype=np.uint8)
    colored = rng.integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    figure = draw(ImageTable([("the image", grey), ("layer 1, mse", colored)]))
    shown = [len(axes.images) for axes in figure.axes]
    assert shown == [1, 1, 1, 1, 1, 0]


def test_ticks_of_sizes_have_room():
    sizes = [4.0, 4.5, 8.0, 16.0, 64.0]
    assert select_ticks(sizes) == [4.0, 8.0, 16.0, 64.0]
    assert select_ticks(sizes, share=0.3) == [4.0, 16.0, 64.0]
    assert [short_size(k) for k in (12, 1300, 11_000_000)] == ["12", "1.3k", "11M"]
