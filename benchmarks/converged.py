"""How often `converged` is wrong: trainings of known quality against reference optima.

    python benchmarks/converged.py [--matrix digits/resnet] [--losses task,mse] [--cells six]

Cells of a reference matrix are trained by plans that differ in length, optimizer, schedule and start.
Some of them are far too short. A training has reached its optimum if

- task: its validation accuracy is at most 0.02 below the reference optimum (`reference_optima.py`), the
  best of six long procedures;
- mse, correlation, cca: its training loss is at most 5 % above that of least squares, the exact optimum;
- cka: its training loss is at most 5 % above the best of all plans, which include 64 epochs.

For mse, correlation and cca `converged` is that comparison itself. A *false yes* is `converged` without
the optimum, a *false no* the opposite; a training may also have no answer.

Every training is a row of `benchmarks/reference/MATRIX.converged.csv`, which is written after each, so
that the same command continues an interrupted run. Rows of other losses and plans are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from _common import ROOT, machine
from _matrices import REFERENCE, Cell, read_reference

from stitch_sweep.config.reading import read_config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.plan.prepare import Prepared, prepare, provide_networks
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.training.workbench import Workbench

LOW_RATE: Mapping[str, Any] = {
    "epochs": 16,
    "optimizer": {"name": "adam", "lr": 3e-4},
    "schedule": {"name": "constant"},
}
PLANS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"recipe": "paper", "batch_size": 64},
    "4 epochs": {},
    "16 epochs": {"epochs": 16},
    "16 epochs, low rate": LOW_RATE,
    "fast": {"recipe": "fast"},
    "thorough": {"recipe": "thorough"},
    "thorough, 16 epochs": {"recipe": "thorough", "epochs": 16},
    "64 epochs": {"epochs": 64},
}
"""Section `training` of every plan."""
LOSSES = ("task", "mse", "correlation", "cca", "cka")
SIX: tuple[Cell, ...] = ((0, 1), (3, 1), (1, 3), (4, 0), (2, 2), (0, 4))
SHORT_OF_ACCURACY = 0.02
EXCESS_OF_LOSS = 0.05
IDENTITY = ["loss", "sender_layer", "receiver_layer", "plan"]


class Trainings:
    """The trainings of one matrix, stored in a CSV file.

    Args:
        matrix: one of `MATRICES`.
    """

    def __init__(self, matrix: str) -> None:
        self.path = REFERENCE / f"{matrix}.converged.csv"
        config = read_config(ROOT / "experiments/reference" / matrix / "config.yml")
        self._prepared: Prepared = prepare(config)
        self._bench: Workbench | None = None
        self._rows = _read(self.path)

    @property
    def cells(self) -> list[Cell]:
        """All cells of the matrix between layers."""
        cells = {(s.sender_layer, s.receiver_layer): None for s in self._prepared.studies}
        return [cell for cell in cells if min(cell) >= 0]

    def train(self, loss: str, cell: Cell, plan: str) -> None:
        """Train a cell by a plan, unless the file has it."""
        key = (loss, *cell, plan)
        if key in self._rows:
            return
        if self._bench is None:
            networks = provide_networks(self._prepared)
            self._bench = Workbench(self._prepared.config, self._prepared.data, networks)
        config = self._prepared.config
        sections = {"stitch": {"name": config.stitch.name}, "loss": {loss: 1.0}}
        settings = TrialSettings.model_validate({**sections, "training": PLANS[plan]})
        pair = config.pairs[0]
        training = self._bench.training(pair.sender, cell[0], pair.receiver, cell[1], settings)
        while not training.done:
            training.run_epoch()
        result = training.finish()
        values = {
            name: result.metrics.get(name)
            for name in ("converged", "train_loss", "val_accuracy", "test_accuracy")
        }
        values["solved"] = result.status == "finished" and training.total_steps == 0
        self._rows[key] = {**dict(zip(IDENTITY, key, strict=True)), **values}
        write_atomically(self.path, self.table().round(5).to_csv(index=False).encode())

    def table(self) -> pd.DataFrame:
        """Return a row per training."""
        return pd.DataFrame(list(self._rows.values()))


def _read(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    if not path.exists():
        return {}
    table = pd.read_csv(path)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return {tuple(row[name] for name in IDENTITY): dict(row) for row in rows}  # type: ignore[misc]


def judge(table: pd.DataFrame, reference: Mapping[Cell, float]) -> pd.DataFrame:
    """Add the column `optimal` to the trainings that ended and weren't solved in closed form.

    Args:
        table: a row per training.
        reference: the validation accuracy of every cell's reference optimum.
    """
    judged = table[table["train_loss"].notna() & ~table["solved"].astype(bool)].copy()
    cells = zip(judged["sender_layer"], judged["receiver_layer"], strict=True)
    best = pd.Series([reference[cell] for cell in cells], index=judged.index)
    # Accuracies are rounded to five digits.
    by_accuracy = judged["val_accuracy"] >= best - SHORT_OF_ACCURACY - 1e-5
    groups = table.groupby(["loss", "sender_layer", "receiver_layer"])["train_loss"]
    lowest = groups.transform("min").reindex(judged.index)
    by_loss = judged["train_loss"] <= lowest + EXCESS_OF_LOSS * lowest.abs()
    exact = judged["converged"].eq(True)
    judged["optimal"] = by_accuracy.where(judged["loss"] == "task", by_loss)
    closed = judged["loss"].isin(["mse", "correlation", "cca"])
    judged["optimal"] = exact.where(closed, judged["optimal"]).astype(bool)
    return judged


def summarize(rows: pd.DataFrame) -> dict[str, Any]:
    """Count the answers of a group of trainings."""
    yes, no = rows[rows["converged"].eq(True)], rows[rows["converged"].eq(False)]
    optimal = rows["optimal"]
    return {
        "trainings": len(rows),
        "at the optimum": int(optimal.sum()),
        "yes": len(yes),
        "false yes": int((~yes["optimal"]).sum()),
        "no": len(no),
        "false no": int(no["optimal"].sum()),
        "no answer": len(rows) - len(yes) - len(no),
        "of these at the optimum": int(optimal.sum() - yes["optimal"].sum() - no["optimal"].sum()),
    }


def _summaries(rows: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any]]]:
    for loss, group in rows.groupby("loss", sort=False):
        yield str(loss), summarize(group)
    for (loss, plan), group in rows.groupby(["loss", "plan"], sort=False):
        yield f"{loss}, {plan}", summarize(group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--matrix", default="digits/resnet", help="name of the matrix")
    parser.add_argument("--losses", default=",".join(LOSSES), help="names of losses")
    parser.add_argument(
        "--plans", default=";".join(PLANS), help="names of plans, between semicolons"
    )
    parser.add_argument("--cells", choices=("six", "all"), default="six", help="which cells")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    reference = read_reference(arguments.matrix, "validation_accuracy")
    if reference is None:
        parser.error(
            f"{arguments.matrix} has no reference optima; run benchmarks/reference_optima.py"
        )
    trainings = Trainings(arguments.matrix)
    for loss in arguments.losses.split(","):
        for cell in SIX if arguments.cells == "six" else trainings.cells:
            for plan in arguments.plans.split(";"):
                trainings.train(loss, cell, plan)
    table = dict(_summaries(judge(trainings.table(), reference)))
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": table}))
        return
    print(pd.DataFrame(table).T.to_string())
    print(", ".join(f"{key} {value}" for key, value in machine().items()))


if __name__ == "__main__":
    main()
