"""Stitch Sweep compared with a plain script, on the quickstart's 25-cell digits matrix.

    python benchmarks/baseline.py [--epochs 10] [--recipe fast] [--repeats 3] [--json]

Both train the same stitches between the same networks on the same tensors, with the same optimizer,
schedule, epochs and evaluations, one CPU thread per trial, and as many trials at once as there are cores:
`stitch-sweep sweep` with tracking on, and `_naive.py`, a plain Ray Tune function trainable. Every run is
a new process; the two programs alternate. A run's time is from start to exit, including Ray's start-up.
The networks are trained before, so their training isn't included. Each repeat has a different seed. With
ten epochs, three repeats take a few minutes; with 50 epochs the computation that both programs do is a
larger share of the time. With `--recipe` only the plain script trains like this, and Stitch Sweep as the
recipe says, in packs: compare the accuracies before the times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from _common import QUICKSTART, ROOT, machine, run_timed, shares, table

HERE = Path(__file__).resolve().parent
SLOTS = len(os.sched_getaffinity(0))
LR = 0.03
"""The task loss's default learning rate for Adam, stated because both programs need it."""

Cell = tuple[int, int]


def overrides(epochs: int, seed: int, recipe: str | None = None) -> dict[str, Any]:
    """Return the changes to the quickstart's configuration."""
    plain = {
        "epochs": epochs,
        "batch_size": 32,
        "optimizer": {"name": "adam", "lr": LR},
        "schedule": {"name": "warmup_cosine", "warmup": 0.1},
    }
    return {
        "zoo": str(ROOT / "zoo"),
        "seed": seed,
        "search": {},
        "loss": {"task": 1.0},
        "tracking.experiment": "baseline",
        "training": plain if recipe is None else {"recipe": recipe},
        "resources.pack": 1 if recipe is None else "auto",
    }


def prepare_inputs(file: Path, epochs: int) -> dict[str, int]:
    """Train the networks if they are missing, and write the input file of the naive script."""
    import torch

    from stitch_sweep.config.reading import read_config
    from stitch_sweep.data.augmentation import normalize_images
    from stitch_sweep.plan.prepare import prepare, provide_networks

    config = read_config(QUICKSTART, overrides(epochs, seed=0))
    prepared = prepare(config)
    networks = provide_networks(prepared)
    data = {}
    for short, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        images = getattr(prepared.data, split)
        data[f"x_{short}"] = normalize_images(images.images, prepared.data.mean, prepared.data.std)
        data[f"y_{short}"] = images.labels
    torch.save(
        {
            "weights": [network.state_dict() for network in networks.values()],
            "options": dict(config.networks[0].options),
            "data": data,
        },
        file,
    )
    return {"epochs": config.training.epochs, "batch_size": config.training.batch_size}


def run_stitch_sweep(
    folder: Path, training: Mapping[str, int], seed: int, recipe: str | None
) -> dict[str, Any]:
    """Run Stitch Sweep in an empty folder."""
    changes = overrides(training["epochs"], seed, recipe)
    set_ = [f"--set={key}={json.dumps(value)}" for key, value in changes.items()]
    main = "from stitch_sweep.cli.main import main; main()"
    command = [sys.executable, "-c", main, "sweep", str(QUICKSTART), *set_]
    command += ["--folder", str(folder / "sweep"), "--json"]
    start = time.time()
    wall = run_timed(command, folder)
    trials, accuracy = [], {}
    for path in sorted((folder / "sweep/ledger/trials").glob("*.json")):
        record = json.loads(path.read_text())
        trials.append((record["started"], path.stat().st_mtime, _parts(record)))
        cell = (record["sender_layer"], record["receiver_layer"])
        accuracy[cell] = record["metrics"]["test_accuracy"]
    return {"wall": wall, "accuracy": accuracy, "parts": _slots(start, wall, trials)}


def run_naive(folder: Path, training: Mapping[str, int], seed: int, inputs: Path) -> dict[str, Any]:
    """Run the naive script."""
    command = [sys.executable, str(HERE / "_naive.py"), str(inputs), str(folder / "out.json")]
    command += ["--epochs", str(training["epochs"]), "--batch-size", str(training["batch_size"])]
    command += ["--lr", str(LR), "--seed", str(seed)]
    start = time.time()
    wall = run_timed(command, folder)
    cells = json.loads((folder / "out.json").read_text())["cells"]
    accuracy = {(c["sender_layer"], c["receiver_layer"]): c["test_accuracy"] for c in cells}
    trials = [(c["began"], c["ended"], c["spent"]) for c in cells]
    return {"wall": wall, "accuracy": accuracy, "parts": _slots(start, wall, trials)}


def _parts(record: Mapping[str, Any]) -> dict[str, float]:
    """Return a trial's seconds by part, from the times in its trajectory."""
    rows = record["trajectory"]
    evaluation = record["seconds"] - rows[-1]["time"]
    steps, training, previous = 0, 0.0, rows[0]
    for row in rows[1:]:
        passed = row["time"] - previous["time"]
        if row["split"] == "validation":
            evaluation += passed
        else:
            training += passed
            steps += row["step"] - previous["step"]
        previous = row
    # The first row is written after set-up and some steps; estimate these steps from the time of later
    # steps. A stitch in closed form takes none.
    first = rows[0]["step"] * training / max(1, steps)
    return {
        "set-up, sender (cached)": max(0.0, rows[0]["time"] - first),
        "stitch and receiver": training + first,
        "evaluation": evaluation,
    }


def _slots(
    start: float, wall: float, trials: list[tuple[float, float, dict[str, float]]]
) -> dict[str, float]:
    """Return the seconds of wall time by activity of the slots; their sum is `wall`.

    Args:
        start: start of the run.
        wall: duration of the run.
        trials: (start, end, seconds by part) of each trial.
    """
    first, last = min(t[0] for t in trials), max(t[1] for t in trials)
    parts_by_name: dict[str, float] = {"start-up": first - start}
    for _, _, parts in trials:
        for name, seconds in parts.items():
            parts_by_name[name] = parts_by_name.get(name, 0.0) + seconds / SLOTS
    busy = sum(parts_by_name.values()) - parts_by_name["start-up"]
    parts_by_name["between trials"] = last - first - busy
    parts_by_name["closing"] = start + wall - last
    return parts_by_name


def compare(ours: list[dict[str, Any]], naive: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the accuracies of both programs, cell by cell, in percentage points."""
    cells: list[Cell] = sorted(naive[0]["accuracy"])

    def mean(runs: list[dict[str, Any]], cell: Cell) -> float:
        return 100 * fmean(run["accuracy"][cell] for run in runs)

    differences = [mean(ours, cell) - mean(naive, cell) for cell in cells]
    result = {
        "cells": len(cells),
        "ours_mean": fmean(mean(ours, cell) for cell in cells),
        "naive_mean": fmean(mean(naive, cell) for cell in cells),
        "mean_difference": fmean(differences),
        "standard_error": stdev(differences) / math.sqrt(len(differences)),
        "mean_absolute_difference": fmean(map(abs, differences)),
        "largest_absolute_difference": max(map(abs, differences)),
    }
    if len(ours) > 1:
        # The standard deviation over seeds: smaller differences between the two programs are noise.
        for name, runs in (("ours", ours), ("naive", naive)):
            spread = [stdev(100 * run["accuracy"][cell] for run in runs) for cell in cells]
            result[f"{name}_sd_over_seeds"] = math.sqrt(fmean(s**2 for s in spread))
    return result


def _breakdown(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {name: fmean(run["parts"][name] for run in runs) for name in runs[0]["parts"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10, help="of the plain training")
    parser.add_argument(
        "--recipe", help="training recipe of Stitch Sweep, instead of the same training"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    about = machine()
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "naive": []}
    with tempfile.TemporaryDirectory(prefix="stitch-sweep-bench-") as scratch:
        inputs = Path(scratch) / "inputs.pt"
        training = prepare_inputs(inputs, arguments.epochs)
        for repeat in range(arguments.repeats):
            # Alternate which program runs first, so that a machine that warms up favors neither.
            for name in ("ours", "naive") if repeat % 2 == 0 else ("naive", "ours"):
                folder = Path(scratch) / f"{name}-{repeat}"
                folder.mkdir()
                load = os.getloadavg()[0]
                if name == "ours":
                    run = run_stitch_sweep(folder, training, repeat, arguments.recipe)
                else:
                    run = run_naive(folder, training, repeat, inputs)
                runs[name].append(run)
                line = f"{name}, seed {repeat}: {run['wall']:.1f} s (load before: {load:.2f})"
                print(line, file=sys.stderr, flush=True)
    walls = {name: [run["wall"] for run in group] for name, group in runs.items()}
    medians = {name: median(values) for name, values in walls.items()}
    result = {
        "machine": about,
        **training,
        "repeats": arguments.repeats,
        "wall_seconds": walls,
        "median_seconds": medians,
        "ratio": medians["ours"] / medians["naive"],
        "accuracy": compare(runs["ours"], runs["naive"]),
        "wall_seconds_by_part": {name: _breakdown(group) for name, group in runs.items()},
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{training['epochs']} epochs in batches of {training['batch_size']}, {SLOTS} slots")
    for name, parts in result["wall_seconds_by_part"].items():
        whole = sum(parts.values())
        print(
            f"{name}: median {medians[name]:.1f} s of {arguments.repeats}; where a run's time goes:"
        )
        print(table(shares(parts, whole)))
    print("Test accuracy, percent, and paired differences (Stitch Sweep - naive) in points:")
    print(table([(key.replace("_", " "), value) for key, value in result["accuracy"].items()]))
    print(f"Ratio of medians, Stitch Sweep / naive: {result['ratio']:.3f} (goal: at most 0.333)")
    print(", ".join(f"{key} {value}" for key, value in about.items()))


if __name__ == "__main__":
    main()
