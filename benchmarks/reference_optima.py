"""Reference optima: the best stitch of every cell that a slow and broad training finds.

    python benchmarks/reference_optima.py [--matrices digits/resnet] [--data FOLDER] [--workers 2]

A reference matrix is a configuration in `experiments/reference/`. Each of its cells is trained by every
procedure of `PROCEDURES`, which differ in start, coordinates, optimizer, schedule and batch size, and
last many times as long as the recipes that are judged. Every training keeps the stitch of its best
validation. The reference optimum of a cell is the training with the best validation accuracy, of equal
ones the smallest validation loss: the test images take no part in the choice.

Writes `benchmarks/reference/MATRIX.csv`, a row per cell: its test accuracy, validation accuracy and
validation loss, the procedure that was best, and the range of the test accuracies of all procedures. The
sweep lies in `reference-runs/` and is resumed if it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from _common import ROOT
from _matrices import MATRICES, REFERENCE, run_sweep

from stitch_sweep.storage.ledger import Ledger

WHITENED: Mapping[str, Any] = {"recipe": "thorough", "batch_size": 16}
RAW: Mapping[str, Any] = {
    **WHITENED,
    "coordinates": "raw",
    "batch_size": 64,
    "schedule": {"name": "warmup_cosine", "warmup": 0.1},
}
ADAM: Mapping[str, Any] = {"name": "adam", "betas": [0.9, 0.999]}
PROCEDURES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "whitened": ("auto", {**WHITENED, "epochs": 16}),
    "whitened, from random": ("random", {**WHITENED, "epochs": 16}),
    "whitened, batches of 64": ("auto", {**WHITENED, "epochs": 16, "batch_size": 64}),
    "raw, Adam": ("auto", {**RAW, "epochs": 16, "optimizer": {**ADAM, "lr": 3e-3}}),
    "raw, Adam, from random": ("random", {**RAW, "epochs": 32, "optimizer": {**ADAM, "lr": 1e-2}}),
    "raw, SGD, from random": (
        "random",
        {**RAW, "epochs": 32, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}},
    ),
}
"""Stitch start and training of every procedure, by name."""
ON_CIFAR10 = ("whitened, batches of 64", "raw, Adam, from random")


def procedures(matrix: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the procedures of a matrix.

    On CIFAR-10, whose epochs have seven times as many images, they are two of the six, with 8 epochs
    each, and the receiver's frozen rest runs in bfloat16.
    """
    if not matrix.startswith("cifar10/"):
        return {name: (start, dict(training)) for name, (start, training) in PROCEDURES.items()}
    shorter = {"epochs": 8, "precision": "bfloat16"}
    return {name: (PROCEDURES[name][0], {**PROCEDURES[name][1], **shorter}) for name in ON_CIFAR10}


def find_optima(matrix: str, data: str | None, workers: int | None) -> pd.DataFrame:
    """Train a matrix by every procedure; return its reference optima, a row per cell."""
    tables = []
    for name, (start, training) in procedures(matrix).items():
        folder = ROOT / "reference-runs" / matrix / name.replace(", ", "-").replace(" ", "_")
        settings = {"training": training, "stitch.start": start, "keep_stitches": "none"}
        run_sweep(matrix, settings, folder, data=data, workers=workers, resume=True)
        records = (r for r in Ledger(folder).records() if r["status"] == "finished")
        rows = [read_trial(record) for record in records]
        tables.append(pd.DataFrame(rows).assign(procedure=name))
        print(f"{matrix}, {name}: mean test accuracy {tables[-1]['test_accuracy'].mean():.4f}")
    table = pd.concat(tables).sort_values(
        ["sender_layer", "receiver_layer", "validation_accuracy", "validation_loss"],
        ascending=[True, True, False, True],
        kind="stable",
    )
    cells = table.groupby(["sender_layer", "receiver_layer"])
    tests = cells["test_accuracy"]
    return cells.first().assign(lowest_test=tests.min(), highest_test=tests.max()).reset_index()


def read_trial(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cell and the metrics of a trial's record."""
    metrics = record["metrics"]
    return {
        "sender_layer": record["sender_layer"],
        "receiver_layer": record["receiver_layer"],
        "test_accuracy": metrics["test_accuracy"],
        "validation_accuracy": metrics["val_accuracy"],
        "validation_loss": metrics["val_loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--matrices", default=",".join(MATRICES), help="names of matrices")
    parser.add_argument("--data", help="folder with CIFAR-10 as Parquet files")
    parser.add_argument("--workers", type=int, help="trials at a time")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.matrices.split(",")]
    if unknown := [name for name in names if name not in MATRICES]:
        parser.error(f"no matrix is named {unknown[0]!r}; there are: {', '.join(MATRICES)}")
    for name in names:
        optima = find_optima(name, arguments.data, arguments.workers)
        file = Path(REFERENCE / f"{name}.csv")
        file.parent.mkdir(parents=True, exist_ok=True)
        optima.round(5).to_csv(file, index=False)
        print(f"{file.relative_to(ROOT)}: mean {optima['test_accuracy'].mean():.4f}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
