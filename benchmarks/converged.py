"""How often `converged` is wrong: trainings of known quality against reference optima.

    python benchmarks/converged.py [--matrices digits/resnet] [--losses task,mse] [--workers 2] [--json]

Every cell of the reference matrices is trained by plans that differ in length, optimizer, schedule and
start. Some of them are far too short. A training has reached its optimum if

- task: its test accuracy is at most 0.05 below the reference optimum (`reference_optima.py`);
- mse, correlation, cca: its loss on the validation images is at most 5 % above that of least squares, the
  exact optimum on the training images;
- cka: the same, relative to the best of the other plans and of 16 epochs with the recipe `thorough`.

A *false yes* is `converged` without the optimum, a *false no* the opposite. Trainings with too few
validations have no answer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from _common import machine
from _matrices import read_reference, run_sweep

from stitch_sweep.storage.ledger import Ledger

ADAM: Mapping[str, Any] = {"name": "adam"}
PLANS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"recipe": "paper", "batch_size": 64},
    "4 epochs": {},
    "16 epochs": {"epochs": 16},
    "16 epochs, low rate": {
        "epochs": 16,
        "optimizer": {**ADAM, "lr": 3e-4},
        "schedule": {"name": "constant"},
    },
    "fast": {"recipe": "fast"},
    "thorough": {"recipe": "thorough"},
}
"""Section `training` of every plan."""
LOSSES = ("task", "mse", "correlation", "cca", "cka")
SHORT_OF_ACCURACY = 0.05
EXCESS_OF_LOSS = 0.05


def run_plan(
    matrix: str, loss: str, training: Mapping[str, Any], workers: int | None, **settings: Any
) -> pd.DataFrame:
    """Train a matrix in an empty folder; return a row per finished cell."""
    with tempfile.TemporaryDirectory(prefix="stitch-sweep-bench-") as folder:
        settings = {"loss": {loss: 1.0}, "training": training, "keep_stitches": "none", **settings}
        run_sweep(matrix, settings, Path(folder) / "sweep", workers=workers)
        records = list(Ledger(Path(folder) / "sweep").records())
    rows = [
        {
            "cell": (record["sender_layer"], record["receiver_layer"]),
            "converged": record["metrics"]["converged"],
            "accuracy": record["metrics"]["test_accuracy"],
            "loss": record["metrics"]["val_loss"],
        }
        for record in records
        if record["status"] == "finished"
    ]
    return pd.DataFrame(rows).set_index("cell")


def judge(matrix: str, loss: str, workers: int | None) -> pd.DataFrame:
    """Train a matrix by all plans; return a row per training, with `converged` and `optimal`."""
    tables = {name: run_plan(matrix, loss, training, workers) for name, training in PLANS.items()}
    if loss == "task":
        reference = read_reference(matrix)
        if reference is None:
            raise SystemExit(
                f"{matrix} has no reference optima; run benchmarks/reference_optima.py"
            )
        lowest = pd.Series(reference) - SHORT_OF_ACCURACY
        optimal = {name: table["accuracy"] >= lowest for name, table in tables.items()}
    else:
        best = run_plan(matrix, loss, {"recipe": "thorough", "epochs": 16}, workers)["loss"]
        if loss == "cka":
            best = pd.concat([best, *(t["loss"] for t in tables.values())], axis=1).min(axis=1)
        allowed = best + EXCESS_OF_LOSS * best.abs()
        optimal = {name: table["loss"] <= allowed for name, table in tables.items()}
    return pd.concat(
        table.assign(optimal=optimal[name], plan=name, matrix=matrix, loss_name=loss)
        for name, table in tables.items()
    )


def summarize(rows: pd.DataFrame) -> dict[str, Any]:
    """Count the answers of a group of trainings."""
    yes = rows[rows["converged"].eq(True)]
    no = rows[rows["converged"].eq(False)]
    return {
        "trainings": len(rows),
        "at the optimum": int(rows["optimal"].sum()),
        "yes": len(yes),
        "false yes": int((~yes["optimal"]).sum()),
        "no": len(no),
        "false no": int(no["optimal"].sum()),
        "no answer": len(rows) - len(yes) - len(no),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--matrices", default="digits/resnet,digits/vgg", help="names of matrices")
    parser.add_argument("--losses", default=",".join(LOSSES), help="names of losses")
    parser.add_argument("--workers", type=int, help="trials at a time")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    rows = pd.concat(
        judge(matrix, loss, arguments.workers)
        for loss in arguments.losses.split(",")
        for matrix in arguments.matrices.split(",")
    )
    table = {
        **{loss: summarize(group) for loss, group in rows.groupby("loss_name", sort=False)},
        **{
            f"{loss}, {plan}": summarize(group)
            for (loss, plan), group in rows.groupby(["loss_name", "plan"], sort=False)
        },
    }
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": table}))
        return
    print(pd.DataFrame(table).T.to_string())
    print(", ".join(f"{key} {value}" for key, value in machine().items()))


if __name__ == "__main__":
    main()
