"""The tests, tables and pictures of docs/results/ladder.md, from CSV files alone.

    python experiments/cifar10/ladder/results.py [--docs docs]

`collect.py` makes the CSV files. Writes tests.csv beside them, with the hypotheses of PLAN.md, the tables
of the page, and pictures: the mean matrix of every size (ladder_trained.png, ladder_logits_only.png,
ladder_excess.png), and the indices against parameters, depth and width (ladder_triangle.png,
ladder_diagonal.png).
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stitch_sweep.analysis.ladder.fit import LadderFit
from stitch_sweep.analysis.ladder.transition import fit_ladder
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.uncertainty import Interval
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES
from stitch_sweep.charts.colors import series_style
from stitch_sweep.charts.elements import (
    Axis,
    ChartRow,
    HeatmapGrid,
    LineChart,
    ReferenceLine,
    Series,
)
from stitch_sweep.charts.figures import draw, save_figure
from stitch_sweep.charts.ladder import select_ticks, short_size
from stitch_sweep.charts.matrices import describe_matrices
from stitch_sweep.config.pairs import IMAGE_LAYER
from stitch_sweep.core.measures import BEYOND_LOGITS

KINDS = ("trained", "logits_only", "excess")
LAST_LAYER = 4
"""The layer after which every network of the ladder is linear."""
EARLY = (0, 1)
"""The layers whose cells the page compares with the sender's probe one by one."""
CHANCE = 0.1
CONTROL_SUFFIX = "-logits-only"
"""What a control's sender has after its network's name."""
MARGIN = 0.05
"""How far from 0 a mean index may lie and still count as none; see PLAN.md."""


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the tables that `collect.py` wrote; missing ones are left out."""
    return {
        file.stem: pd.read_csv(file, keep_default_na=True)
        for file in folder.glob("*.csv")
        if file.stem != "tests"
    }


def single_pairs(tables: dict[str, pd.DataFrame], columns: str) -> pd.DataFrame:
    """Return the indices of single pairs, with the size of their receivers."""
    indices, networks = tables["indices"], tables["networks"]
    chosen = indices[(indices["pairs"] == "one") & (indices["columns"] == columns)]
    sizes = networks.rename(columns={"network": "receiver"}).drop(columns="test_accuracy")
    return chosen.merge(sizes, on=["folder", "receiver"], how="left")


def task_pairs(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the indices of the part `task` without the receiver-free column."""
    pairs = single_pairs(tables, "with receiver")
    return pairs[pairs["folder"].str.startswith("task/")]


def fit(pairs: pd.DataFrame, kind: str, value: str, size: str = "parameters") -> LadderFit:
    """Fit an index of one kind of matrix over a size; labels that are withheld leave a gap."""
    chosen = pairs[pairs["kind"] == kind].assign(measure=size)
    points = chosen[["sender", "receiver", "measure"]].assign(size=chosen[size].astype(float))
    for name in (value, f"{value}_low", f"{value}_high"):
        points[name] = chosen[name].where(chosen["withheld"].isna())
    return fit_ladder(points, value=value)


def mean_over_sizes(pairs: pd.DataFrame, kind: str, value: str) -> dict[str, Any]:
    """Return the mean over sizes of an index, each size the mean of its pairs, with a t interval.

    `p_value` is that of two one-sided tests, doubled: it is at most 0.05 exactly if the 95% interval lies
    within `MARGIN` of 0.
    """
    means = pairs[pairs["kind"] == kind].groupby("folder")[value].mean()
    count, center, error = len(means), means.mean(), stats.sem(means)
    low, high = stats.t.interval(0.95, count - 1, center, error)
    farthest = (MARGIN - abs(center)) / error
    return {
        "estimate": center,
        "low": low,
        "high": high,
        "p_value": min(1.0, 2 * stats.t.sf(farthest, count - 1)),
        "points": count,
    }


def ends(interval: Interval | None) -> dict[str, float]:
    """Return the ends of an interval; NaN without one."""
    if interval is None:
        return {"low": math.nan, "high": math.nan}
    return {"low": interval.low, "high": interval.high}


def trend_rows(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return slopes and transitions of both indices, of pairs and of their excess."""
    rows = []
    for kind in ("trained", "excess", "logits_only"):
        for value in ("triangle", "diagonal"):
            for size in ("parameters", "depth", "width"):
                found = fit(pairs, kind, value, size)
                shared = {"of": f"{kind} {value}", "over": size, "points": found.points}
                rows.append(
                    shared
                    | {"test": "slope per doubling", "estimate": found.per_doubling}
                    | ends(found.slope)
                    | {"p_value": found.slope_p_value, "result": found.selected}
                )
                rows.append(
                    shared
                    | {"test": "transition", "estimate": found.place}
                    | ends(found.transition)
                    | {"p_value": found.p_value, "result": found.status}
                )
    return rows


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Correct p-values by Holm's method (Scandinavian Journal of Statistics 6, 1979)."""
    ordered = sorted(p_values, key=p_values.__getitem__)
    corrected, largest = {}, 0.0
    for position, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - position) * p_values[name]))
        corrected[name] = largest
    return corrected


def test_table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the tests of H1 to H4, the primary ones with corrected p-values."""
    pairs = task_pairs(tables)
    rows = trend_rows(pairs)
    for kind in KINDS:
        for value in ("triangle", "diagonal"):
            found = mean_over_sizes(pairs, kind, value)
            rows.append({"of": f"{kind} {value}", "over": "sizes", "test": "mean", **found})
    table = pd.DataFrame(rows)

    def p_value(test: str, of: str, over: str) -> float:
        rows = table[(table["test"] == test) & (table["of"] == of) & (table["over"] == over)]
        return float(rows["p_value"].iloc[0])

    # H2 asks for a transition of either index.
    both = [p_value("transition", f"trained {v}", "parameters") for v in ("triangle", "diagonal")]
    primary = {
        "H1": p_value("slope per doubling", "trained triangle", "parameters"),
        "H2": min(1.0, 2 * np.nanmin(both)) if np.isfinite(both).any() else 1.0,
        "H3": p_value("mean", "excess triangle", "sizes"),
    }
    corrected = holm(primary)
    summary = [
        {"test": name, "p_value": primary[name], "p_corrected": corrected[name]} for name in primary
    ]
    return pd.concat([table, pd.DataFrame(summary)], ignore_index=True)


def order_sizes(tables: dict[str, pd.DataFrame], part: str = "task") -> pd.DataFrame:
    """Return the sizes of a part, ordered by depth and width: means over their networks."""
    networks = tables["networks"]
    chosen = networks[networks["folder"].str.startswith(f"{part}/")]
    columns = ["depth", "width", "parameters", "test_accuracy"]
    return chosen.groupby("folder")[columns].mean().sort_values(["depth", "width"])


def mean_matrices(tables: dict[str, pd.DataFrame]) -> dict[str, list[Matrix]]:
    """Return for each kind the mean matrix of every size, ordered by depth and width."""
    cells = tables["cells"][tables["cells"]["folder"].str.startswith("task/")]
    place = ["folder", "kind", "sender_layer", "receiver_layer"]
    means = cells.groupby(place)["test_accuracy"].mean().unstack()
    found: dict[str, list[Matrix]] = {kind: [] for kind in KINDS}
    for folder, depth, width, _, accuracy in order_sizes(tables).itertuples():
        values = {kind: means.loc[(folder, kind)] for kind in KINDS[:2]}
        values["excess"] = values["trained"] - values["logits_only"]
        for kind, matrix in values.items():
            bare = Matrix.bare(
                matrix,
                f"{depth:.0f} {'block' if depth == 1 else 'blocks'} per stage, width {width:.0f}",
                "",
                value_name=BEYOND_LOGITS if kind == "excess" else "test_accuracy",
                receiver_accuracy=accuracy,
            )
            found[kind].append(replace(bare, receiver_free=frozenset({LAST_LAYER})))
    return found


def select_folder(tables: dict[str, pd.DataFrame], folder: str) -> dict[str, pd.DataFrame]:
    """Return the rows of one folder in every table."""
    return {name: table[table["folder"] == folder] for name, table in tables.items()}


def page_tables(tables: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Return the tables of the page as Markdown; those of a part without results are left out.

    They leave out the receiver-free column, unless a head says otherwise.
    """
    found = {}
    for name, (heads, parts, make_rows) in PAGE_TABLES.items():
        sizes = [
            (size.depth, size.width, words, size)
            for part, words in parts.items()
            for size in order_sizes(tables, part).itertuples()
        ]
        if len(parts) > 1:  # a comparison, of the sizes that other parts than the first have
            kept = Counter(size[:2] for size in sizes)
            sizes = [size for size in sizes if kept[size[:2]] > 1]
        sizes.sort(key=lambda size: size[:2])  # stable: the parts of a size stay in their order
        rows = [
            [f"{depth:.0f}, {width:.0f}", *words, *row]
            for depth, width, words, size in sizes
            for row in make_rows(select_folder(tables, size.Index), size)
        ]
        if rows:
            lines = [["blocks, width", *heads], ["---"] * (len(heads) + 1), *rows]
            found[name] = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return found


def _interval(row: pd.Series, value: str) -> str:
    low, high = row[f"{value}_low"], row[f"{value}_high"]
    return f"{row[value]:z.2f} ({low:z.2f} to {high:z.2f})"


def _count_labels(verdicts: pd.DataFrame) -> str:
    labels = ("`" + verdicts["label"] + "`").where(verdicts["withheld"].isna(), "withheld")
    return ", ".join(f"{count} {label}" for label, count in labels.value_counts().items())


def _make_indices(tables: dict[str, pd.DataFrame], size: Any) -> list[list[str]]:
    indices = tables["indices"]
    chosen = indices[indices["columns"] == "with receiver"]
    means, pairs = (chosen[chosen["pairs"] == count].set_index("kind") for count in ("mean", "one"))
    probes = probe_regions(tables["cells"])
    row = [
        f"{size.parameters:,.0f}",
        f"{size.test_accuracy:.2f}",
        _interval(means.loc["trained"], "triangle"),
        f"{probes['lower'] - probes['upper']:z.2f}",
        f"{pairs.loc['logits_only', 'triangle'].mean():.2f}",
        _interval(means.loc["excess"], "triangle"),
        _interval(means.loc["trained"], "diagonal"),
        _interval(means.loc["excess"], "diagonal"),
        _count_labels(pairs.loc["trained"]),
        _count_labels(pairs.loc["excess"]),
    ]
    return [row]


def _make_similarity(tables: dict[str, pd.DataFrame], size: Any) -> list[list[str]]:
    indices, cells = tables["indices"], tables["cells"]
    rows = []
    for loss, of_loss in indices.groupby("loss", sort=False):
        means = of_loss[of_loss["pairs"] == "mean"].set_index("columns")
        single = of_loss[(of_loss["pairs"] == "one") & (of_loss["columns"] == "all")]
        rows.append(
            [
                str(loss),
                f"{cells.loc[cells['loss'] == loss, 'accuracy_calibrated'].mean():.2f}",
                _interval(means.loc["all"], "triangle"),
                _interval(means.loc["all"], "diagonal"),
                _interval(means.loc["with receiver"], "diagonal"),
                _count_labels(single),
            ]
        )
    return rows


def _make_nulls(tables: dict[str, pd.DataFrame], size: Any) -> list[list[str]]:
    indices, cells = tables["indices"], tables["cells"]
    single = indices[indices["pairs"] == "one"].groupby(["columns", "kind"])
    regions = single[["lower", "band", "upper"]].mean()
    triples = [
        regions.loc["with receiver", "trained"],
        probe_regions(cells),
        regions.loc["with receiver", "logits_only"],
    ]
    all_columns = [single["triangle"].mean()["all", kind] for kind in ("trained", "logits_only")]
    shown = [", ".join(f"{value:z.2f}" for value in triple) for triple in triples]
    return [[*shown, *(f"{value:z.2f}" for value in all_columns)]]


def _make_probes(tables: dict[str, pd.DataFrame], size: Any) -> list[list[str]]:
    beyond = beyond_probes(tables["cells"])
    early = [(i, j) for i in EARLY for j in EARLY]
    values = [*beyond.loc[early], beyond.drop(early).max(), beyond.min()]
    return [[f"{value:z.2f}" for value in values]]


def _make_controls(tables: dict[str, pd.DataFrame], size: Any) -> list[list[str]]:
    indices = tables["indices"]
    single = indices[(indices["pairs"] == "one") & (indices["columns"] == "with receiver")]
    rows = []
    for kind, words in {"trained": "none, both trained", **CONTROL_TITLES}.items():
        for index in single[single["kind"] == kind].itertuples():
            values = (index.lower, index.band, index.upper, index.triangle, index.diagonal)
            rows.append([words, *(f"{value:z.2f}" for value in values), f"`{index.label}`"])
    return rows


def _make_image(tables: dict[str, pd.DataFrame], size: Any) -> list[list[str]]:
    cells = tables["cells"]
    trained = cells[cells["kind"] == "trained"].set_index(["sender_layer", "receiver_layer"])
    return [
        [words, *(f"{value:.2f}" for value in trained.loc[layer, "test_accuracy"].sort_index())]
        for layer, words in ((IMAGE_LAYER, "the image"), (0, "layer 0 of the sender"))
    ]


def _make_kappa(tables: dict[str, pd.DataFrame], size: Any) -> list[list[str]]:
    decisions = tables["decisions"]
    pairs = decisions[~decisions["sender"].str.endswith(CONTROL_SUFFIX)]
    kappa = pairs.groupby(["region", "quantity"])["mean"].mean()
    row = [
        f"{kappa[region, f'kappa_{network}']:.2f}"
        for region in ("lower", "band", "upper")
        for network in ("sender", "receiver")
    ]
    return [row]


_TASK: dict[str, tuple[str, ...]] = {"task": ()}
_INDEX_HEADS = (
    *("parameters", "accuracy", "L - U", "L - U, probes", "L - U, logits-only"),
    *("L - U, excess", "D - max(L, U)", "D - max(L, U), excess", "labels", "labels, excess"),
)
PAGE_TABLES = {
    "indices": (_INDEX_HEADS, _TASK, _make_indices),
    "nulls": (
        (
            *("L, D, U", "L, D, U, probes", "L, D, U, logits-only"),
            *("L - U, all columns", "L - U, all columns, logits-only"),
        ),
        _TASK,
        _make_nulls,
    ),
    "images": (
        ("training images", *_INDEX_HEADS),
        {"task": ("45,000",), "images_quarter": ("11,250",), "images_sixteenth": ("2,812",)},
        _make_indices,
    ),
    "skips": (
        ("skips", *_INDEX_HEADS),
        {"task": ("yes",), "no_skips": ("no",)},
        _make_indices,
    ),
    "similarity": (
        (
            *("loss", "mean accuracy", "L - U, all columns", "D - max(L, U), all columns"),
            *("D - max(L, U)", "labels, all columns"),
        ),
        {"similarity": ()},
        _make_similarity,
    ),
    "probes": (
        ("0 to 0", "0 to 1", "1 to 0", "1 to 1", "largest other", "smallest"),
        _TASK,
        _make_probes,
    ),
    "controls": (
        ("control", "L", "D", "U", "L - U", "D - max(L, U)", "label"),
        {"controls": ()},
        _make_controls,
    ),
    "image": (
        ("sender", *(f"into layer {layer}" for layer in range(LAST_LAYER + 1))),
        {"controls": ()},
        _make_image,
    ),
    "kappa": (
        tuple(f"{r}, {n}" for r in ("lower", "band", "upper") for n in ("sender", "receiver")),
        _TASK,
        _make_kappa,
    ),
}
"""For every table of the page: columns after the size; the parts, and what their rows say after the size;
the function that makes a size's rows."""


def beyond_probes(cells: pd.DataFrame) -> pd.Series:
    """Return the accuracy of every cell of a size beyond the probe of its sender layer.

    The probe's accuracy is that of its control into the receiver-free column, where stitch and receiver
    read the control's log-probabilities linearly.

    Returns:
        Means over pairs, indexed by sender layer and receiver layer, without the receiver-free column.
    """
    place = ["kind", "sender_layer", "receiver_layer"]
    means = cells.groupby(place)["test_accuracy"].mean()
    probes = means.loc["logits_only"].xs(LAST_LAYER, level="receiver_layer")
    trained = means.loc["trained"].drop(LAST_LAYER, level="receiver_layer")
    return trained - probes.reindex(trained.index, level="sender_layer")


def probe_regions(cells: pd.DataFrame) -> pd.Series:
    """Return L, D and U of a size if every cell had the accuracy of the sender layer's probe.

    Means over pairs, without the receiver-free column.
    """
    controls = cells[(cells["kind"] == "logits_only") & (cells["receiver_layer"] == LAST_LAYER)]
    trained = cells[cells["kind"] == "trained"]
    # Every network of a ring is a receiver, too.
    own = trained.groupby("receiver")["receiver_accuracy"].first()
    senders = controls["sender"].str.removesuffix(CONTROL_SUFFIX)
    best = np.maximum(senders.map(own), controls["receiver"].map(own))
    rescaled = (controls["test_accuracy"] - CHANCE) / (best - CHANCE)
    probes = rescaled.groupby(controls["sender_layer"]).mean().to_numpy()
    i, j = np.indices((len(probes), LAST_LAYER))
    regions = {"lower": i > j, "band": i == j, "upper": i < j}
    return pd.Series({name: probes[i[where]].mean() for name, where in regions.items()})


def fill_page(page: str, tables: dict[str, str]) -> str:
    """Replace the page's tables, which stand between comments that name them.

    Raises:
        ValueError: the page has no place for a table.
    """
    for name, table in tables.items():
        pattern = rf"(<!-- table: {name} -->\n\n).*?(\n\n<!-- end -->)"
        page, count = re.subn(pattern, rf"\g<1>{table}\g<2>", page, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"the page has {count} places for table {name}")
    return page


def describe_sizes(matrices: list[Matrix]) -> HeatmapGrid:
    """Describe the mean matrices of all sizes, a row for each depth."""
    depths = Counter(matrix.sender.partition(",")[0] for matrix in matrices)
    grid = describe_matrices(matrices, columns=max(depths.values()))
    heatmaps = [
        replace(
            heatmap,
            title=matrix.sender,
            subtitle=f"mean of three pairs; networks {matrix.receiver_accuracy:.2f}",
        )
        for heatmap, matrix in zip(grid.heatmaps, matrices, strict=True)
    ]
    return replace(grid, heatmaps=heatmaps)


def positive(lengths: pd.Series) -> list[float]:
    """Return the lengths of error bars; 0 where there is none."""
    return lengths.clip(lower=0).fillna(0).tolist()


def draw_index(pairs: pd.DataFrame, value: str) -> ChartRow:
    """Describe an index of every pair against parameters, depth and width, a color per kind."""
    charts = []
    for size, title in (
        ("parameters", "parameters"),
        ("depth", "blocks per stage"),
        ("width", "width, channels"),
    ):
        series = []
        for position, kind in enumerate(KINDS):
            rows = pairs[pairs["kind"] == kind]
            lengths = rows[value] - rows[f"{value}_low"], rows[f"{value}_high"] - rows[value]
            series.append(
                Series(
                    # Kinds are set apart, so that their points don't hide each other.
                    x=(rows[size] * 1.04 ** (position - 1)).tolist(),
                    y=rows[value].tolist(),
                    style=series_style(position),
                    name=kind.replace("_", "-"),
                    has_line=False,
                    errors=(positive(lengths[0]), positive(lengths[1])),
                )
            )
        shown = select_ticks(sorted({float(k) for k in pairs[size].dropna()}), share=0.22)
        axis = Axis(title, ticks=tuple((k, short_size(k)) for k in shown), is_log=True)
        zero = [ReferenceLine(0.0, "")]
        charts.append(LineChart(series, axis, Axis(f"{value} index"), references=zero))
    return ChartRow(charts)


def main() -> None:
    """Write the tests, the tables and the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    docs = parser.parse_args().docs
    folder, page = docs / "results/ladder", docs / "results/ladder.md"
    tables = read_tables(folder)
    tests = test_table(tables)
    tests.to_csv(folder / "tests.csv", index=False, float_format="%.5g")
    page.write_text(fill_page(page.read_text(), page_tables(tables)))
    for kind, matrices in mean_matrices(tables).items():
        save_figure(draw(describe_sizes(matrices)), docs / "images", f"ladder_{kind}")
    pairs = task_pairs(tables)
    for value in ("triangle", "diagonal"):
        save_figure(draw(draw_index(pairs, value)), docs / "images", f"ladder_{value}")
    print(tests.to_string(index=False))


if __name__ == "__main__":
    main()
