"""What early stopping saves, and what it costs: schedulers on recorded learning curves.

    python benchmarks/early_stopping.py [--samples 16] [--epochs 16] [--every 3] [--curves FILE] [--json]

Every third study of the quickstart's digits matrix, with `samples` random points of
search_spaces/quick.yml: all trials are trained to their end, in one process. Then each scheduler decides
which of them would have been stopped. The table shows the share of all epochs that is still trained, and
how much lower the best validation accuracy of a study is than without a scheduler: the mean, the largest,
and the number of studies that lose. `--curves` keeps the recorded curves, or reads them again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from _common import PLAIN_TRAINING, QUICKSTART, ROOT, machine

from stitch_sweep.config.reading import read_config
from stitch_sweep.config.root import Config
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.plan.schedulers import Scheduler, build_scheduler
from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.storage.study import Study
from stitch_sweep.training.workbench import Workbench

SCHEDULERS: list[tuple[Any, int]] = [
    ("asha", 16),
    ("asha", 4),
    ("asha", 1),
    ({"name": "asha", "grace_period": 2}, 16),
    ({"name": "asha", "reduction_factor": 2}, 16),
    ({"name": "asha", "reduction_factor": 2, "grace_period": 2}, 16),
    ("hyperband", 16),
    ("median_stopping", 16),
    ("median_stopping", 4),
    ("SuccessiveHalvingPruner", 16),
    ("HyperbandPruner", 16),
    ({"name": "MedianPruner", "n_startup_trials": 4}, 4),
]
"""Schedulers with numbers of trials of a round."""


def configure(samples: int, epochs: int, scheduler: Any, round_size: int) -> Config:
    """Return the quickstart's configuration with a random search and a scheduler."""
    search = {
        "space": str(ROOT / "search_spaces/quick.yml"),
        "samples": samples,
        "sampler": "random",
        "scheduler": scheduler,
        "parallel_per_study": round_size,
    }
    return read_config(
        QUICKSTART,
        {
            "zoo": str(ROOT / "zoo"),
            "search": search,
            "training": {**PLAIN_TRAINING, "epochs": epochs, "batch_size": 64},
        },
    )


def record(samples: int, epochs: int, every: int) -> list[dict[str, Any]]:
    """Train all trials of the chosen studies; return each one's key and validation accuracies."""
    config = configure(samples, epochs, None, 1)
    prepared = prepare(config)
    bench = Workbench(config, prepared.data, provide_networks(prepared))
    cells = []
    for study in prepared.studies[::every]:
        search, curves = StudySearch(study, config), []
        for number in range(samples):
            settings = config.trial_settings({**study.factors, **search.ask(number)})
            training = bench.training(
                study.sender,
                study.sender_layer,
                study.receiver,
                study.receiver_layer,
                settings,
                study.repeat,
            )
            while not training.done:
                training.run_epoch()
            rows = [row for row in training.trajectory if row["split"] == "validation"]
            curves.append([row["accuracy"] for row in rows])
        cells.append({"study": study.key, "curves": curves})
    return cells


def stop(scheduler: Scheduler, curves: Sequence[Sequence[float]], size: int) -> list[int]:
    """Return the number of epochs that each trial runs."""
    lengths = [len(curve) for curve in curves]
    finished: set[int] = set()
    for start in range(0, len(curves), size):
        members = range(start, start + size)
        for epoch in range(1, max(lengths[n] for n in members)):
            arrived = [
                n
                for n in members
                if lengths[n] > epoch and epoch in scheduler.rungs(n, len(curves[n]))
            ]
            histories = {n: curves[n][: lengths[n]] for n in range(start)}
            histories |= {n: curves[n][: min(epoch, lengths[n])] for n in members}
            if arrived:
                for n in scheduler.stops(epoch, arrived, histories, finished):
                    lengths[n] = epoch
        finished |= {n for n in members if lengths[n] == len(curves[n])}
    return lengths


def judge(cells: Sequence[dict[str, Any]], scheduler: Any, size: int) -> dict[str, Any]:
    """Return the figures of one scheduler over all studies."""
    trained = planned = 0
    losses = []
    for cell in cells:
        curves = cell["curves"]
        config = configure(len(curves), max(map(len, curves)), scheduler, size)
        built = build_scheduler(config, Study(**cell["study"]))
        assert built is not None
        lengths = stop(built, curves, size)
        trained += sum(lengths)
        planned += sum(map(len, curves))
        whole = [c[-1] for n, c in enumerate(curves) if lengths[n] == len(c)]
        losses.append(max(c[-1] for c in curves) - max(whole, default=0.0))
    options = {} if isinstance(scheduler, str) else scheduler
    arguments = [f"{key} {value}" for key, value in options.items() if key != "name"]
    return {
        "scheduler": ", ".join([options.get("name", scheduler), *arguments]),
        "round": size,
        "share of epochs": trained / planned,
        "mean loss": mean(losses),
        "largest loss": max(losses),
        "studies that lose": sum(loss > 0 for loss in losses),
    }


def main() -> None:
    """Record or read the curves, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--curves", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.curves is not None and arguments.curves.exists():
        cells = json.loads(arguments.curves.read_text())
    else:
        cells = record(arguments.samples, arguments.epochs, arguments.every)
        if arguments.curves is not None:
            arguments.curves.write_text(json.dumps(cells))
    rows = [judge(cells, scheduler, size) for scheduler, size in SCHEDULERS]
    if arguments.json:
        print(json.dumps({"machine": machine(), "studies": len(cells), "schedulers": rows}))
        return
    print(f"{len(cells)} studies, {len(cells[0]['curves'])} samples each; {machine()}")
    for row in rows:
        print(
            f"{row['scheduler']:<44} round {row['round']:>2}  {row['share of epochs']:.3f}  "
            f"{row['mean loss']:.4f}  {row['largest loss']:.4f}  {row['studies that lose']}"
        )


if __name__ == "__main__":
    main()
