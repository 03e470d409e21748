"""Figures, terminal tables and the files that a sweep writes of its matrices."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps, pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from rich.console import Console

from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.results import best_trials
from stitch_sweep.charts.colors import cell_colors, value_range
from stitch_sweep.charts.figures import grid, heatmap, save_figure
from stitch_sweep.core.errors import InputError
from stitch_sweep.report.terminal_tables import best_table, matrix_table
from stitch_sweep.sweep.matrix_files import write_analysis
from tests.support.trials import awkward, failed, full, table, trial


def printed(renderable: Any, width: int = 80, **options: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **options).print(renderable)
    return out.getvalue()


def test_a_matrix_in_which_everything_failed() -> None:
    (matrix,) = matrices(table(failed(0, 0), failed(1, 0)))
    assert matrix.failed.all(axis=None)
    assert matrix.values.isna().all(axis=None)
    assert printed(matrix_table(matrix)).count("×") == 3


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    write_analysis(folder, table(trial(sender="../../up", receiver="/etc/x")))
    assert [path.name for path in tmp_path.iterdir()] == ["experiment"]
    with pytest.raises(InputError, match="figure name"):
        save_figure(heatmap(full(1, 1)), folder, "../up")


def cell_texts(figure: Any) -> dict[tuple[int, int], Any]:
    return {
        (round(t.get_position()[1]), round(t.get_position()[0])): t for t in figure.axes[0].texts
    }


def test_heatmap_draws_the_values_on_a_fixed_scale() -> None:
    matrix = full(5, 7)
    figure = heatmap(matrix)
    (mesh,) = figure.axes[0].collections
    assert mesh.get_clim() == (0.0, 1.0)
    FigureCanvasAgg(figure).draw()
    values = matrix.values.to_numpy()
    colours = colormaps["viridis"](values.ravel())
    np.testing.assert_allclose(mesh.get_facecolors(), colours, atol=1e-6)
    texts = cell_texts(figure)
    assert len(texts) == 35
    for (i, j), text in texts.items():
        assert text.get_text() == f"{values[i, j]:.2f}"
        assert to_rgba(text.get_color()) == to_rgba(cell_colors(values[i, j], 0, 1)[1])
    axes = figure.axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("sender layer", "receiver layer")
    # Row 0 is at the top, as in the table.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert figure.axes[1].get_ylabel() == "test accuracy"


def test_heatmap_marks_failed_missing_and_unconverged_cells() -> None:
    figure = heatmap(awkward())
    texts = {at: text.get_text() for at, text in cell_texts(figure).items()}
    assert texts == {(0, 1): "×", (1, 0): "0.12", (1, 1): "0.75", (2, 0): "0.25*", (2, 1): "0.33"}
    hatched = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert [patch.get_xy() for patch in hatched] == [(-0.5, -0.5)]
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "2", "10"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["-1", "0"]
    words = " ".join(text.get_text() for text in figure.texts)
    for expected in ("-1 the image", "* not converged", "× failed", "hatched", "receiver 0.90"):
        assert expected in words


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (17, 1), (5, 5), (17, 17)])
def test_no_text_leaves_the_figure_or_its_cell(shape: tuple[int, int]) -> None:
    figure = heatmap(full(*shape, converged=False, **{"factor.loss": "task+0.5*mse"}))
    FigureCanvasAgg(figure).draw()
    width, height = figure.bbox.size
    axes = figure.axes[0]
    for text in [*figure.texts, axes.xaxis.label, axes.yaxis.label, figure.axes[1].yaxis.label]:
        box = text.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= width
        assert 0 <= box.y0 <= box.y1 <= height
    subtitle = figure.texts[1].get_window_extent()
    assert not subtitle.overlaps(axes.yaxis.label.get_window_extent())
    side = axes.bbox.width / shape[1]
    assert all(text.get_window_extent().width < side for text in axes.texts)


def test_differences_share_a_scale_around_a_white_zero() -> None:
    values = full(2, 2).values - 0.9
    difference = Matrix.bare(values, "a", "b", value_name="beyond_logits")
    low, high = value_range([difference])
    assert high == -low == values.abs().max(axis=None)
    assert min(to_rgba(cell_colors(0.0, low, high)[0])) > 0.95
    negative, positive = (to_rgba(cell_colors(v, low, high)[0]) for v in (low, high))
    assert negative[2] > negative[0]
    assert positive[0] > positive[2]


def test_text_contrasts_with_its_background() -> None:
    def luminance(colour: str) -> float:
        rgb = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgba(colour)]
        return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2] + 0.05

    for value in np.linspace(-1.5, 1.5, 151):
        for low in (0, -1):
            colors = cell_colors(float(value), low, 1)
            light, dark = sorted(map(luminance, colors), reverse=True)
            assert light / dark >= 4.5


def test_grid_shares_one_scale_and_keeps_pyplot_clean(tmp_path: Path) -> None:
    figure = grid([full(5, 5), awkward(), full(5, 7)], columns=2, heading="$ is no formula")
    *panels, _ = figure.axes
    assert len(panels) == 3
    assert {panel.collections[0].get_clim() for panel in panels} == {(0.0, 1.0)}
    path = save_figure(figure, tmp_path, "grid", pdf=True)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid.pdf", "grid.png"]
    assert pyplot.get_fignums() == []
    penalty = matrices(table(trial()), "penalty")[0]
    with pytest.raises(ValueError, match="different values"):
        grid([full(1, 1), penalty])


def test_matrix_table_is_readable_without_colour() -> None:
    text = printed(matrix_table(awkward()), no_color=True)
    assert "\x1b" not in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert "layer     -1     0 \n" in text
    assert rows["0"] == ["·", "×"]
    assert rows["2"] == ["0.12", "0.75"]
    assert rows["10"] == ["0.25*", "0.33"]
    assert "* not converged; × failed; · not run" in text
    assert "sender 0.80, receiver 0.90" in text


def test_matrix_table_on_an_ascii_terminal() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    Console(file=out, width=80).print(matrix_table(awkward()), best_table(table(trial())))
    out.flush()
    assert b"* not converged; x failed; . not run" in raw.getvalue()


def test_matrix_table_colours_follow_the_values() -> None:
    matrix = full(2, 2)
    text = printed(matrix_table(matrix), force_terminal=True, color_system="truecolor")
    for value in matrix.values.to_numpy().ravel():
        background = cell_colors(float(value), 0, 1)[0]
        code = ";".join(str(int(background[k : k + 2], 16)) for k in (1, 3, 5))
        assert re.search(rf"48;2;{code}m *{value:.2f} ", text)


def test_seventeen_layers_fit_on_eighty_columns_and_break_on_forty() -> None:
    matrix = full(17, 17, converged=False)
    values = [f"{v:.2f}*".replace("0.", ".", 1) for v in matrix.values.to_numpy().ravel()]
    for width, blocks in ((80, 1), (40, 3)):
        text = printed(matrix_table(matrix), width=width)
        assert max(map(len, text.splitlines())) <= width
        assert text.count("sender receiver layer") == blocks
        assert sorted(re.findall(r"\d?\.\d+\*", text)) == sorted(
            v.replace("1.00", "1.0") for v in values
        )


def test_best_table_lists_settings_unless_the_list_is_long() -> None:
    rows = [
        trial(
            i,
            j,
            0.5 + 0.01 * j,
            **{
                "factor.loss": "task",
                "setting.training.optimizer.lr": 0.012345,
                "setting.training.optimizer.name": "sgd",
                "setting.stitch.name": "paper",
                "setting.stitch.rank": 4 if j else None,
            },
        )
        for i in range(3)
        for j in range(3)
    ]
    rows[1] |= {"status": "failed", "converged": None}
    best = best_trials(table(*rows))
    text = printed(best_table(best), width=100)
    assert "a -> b" in text
    assert "loss = task" in text
    assert "lr 0.0123, optimizer.name sgd, stitch.name paper" in text
    assert "rank 4" in text
    assert "failed" in text
    assert "results.parquet" not in text
    short = printed(best_table(best, max_rows=8), width=100)
    assert "each of the 9 cells is in results.parquet" in short
    assert "a -> b" in short
    assert "rank 4" not in short


def test_the_image_is_listed_and_no_part_of_a_pairs_means() -> None:
    image = trial(-1, 0, 0.1, converged=False)
    best = best_trials(table(trial(0, 0, 0.6), trial(0, 1, 0.8), image))
    text = printed(best_table(best), width=100)
    summary = next(line for line in text.splitlines() if "a -> b" in line)
    assert summary.split()[3:7] == ["2", "0.700", "0.600", "0.800"]
    assert summary.split()[-2:] == ["0", "0"]  # failed, not converged
    assert "-1 -> 0" in text


def test_write_analysis_removes_only_its_own_stale_files(tmp_path: Path) -> None:
    first = write_analysis(tmp_path, table(trial(), trial(receiver="c")))
    assert [m.receiver for m in first] == ["b", "c"]
    mine = tmp_path / "matrices" / "mine.csv"
    mine.write_text("1\n")
    write_analysis(tmp_path, table(trial()), metric="metric")
    kept = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/*"))
    assert kept == ["figures/a__b.png", "matrices/a__b.csv", "matrices/mine.csv"]


@pytest.mark.parametrize(
    "manifest", ['{"files": ["../keep.csv", "matrices/../keep.csv"]}', "[", "3"]
)
def test_an_edited_manifest_removes_nothing_else(manifest: str, tmp_path: Path) -> None:
    keep = tmp_path / "keep.csv"
    keep.write_text("1\n")
    (tmp_path / ".analysis.json").write_text(manifest)
    write_analysis(tmp_path, table(trial()))
    assert keep.exists()
