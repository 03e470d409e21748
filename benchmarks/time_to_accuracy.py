"""Time to accuracy: seconds until a stitching matrix is as good as the paper's recipe would have made it.

    python benchmarks/time_to_accuracy.py [--matrix digits/resnet] [--rows paper,default,fast,...]
        [--repeats 1] [--data FOLDER] [--json]

Every row is one run of `stitch-sweep sweep` in a new process: the 25 cells of one matrix, trained for the
task, with other settings. Networks are trained before and not timed. The rows run in turn, so that a
machine that slows down slows all of them, and are compared with the first row.

- `process`: wall seconds from start to exit, with Ray's start, tables and figures.
- `training`: the sum of the trials' own seconds, set-up and evaluation included, on one thread each. A
  joint step of a pack counts once.
- `to baseline`: training seconds until the mean validation accuracy of the matrix first reaches the first
  row's final one, all cells trained side by side at the same share of their training; `-` if it never
  does.
- `below reference`: how far the test accuracy lies below the reference optima (`benchmarks/reference/`),
  in the mean and in the worst cell; `-` where a matrix has none.

`fast without ...` leaves one lever out; `paper with ...` adds one lever alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from _common import machine
from _matrices import MATRICES, Cell, read_reference, run_sweep

Settings = Mapping[str, Any]

# Batches of 64 instead of 256: 10,000 images give about as many steps as the paper's 50,000.
PAPER: Settings = {"training": {"recipe": "paper", "batch_size": 64}}
FAST: Settings = {"training": {"recipe": "fast"}}
QUICK_REST: Settings = {"training.frozen": "fused", "training.precision": "bfloat16"}
ROWS: dict[str, Settings] = {
    "paper": PAPER,
    "default": {"training": {}},
    "fast": {**FAST, **QUICK_REST},
    "thorough": {"training": {"recipe": "thorough"}, **QUICK_REST},
    "fast without start": {**FAST, **QUICK_REST, "stitch.start": "random"},
    "fast without whitening": {**FAST, **QUICK_REST, "training.coordinates": "raw"},
    "fast without keeping the best": {**FAST, **QUICK_REST, "training.keep": "last"},
    "fast without fused network": {**FAST, **QUICK_REST, "training.frozen": "exact"},
    "fast without bfloat16": {**FAST, **QUICK_REST, "training.precision": "float32"},
    "fast with batches of 16": {**FAST, **QUICK_REST, "training.batch_size": 16},
    "fast with packs": {**FAST, **QUICK_REST, "resources.pack": "auto"},
    "paper with start": {**PAPER, "stitch.start": "auto"},
    "paper with whitening": {**PAPER, "training.coordinates": "whitened"},
    "paper with fused network": {**PAPER, "training.frozen": "fused"},
    "paper with bfloat16": {**PAPER, "training.precision": "bfloat16"},
    "paper with packs": {**PAPER, "resources.pack": "auto"},
}
"""Settings of each row."""


@dataclass(frozen=True)
class Run:
    """One run of a row.

    Attributes:
        process: wall seconds of the process.
        training: seconds of the trials.
        test: test accuracy by cell.
        curves: by cell, the validations as (share of the training, seconds, accuracy).
    """

    process: float
    training: float
    test: dict[Cell, float]
    curves: dict[Cell, list[tuple[float, float, float]]]

    def mean_accuracy_at(self, share: float) -> tuple[float, float]:
        """Return (seconds, mean validation accuracy) of all cells after a share of their training."""
        seconds, accuracies = 0.0, []
        for curve in self.curves.values():
            reached = [point for point in curve if point[0] <= share + 1e-9]
            seconds += reached[-1][1] if reached else 0.0
            accuracies.append(max((accuracy for _, _, accuracy in reached), default=0.0))
        return seconds, fmean(accuracies)

    def seconds_to(self, accuracy: float) -> float | None:
        """Return the training seconds until the mean validation accuracy reaches a value."""
        for share in sorted({point[0] for curve in self.curves.values() for point in curve}):
            seconds, reached = self.mean_accuracy_at(share)
            if reached >= accuracy:
                return seconds
        return None


def run_row(matrix: str, row: str, seed: int, scratch: Path, data: str | None) -> Run:
    """Run a row in an empty folder, and read its records."""
    folder = scratch / f"{row.replace(' ', '-')}-{seed}"
    wall = run_sweep(matrix, {"seed": seed, **ROWS[row]}, folder, data=data)
    test, curves, training = {}, {}, 0.0
    for path in sorted((folder / "ledger/trials").glob("*.json")):
        record = json.loads(path.read_text())
        cell = (record["sender_layer"], record["receiver_layer"])
        test[cell] = record["metrics"]["test_accuracy"]
        rows = [r for r in record["trajectory"] if r["split"] == "validation"]
        last = max((r["step"] for r in rows), default=1) or 1
        curves[cell] = [(r["step"] / last, r["time"], r["accuracy"]) for r in rows]
        training += record["seconds"]
    return Run(wall, training, test, curves)


def summarize(
    runs: list[Run], base: list[Run], reference: dict[Cell, float] | None
) -> dict[str, Any]:
    """Return the figures of a row: medians over its runs, accuracies as means."""
    goal = fmean(run.mean_accuracy_at(1.0)[1] for run in base)
    times = [run.seconds_to(goal) for run in runs]
    cells = list(runs[0].test)
    test = {cell: fmean(run.test[cell] for run in runs) for cell in cells}
    gaps = None if reference is None else [reference[cell] - test[cell] for cell in cells]
    return {
        "process": median(run.process for run in runs),
        "training": median(run.training for run in runs),
        "to baseline": None if None in times else median(t for t in times if t is not None),
        "share of baseline": median(r.training for r in runs) / median(r.training for r in base),
        "mean test accuracy": fmean(test.values()),
        "below reference, mean": None if gaps is None else fmean(gaps),
        "below reference, worst": None if gaps is None else max(gaps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--matrix", choices=MATRICES, default="digits/resnet")
    parser.add_argument(
        "--rows", default=",".join(ROWS), help="names of rows; the first is the base"
    )
    parser.add_argument("--repeats", type=int, default=1, help="runs of each row, one per seed")
    parser.add_argument("--data", help="folder with CIFAR-10 as Parquet files")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.rows.split(",")]
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no row is named {unknown[0]!r}; there are: {', '.join(ROWS)}")
    about = machine()
    runs: dict[str, list[Run]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="stitch-sweep-bench-") as scratch:
        for seed in range(arguments.repeats):
            for name in names:
                runs[name].append(
                    run_row(arguments.matrix, name, seed, Path(scratch), arguments.data)
                )
                print(f"{name}, seed {seed}: {runs[name][-1].process:.1f} s", file=sys.stderr)
    reference = read_reference(arguments.matrix)
    rows = {name: summarize(runs[name], runs[names[0]], reference) for name in names}
    if arguments.json:
        cells = {
            name: {
                f"{i} {j}": fmean(r.test[i, j] for r in runs[name]) for i, j in runs[name][0].test
            }
            for name in names
        }
        print(json.dumps({"machine": about, "rows": rows, "test_accuracy": cells}))
        return
    columns = list(rows[names[0]])
    width = max(map(len, names))
    print(" " * width + "".join(f"  {column}" for column in columns))
    for name, values in rows.items():
        shown = ("-" if v is None else f"{v:.3f}" for v in values.values())
        print(
            f"{name:<{width}}"
            + "".join(
                f"  {text:>{len(column)}}" for column, text in zip(columns, shown, strict=True)
            )
        )
    print(", ".join(f"{key} {value}" for key, value in about.items()))


if __name__ == "__main__":
    main()
