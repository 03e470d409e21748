from __future__ import annotations

import io
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps, pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from rich.console import Console

from stitch_sweep.analysis.matrix.files import read_matrix, write_matrix
from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.results import best_trials, check_results, load_results
from stitch_sweep.charts.colors import cell_colours
from stitch_sweep.charts.figures import grid, heatmap, save_figure
from stitch_sweep.core.errors import InputError
from stitch_sweep.report.terminal_tables import best_table, matrix_table
from stitch_sweep.sweep.matrix_files import write_analysis
from tests.support.paths import SHARED


def trial(i: int = 0, j: int = 0, test: float = 0.5, **other: Any) -> dict[str, Any]:
    row = {
        "trial": "t",
        "sender": "a",
        "receiver": "b",
        "sender_layer": i,
        "receiver_layer": j,
        "repeat": 0,
        "number": 0,
        "stitch": "paper",
        "loss": "task",
        "val_accuracy": test,
        "test_accuracy": test,
        "train_accuracy": test,
        "test_loss": 1.0 - test,
        "penalty": 0.9 - test,
        "converged": True,
        "sender_accuracy": 0.8,
        "receiver_accuracy": 0.9,
        "status": "finished",
        "seconds": 1.0,
        "metric": test,
    }
    return row | other


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return check_results(pd.DataFrame(list(rows)))


def failed(i: int, j: int, **other: Any) -> dict[str, Any]:
    return trial(i, j, math.nan, status="failed", converged=None, **other)


def full(rows: int, columns: int, **other: Any) -> Matrix:
    values = np.random.default_rng(0).uniform(size=(rows, columns))
    layers = itertools.product(range(rows), range(columns))
    return matrices(table(*(trial(i, j, values[i, j], **other) for i, j in layers)))[0]


def awkward() -> Matrix:
    """Layers 0, 2, 10 by -1, 0: one failed, one missing, one unconverged, one unknown cell."""
    return matrices(
        table(
            trial(10, -1, 0.25, converged=False),
            trial(10, 0, 1 / 3, converged=None),
            trial(2, 0, 0.75),
            trial(2, -1, 0.125),
            failed(0, 0),
        )
    )[0]


def printed(renderable: Any, width: int = 80, **options: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **options).print(renderable)
    return out.getvalue()


# Which trial stands for a cell


def test_validation_chooses_even_where_test_disagrees() -> None:
    results = table(
        trial(test=0.9, val_accuracy=0.5, number=0), trial(test=0.3, val_accuracy=0.6, number=1)
    )
    assert best_trials(results)["test_accuracy"].tolist() == [0.3]
    assert matrices(results)[0].values.loc[0, 0] == 0.3


@pytest.mark.parametrize("metric", ["test_accuracy", "test_loss", "penalty"])
def test_test_images_may_not_choose(metric: str) -> None:
    with pytest.raises(InputError, match="test images"):
        best_trials(table(trial()), metric)


def test_smallest_wins_when_minimising_and_lowest_number_on_a_tie() -> None:
    rows = [trial(number=n, metric=m) for n, m in [(3, 0.2), (2, 0.1), (1, 0.1), (0, 0.7)]]
    results = table(*rows)
    assert best_trials(results, "metric", "min")["number"].tolist() == [1]
    assert best_trials(results, "metric", "max")["number"].tolist() == [0]


def test_a_finished_trial_beats_failed_ones_and_a_missing_metric_comes_last() -> None:
    results = table(
        failed(0, 0, number=0) | {"val_accuracy": 0.99},
        trial(number=1, val_accuracy=math.nan),
        trial(number=2, val_accuracy=0.1),
        failed(0, 1, number=1),
        failed(0, 1, number=0),
    )
    best = best_trials(results)
    assert best["number"].tolist() == [2, 0]
    assert best["status"].tolist() == ["finished", "failed"]


def test_repeats_and_factors_are_studies_of_their_own() -> None:
    rows = [
        trial(repeat=r, number=n, **{"factor.loss": loss})
        for r in range(2)
        for n in range(3)
        for loss in ("mse", None)
    ]
    assert len(best_trials(table(*rows))) == 4


@pytest.mark.parametrize(("metric", "mode"), [("val_acuracy", "max"), ("val_accuracy", "best")])
def test_unknown_metric_or_mode(metric: str, mode: Any) -> None:
    with pytest.raises(InputError, match=r"val_accuracy|max, min"):
        best_trials(table(trial()), metric, mode)


# Matrices


def test_a_cell_is_the_mean_over_repeats_of_each_best_trial() -> None:
    results = table(
        trial(test=0.2, repeat=0, number=0, val_accuracy=0.1),
        trial(test=0.4, repeat=0, number=1, val_accuracy=0.2),
        trial(test=0.8, repeat=1),
        trial(0, 1, 0.5, repeat=0),
        failed(0, 1, repeat=1),
    )
    (matrix,) = matrices(results)
    assert matrix.values.loc[0, 0] == pytest.approx(0.6)
    assert matrix.values.loc[0, 1] == 0.5
    assert matrix.repeats == 2
    assert matrix.finished.loc[0].tolist() == [2, 1]
    assert not matrix.failed.any(axis=None)


def test_failed_missing_and_unconverged_cells_differ() -> None:
    matrix = awkward()
    assert matrix.values.index.tolist() == [0, 2, 10]
    assert matrix.values.columns.tolist() == [-1, 0]
    assert matrix.failed.to_numpy().tolist() == [[False, True], [False, False], [False, False]]
    assert matrix.missing.to_numpy().tolist() == [[True, False], [False, False], [False, False]]
    assert matrix.unconverged.to_numpy().tolist() == [[False] * 2, [False] * 2, [True, False]]
    assert matrix.converged.loc[10, 0] is pd.NA
    assert matrix.converged.loc[2, 0]
    assert (matrix.sender_accuracy, matrix.receiver_accuracy) == (0.8, 0.9)


def test_one_unconverged_repeat_marks_the_cell() -> None:
    rows = [trial(repeat=r, converged=c) for r, c in enumerate([True, False, None])]
    assert not matrices(table(*rows))[0].converged.loc[0, 0]
    assert matrices(table(rows[0], rows[2]))[0].converged.loc[0, 0] is pd.NA


def test_a_matrix_in_which_everything_failed() -> None:
    (matrix,) = matrices(table(failed(0, 0), failed(1, 0)))
    assert matrix.failed.all(axis=None)
    assert matrix.values.isna().all(axis=None)
    assert printed(matrix_table(matrix)).count("×") == 3


def test_one_matrix_per_pair_and_factor_combination_with_the_layers_of_its_pair() -> None:
    results = table(
        trial(0, 0, **{"factor.loss": "task", "factor.stitch.rank": 2}),
        trial(1, 2, **{"factor.loss": "task", "factor.stitch.rank": 2}),
        trial(0, 0, **{"factor.loss": "mse", "factor.stitch.rank": None}),
        trial(0, 0, receiver="a", **{"factor.loss": "mse", "factor.stitch.rank": 2}),
    )
    found = matrices(results)
    assert [(m.receiver, m.kind) for m in found] == [
        ("a", "self-pair"),
        ("b", "pair"),
        ("b", "pair"),
    ]
    assert found[1].factors == {"loss": "mse", "stitch.rank": None}
    assert found[2].factors == {"loss": "task", "stitch.rank": 2}
    assert found[1].values.shape == found[2].values.shape == (2, 2)
    assert int(found[1].missing.sum().sum()) == 3
    assert "self-pair" in found[0].title
    assert "loss = mse" in found[0].title


# CSV


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (17, 17)])
def test_csv_round_trip_keeps_every_bit(shape: tuple[int, int], tmp_path: Path) -> None:
    matrix = full(*shape)
    path = write_matrix(matrix, tmp_path / "matrices")
    pd.testing.assert_frame_equal(read_matrix(path), matrix.values, check_exact=True)
    assert list(path.parent.iterdir()) == [path]


def test_csv_round_trip_of_an_awkward_matrix(tmp_path: Path) -> None:
    matrix = awkward()
    path = write_matrix(matrix, tmp_path)
    assert path.read_text().splitlines()[:2] == ["sender_layer\\receiver_layer,-1,0", "0,,"]
    pd.testing.assert_frame_equal(read_matrix(path), matrix.values, check_exact=True)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/ folder beside the checkout")
@pytest.mark.parametrize(("name", "corner"), [("r1111_r1111", 0.92), ("r1112_r1122", None)])
def test_published_matrices_are_read_with_layers_from_zero(name: str, corner: float | None) -> None:
    values = read_matrix(SHARED / "reference" / f"{name}.csv")
    assert values.index.tolist() == list(range(len(values)))
    assert values.columns.tolist() == list(range(values.shape[1]))
    assert values.map(lambda v: 0 <= v <= 1).all(axis=None)
    if corner is None:
        assert values.shape[0] != values.shape[1]
    else:
        assert values.loc[4, 0] == corner


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"0.1,0.2\n0.3\n", "line 2: 1 cells"),
        (b"0.1,0.2\n0.3,high\n", "line 2: 'high'"),
        (b"0.1,inf\n", "'inf'"),
        (b",0,1\n0,0.1,0.2\n", "top left"),
        (b"sender_layer\\receiver_layer,0\n", "no values"),
        (b"sender_layer\\receiver_layer,0,0\n0,1,1\n", "twice"),
        (b"sender_layer\\receiver_layer,x\n0,1\n", "'x' is not a layer"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "not a readable CSV"),
        (b'"0.1,0.2\n', "not a readable CSV"),
    ],
)
def test_bad_csv_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_matrix(path)


def test_a_missing_csv_file_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="not a readable CSV"):
            read_matrix(path)


# File names


def test_file_names_are_safe_and_distinct() -> None:
    values = pd.DataFrame([[0.5]])
    names = ["a", "b", "a__b", "a_", "_a", "a/b", "a-b", "a b", "../up", "..", "", "é", "x" * 300]
    factors: list[dict[str, Any]] = [
        {},
        {"loss": "task"},
        {"loss": "task+0.5*mse"},
        {"loss": "task-0.5-mse"},
        {"k": 1},
        {"k": 1.0},
        {"k": "1"},
        {"k": None},
        {"k": "none"},
        {"k": "1", "l": "2"},
        {"k": "1__l-2"},
        {"value": "penalty"},
    ]
    found = [
        Matrix.bare(values, s, r, factors=f, value_name=v).file_name
        for s, r, f, v in itertools.product(
            names, names, factors, ["test_accuracy", "val_accuracy", "penalty"]
        )
    ]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name) for name in found)
    assert max(map(len, found)) < 200
    assert Matrix.bare(values, "a", "b-random", factors={"loss": "task"}).file_name == (
        "a__b-random__loss-task"
    )


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    write_analysis(folder, table(trial(sender="../../up", receiver="/etc/x")))
    assert [path.name for path in tmp_path.iterdir()] == ["experiment"]
    with pytest.raises(InputError, match="figure name"):
        save_figure(heatmap(full(1, 1)), folder, "../up")


# Loading


def test_load_results_round_trip(tmp_path: Path) -> None:
    raw = pd.DataFrame([trial(), failed(1, 0), trial(2, 0, converged=False)])
    raw.to_parquet(tmp_path / "results.parquet")
    results = load_results(tmp_path)
    assert results["converged"].dtype == "boolean"
    assert results["sender_layer"].dtype == "int64"
    assert matrices(results)[0].failed[0].tolist() == [False, True, False]


def test_load_results_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        load_results(tmp_path / "none")
    with pytest.raises(InputError, match="no such file"):
        load_results(tmp_path)
    path = tmp_path / "results.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match="not a readable parquet"):
        load_results(tmp_path)
    pd.DataFrame([trial()]).drop(columns=["sender", "penalty"]).to_parquet(path)
    with pytest.raises(InputError, match="missing columns: sender, penalty"):
        load_results(tmp_path)
    pd.DataFrame([trial()]).head(0).to_parquet(path)
    with pytest.raises(InputError, match="no trials"):
        load_results(tmp_path)
    wrong = trial(status="lost", sender_layer=0.5, val_accuracy="high", converged="often")
    wrong["factor.blocks"] = [1, 1]
    pd.DataFrame([wrong]).to_parquet(path)
    with pytest.raises(InputError) as caught:
        load_results(tmp_path)
    assert len(caught.value.problems) == 5


# Figures


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
        assert to_rgba(text.get_color()) == to_rgba(cell_colours(values[i, j], 0, 1)[1])
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


def test_text_contrasts_with_its_background() -> None:
    def luminance(colour: str) -> float:
        rgb = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgba(colour)]
        return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2] + 0.05

    for value in np.linspace(-0.5, 1.5, 101):
        light, dark = sorted(map(luminance, cell_colours(float(value), 0, 1)), reverse=True)
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


# Terminal


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
        background = cell_colours(float(value), 0, 1)[0]
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


def test_best_table_lists_settings_and_counts_the_rest() -> None:
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
    text = printed(best_table(best, max_rows=4), width=100)
    assert "a -> b" in text
    assert "loss = task" in text
    assert "lr 0.0123, optimizer.name sgd, stitch.name paper" in text
    assert "rank 4" in text
    assert "failed" in text
    assert "5 more in results.parquet" in text
    assert "more in" not in printed(best_table(best))


def test_the_image_is_listed_and_no_part_of_a_pairs_means() -> None:
    image = trial(-1, 0, 0.1, converged=False)
    best = best_trials(table(trial(0, 0, 0.6), trial(0, 1, 0.8), image))
    text = printed(best_table(best), width=100)
    summary = next(line for line in text.splitlines() if "a -> b" in line)
    assert summary.split()[3:7] == ["2", "0.700", "0.600", "0.800"]
    assert summary.split()[-2:] == ["0", "0"]  # failed, not converged
    assert "-1 -> 0" in text


# A whole folder


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
