"""The tables and pictures of docs/results/ladder.md, from the folders that `run.sh` filled.

    python experiments/cifar10/ladder/results.py [--folder FOLDER] [--output DOCS]

Writes into DOCS/results/ladder: `networks.csv`; `cells.csv`, the mean over the pairs of a size;
`indices.csv`, a row per matrix, with and without the receiver-free column; `tests.csv`, the hypotheses H1
to H4 of PLAN.md. Writes into DOCS/images the pictures `ladder_<kind>.png` and `ladder_indices.png`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stitch_sweep.analysis.ladder.fit import LadderFit
from stitch_sweep.analysis.ladder.points import ladder_points
from stitch_sweep.analysis.ladder.transition import fit_ladder
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.charts.colors import series_style
from stitch_sweep.charts.elements import Axis, ChartRow, LineChart, ReferenceLine, Series
from stitch_sweep.charts.figures import draw, save_figure
from stitch_sweep.charts.matrices import describe_matrices
from stitch_sweep.report.findings import Findings, derive_findings
from stitch_sweep.report.reading import load_experiment, read_measured

KINDS = ("trained", "logits_only", "excess")
INDICES = ("lower", "band", "upper", "triangle", "diagonal", "order")


def read_networks(findings: Findings) -> pd.DataFrame:
    """Return a row per trained network: depth in blocks per stage, width, parameters, accuracy."""
    table = None if findings.experiment is None else findings.experiment.table("networks")
    if table is None:
        raise SystemExit(
            "run `stitch-sweep analyze` on the part `task` first: it describes the networks"
        )
    networks = table[table["weights"] == "trained"].copy()
    networks["depth"] = [json.loads(text)["blocks"][0] for text in networks["options"]]
    return networks[["network", "depth", "width", "parameters", "test_accuracy"]]


def collect(findings: Findings) -> Iterator[tuple[str, str, Verdict]]:
    """Yield kind, sender of the pair, and verdict of every matrix of trained receivers."""
    for verdict in findings.verdicts:
        sender = verdict.matrix.sender
        if verdict.control == "logits_only":
            yield "logits_only", sender.removesuffix("-logits-only"), verdict
        elif verdict.control is None:
            yield "trained", sender, verdict
            if verdict.excess is not None:
                yield "excess", sender, verdict.excess


def index_table(findings: Findings, networks: pd.DataFrame) -> pd.DataFrame:
    """Return a row per matrix and choice of columns: indices, intervals, label, unconverged cells."""
    sizes = networks.set_index("network")
    rows = []
    for kind, sender, verdict in collect(findings):
        for columns, judged in (("all", verdict), ("without receiver-free", verdict.reduced)):
            if judged is None:
                continue
            row: dict[str, Any] = {"kind": kind, "columns": columns, "sender": sender}
            row |= {"receiver": judged.matrix.receiver, **sizes.loc[sender].drop("test_accuracy")}
            row |= {name: getattr(judged.parameters, name) for name in INDICES}
            for name, interval in judged.intervals.items():
                row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
            row |= {
                "label": judged.label,
                "unconverged": int(judged.matrix.unconverged.sum().sum()),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def mean_matrices(findings: Findings, networks: pd.DataFrame) -> dict[str, list[Matrix]]:
    """Return for each kind the mean matrix of every size, ordered by depth and width."""
    sizes = networks.set_index("network")[["depth", "width"]]
    groups: dict[tuple[str, int, int], list[Matrix]] = {}
    for kind, sender, verdict in collect(findings):
        depth, width = sizes.loc[sender]
        groups.setdefault((kind, depth, width), []).append(verdict.matrix)
    means: dict[str, list[Matrix]] = {kind: [] for kind in KINDS}
    for (kind, depth, width), members in sorted(groups.items(), key=lambda item: item[0][1:]):
        values = sum(m.values for m in members) / len(members)
        means[kind].append(
            Matrix.bare(
                values,
                f"depth {depth}, width {width}",
                f"mean of {len(members)} pairs",
                value_name=members[0].value_name,
                sender_accuracy=float(np.mean([m.sender_accuracy for m in members])),
                receiver_accuracy=float(np.mean([m.receiver_accuracy for m in members])),
            )
        )
    return means


def cell_table(means: dict[str, list[Matrix]]) -> pd.DataFrame:
    """Return a row per kind, size and cell."""
    tables = [
        matrix.values.stack().rename("value").reset_index().assign(kind=kind, size=matrix.sender)
        for kind, matrices in means.items()
        for matrix in matrices
    ]
    return pd.concat(tables, ignore_index=True)


def fit(findings: Findings, networks: pd.DataFrame, kind: str, value: str) -> LadderFit:
    """Fit an index of one kind of matrix, without receiver-free columns, over parameters."""
    verdicts = [v.reduced for k, _, v in collect(findings) if k == kind and v.reduced is not None]
    points = ladder_points(verdicts, networks, "parameters")
    return fit_ladder(points, value=value)


def mean_over_sizes(table: pd.DataFrame, index: str) -> dict[str, float]:
    """Return the mean over sizes of an index, each size the mean of its pairs, with a t interval."""
    means = table.groupby(["depth", "width"])[index].mean()
    low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
    return {"estimate": means.mean(), "low": low, "high": high, "sizes": len(means)}


def test_table(findings: Findings, networks: pd.DataFrame, indices: pd.DataFrame) -> pd.DataFrame:
    """Return the tests of H1 to H4."""
    rows: list[dict[str, Any]] = []
    for kind, value in ((k, v) for k in ("trained", "excess") for v in ("triangle", "diagonal")):
        found = fit(findings, networks, kind, value)
        slope = found.slope
        rows += [
            {
                "hypothesis": "H1" if (kind, value) == ("trained", "triangle") else "slope",
                "of": f"{kind} {value}",
                "estimate": found.per_doubling,
                "low": math.nan if slope is None else slope.low,
                "high": math.nan if slope is None else slope.high,
                "p_value": found.slope_p_value,
                "result": found.selected,
            },
            {
                "hypothesis": "H2" if kind == "trained" else "transition",
                "of": f"{kind} {value}",
                "estimate": found.place,
                "low": math.nan if found.transition is None else found.transition.low,
                "high": math.nan if found.transition is None else found.transition.high,
                "p_value": found.p_value,
                "result": found.status,
            },
        ]
    reduced = indices[indices["columns"] != "all"]
    for name, kind, value in (
        ("mean", "trained", "triangle"),
        ("mean", "trained", "diagonal"),
        ("H3", "excess", "triangle"),
        ("H4", "excess", "diagonal"),
    ):
        chosen = reduced[reduced["kind"] == kind]
        rows.append({"hypothesis": name, "of": f"{kind} {value}", **mean_over_sizes(chosen, value)})
    return pd.DataFrame(rows)


def draw_indices(indices: pd.DataFrame) -> ChartRow:
    """Describe triangle and diagonal index against the number of parameters, a color per kind."""
    charts = []
    reduced = indices[indices["columns"] != "all"]
    for value in ("triangle", "diagonal"):
        series = [
            Series(
                x=rows["parameters"].tolist(),
                y=rows[value].tolist(),
                style=series_style(k),
                name=kind.replace("_", "-"),
                has_line=False,
                errors=(
                    (rows[value] - rows[f"{value}_low"]).clip(lower=0).fillna(0).tolist(),
                    (rows[f"{value}_high"] - rows[value]).clip(lower=0).fillna(0).tolist(),
                ),
            )
            for k, kind in enumerate(KINDS)
            for rows in [reduced[reduced["kind"] == kind]]
        ]
        charts.append(
            LineChart(
                series,
                Axis("parameters", is_log=True),
                Axis(f"{value} index"),
                references=[ReferenceLine(0.0, "")],
            )
        )
    return ChartRow(charts)


def main() -> None:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    args = parser.parse_args()
    findings = derive_findings(read_measured(load_experiment(args.folder / "task")))
    networks = read_networks(findings)
    indices, means = index_table(findings, networks), mean_matrices(findings, networks)
    tables = {
        "networks": networks,
        "indices": indices,
        "cells": cell_table(means),
        "tests": test_table(findings, networks, indices),
    }
    target = args.output / "results" / "ladder"
    target.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(target / f"{name}.csv", index=False, float_format="%.5g")
    for kind, matrices in means.items():
        chart = describe_matrices(matrices, columns=4)
        save_figure(draw(chart), args.output / "images", f"ladder_{kind}")
    save_figure(draw(draw_indices(indices)), args.output / "images", "ladder_indices")
    print(tables["tests"].to_string(index=False))


if __name__ == "__main__":
    main()
