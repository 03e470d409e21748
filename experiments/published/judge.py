"""Judge the published and the logged matrices of Hernandez et al. 2023 (arXiv 2303.11277).

    python experiments/published/judge.py ../shared/reference

prints the numbers of docs/results/published.md, and writes its tables and figures:
docs/results/published.csv (a row per kind), docs/results/published_matrices.csv (a row per matrix,
with intervals), docs/images/published_matrices.png, docs/images/published_indices.png.
With `--output` they go to another folder.

The folder holds r1111_r1111.csv and r1112_r1122.csv (printed in the paper) and logged_stitches.csv
(a row per cell, parsed from its authors' logs).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stitch_sweep.analysis.matrix.files import read_matrix
from stitch_sweep.analysis.matrix.judging import judge, judge_bare
from stitch_sweep.analysis.matrix.label_thresholds import LABELS, THRESHOLDS
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.charts.figures import grid, save_figure

CHANCE = 0.1
TEST_IMAGES = 1808  # every logged accuracy is a multiple of one over this
KINDS = {
    "T2T": ("trained", "trained"),
    "T2R": ("trained", "random"),
    "R2T": ("random", "trained"),
    "R2R": ("random", "random"),
}
VALUES = {"task_accuracy": "task", "mse_accuracy": "mse"}
INDICES = ("lower", "band", "upper", "triangle", "diagonal", "order")


def published(folder: Path, logged: pd.DataFrame) -> list[Verdict]:
    """Judge the two printed matrices, rescaled by the accuracies in the logs of these architectures."""
    own = {
        name: accuracy
        for role in ("sender", "receiver")
        for name, accuracy in logged[logged[f"{role}_kind"] == "trained"]
        .groupby(role)[f"{role}_accuracy"]
        .first()
        .items()
    }
    return [
        judge_bare(
            read_matrix(folder / f"{sender}_{receiver}.csv".lower()),
            sender=sender,
            receiver=receiver,
            sender_accuracy=own[sender],
            receiver_accuracy=own[receiver],
            test_images=TEST_IMAGES,
            chance=CHANCE,
        )
        for sender, receiver in (("R1111", "R1111"), ("R1112", "R1122"))
    ]


def logs(logged: pd.DataFrame) -> pd.DataFrame:
    """Judge each logged matrix and loss: a row with run, half, kind, label, indices and the verdict."""
    rows = []
    for kind, (sender_kind, receiver_kind) in KINDS.items():
        of_kind = logged[
            (logged["sender_kind"] == sender_kind) & (logged["receiver_kind"] == receiver_kind)
        ]
        for run, cells in of_kind.groupby("run"):
            first = cells.iloc[0]
            for column, trained_for in VALUES.items():
                matrix = Matrix.bare(
                    cells.pivot(index="sender_layer", columns="receiver_layer", values=column),
                    f"{first['sender']} {sender_kind}",
                    # Two random networks differ even if they share an architecture.
                    f"{first['receiver']} {'another ' if kind == 'R2R' else ''}{receiver_kind}",
                    factors={"run": int(run), "trained for": trained_for},
                    sender_accuracy=first["sender_accuracy"],
                    receiver_accuracy=first["receiver_accuracy"],
                )
                verdict = judge(matrix, chance=CHANCE, test_images=TEST_IMAGES)
                rows.append(
                    {
                        "run": int(run),
                        "half": "odd" if run % 2 else "even",
                        "kind": kind,
                        "trained_for": trained_for,
                        "label": verdict.label,
                        **{name: getattr(verdict.parameters, name) for name in INDICES},
                        "excess": verdict.parameters.band - verdict.parameters.lower,
                        "p_value": verdict.p_value,
                        "least_share": verdict.label_shares.get(verdict.label, np.nan),
                        "verdict": verdict,
                    }
                )
    return pd.DataFrame(rows)


def derive(table: pd.DataFrame) -> None:
    """Print the ranges of the odd runs, from which the thresholds were derived."""
    odd = table[(table["half"] == "odd") & (table["trained_for"] == "task")]
    trained, controls = odd[odd["kind"] == "T2T"], odd[odd["kind"].isin(["T2R", "R2T"])]
    t2r = odd[odd["kind"] == "T2R"]
    print("\nodd runs, stitches trained for the task: where trained pairs end and controls begin")
    for name, edge, other in (
        ("D", trained["band"].min(), controls["band"].max()),
        ("L - U", trained["triangle"].min(), controls["triangle"].max()),
        ("D - L", trained["excess"].max(), controls["excess"].min()),
        ("order (T2R)", trained["order"].max(), t2r["order"].min()),
    ):
        print(
            f"  {name:12} trained {edge:6.3f}  controls {other:6.3f}  middle {(edge + other) / 2:.3f}"
        )
    print(f"  thresholds: {THRESHOLDS}")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Summarize each half, kind and loss: numbers of matrices and labels, and ranges of indices."""
    rows = []
    for (trained_for, half, kind), group in table.groupby(
        ["trained_for", "half", "kind"], sort=False
    ):
        counts = group["label"].value_counts()
        rows.append(
            {
                "trained_for": trained_for,
                "half": half,
                "kind": kind,
                "matrices": len(group),
                **{label: int(counts.get(label, 0)) for label in LABELS},
                **{
                    f"{name}_{end}": round(float(getattr(group[name], end)()), 3)
                    for name in INDICES
                    for end in ("min", "max")
                },
                "p_value_max": round(float(group["p_value"].astype(float).max()), 3),
            }
        )
    return pd.DataFrame(rows).sort_values(["trained_for", "half", "kind"], ascending=False)


def tabulate(printed: list[Verdict], table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate all matrices, the printed ones first: label, indices with 95 % intervals, and p-value."""
    rows = [{"run": "printed", "kind": "T2T", "trained_for": "task", "verdict": v} for v in printed]
    rows += table[["run", "kind", "trained_for", "verdict"]].to_dict("records")
    found = []
    for row in rows:
        verdict = row.pop("verdict")
        indices: dict[str, float] = {}
        for name in INDICES:
            indices[name] = getattr(verdict.parameters, name)
            if (interval := verdict.intervals.get(name)) is not None:
                indices |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        pair = {"sender": verdict.matrix.sender, "receiver": verdict.matrix.receiver}
        found.append({**row, **pair, "label": verdict.label, **indices, "p_value": verdict.p_value})
    return pd.DataFrame(found)


def picture(table: pd.DataFrame) -> Figure:
    """Plot each logged matrix as a point: D against L - U, with the thresholds of both."""
    figure = Figure(figsize=(6.4, 4.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    colors = {"T2T": "#0072b2", "T2R": "#d55e00", "R2T": "#009e73"}
    marks = {"task": "o", "mse": "x"}
    for (kind, trained_for), group in table[table["kind"] != "R2R"].groupby(
        ["kind", "trained_for"]
    ):
        axes.scatter(
            group["triangle"],
            group["band"],
            s=16,
            marker=marks[trained_for],
            color=colors[kind],
            alpha=0.7,
            linewidths=0.9,
            label=f"{kind}, {trained_for}",
        )
    for position, draw in ((THRESHOLDS.contrast, axes.axvline), (THRESHOLDS.high, axes.axhline)):
        draw(position, color="#555555", linewidth=0.8, linestyle="--")
    axes.set_xlabel("triangle index L - U")
    axes.set_ylabel("mean D of the band, rescaled")
    axes.legend(fontsize=8, frameon=False, loc="center right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Print the verdicts, and write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path, help="the folder with the three files")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="where docs/ is")
    arguments = parser.parse_args()
    logged = pd.read_csv(arguments.reference / "logged_stitches.csv")
    printed = published(arguments.reference, logged)
    for verdict in printed:
        ends = {k: f"[{i.low:.3f}, {i.high:.3f}]" for k, i in verdict.intervals.items()}
        print(verdict.matrix.title, verdict.label)
        for name in INDICES:
            print(f"  {name:9} {getattr(verdict.parameters, name):6.3f} {ends.get(name, '')}")
        print(f"  p-value   {verdict.p_value:.4f}; shares {verdict.label_shares}")
        print(f"  reach     {verdict.reach.to_dict()}")
    table = logs(logged)
    derive(table)
    counts = summary(table)
    with pd.option_context("display.width", 250, "display.max_columns", 40):
        print(f"\n{counts.to_string(index=False)}")
    results = arguments.output / "results"
    counts.to_csv(results / "published.csv", index=False)
    tabulate(printed, table).to_csv(
        results / "published_matrices.csv", index=False, float_format="%.3f"
    )
    first = table[(table["run"] == table["run"].min())]
    panels = [v.matrix for v in printed] + [
        first[(first["kind"] == kind) & (first["trained_for"] == loss)]["verdict"].iloc[0].matrix
        for kind, loss in (("T2T", "mse"), ("T2R", "task"), ("R2T", "task"), ("R2R", "task"))
    ]
    images = arguments.output / "images"
    save_figure(grid(panels, columns=3), images, "published_matrices")
    save_figure(picture(table), images, "published_indices")


if __name__ == "__main__":
    main()
