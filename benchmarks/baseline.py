"""Stitch Sweep against what a user would write first, on the quickstart's 25-cell digits matrix.

    python benchmarks/baseline.py [--epochs 10] [--repeats 3] [--json]

Both train the same stitches between the same networks on the same tensors, with the same optimizer,
schedule, epochs and evaluations, one CPU thread per trial, and as many trials at once as there are
cores: `stitch-sweep sweep` with tracking on, and `_naive.py`, a plain Ray Tune function trainable. Every
run is a fresh process, started in turn; its time is from start to exit, Ray's start-up included. The
networks exist before, so neither pays for them. The seed differs from repeat to repeat. Ten epochs
keep three repeats to some minutes; the quickstart itself trains 50 (`--epochs 50`), where computation
that both have to do counts for more.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from _common import QUICKSTART, ROOT, machine, shares, table

HERE = Path(__file__).resolve().parent
SLOTS = len(os.sched_getaffinity(0))
LR = 0.03
"""What the task loss gives Adam by default; spelled out because both need it."""

Cell = tuple[int, int]


def overrides(epochs: int, seed: int) -> dict[str, Any]:
    """What is changed in the quickstart's configuration."""
    return {
        "zoo": str(ROOT / "zoo"),
        "seed": seed,
        "search": {},
        "loss": {"task": 1.0},
        "training.optimizer": {"name": "adam", "lr": LR},
        "training.schedule": {"name": "warmup_cosine", "warmup": 0.1},
        "tracking.experiment": "baseline",
        "training.epochs": epochs,
    }


def prepare_inputs(file: Path, epochs: int) -> dict[str, int]:
    """Train the networks if they are missing, and write what the naive script reads."""
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


def run_ours(folder: Path, training: Mapping[str, int], seed: int) -> dict[str, Any]:
    """One run of Stitch Sweep in an empty folder."""
    changes = overrides(training["epochs"], seed)
    set_ = [f"--set={key}={json.dumps(value)}" for key, value in changes.items()]
    main = "from stitch_sweep.cli.main import main; main()"
    command = [sys.executable, "-c", main, "sweep", str(QUICKSTART), *set_]
    command += ["--folder", str(folder / "sweep"), "--json"]
    began = time.time()
    wall = _run(command, folder)
    trials, accuracy = [], {}
    for path in sorted((folder / "sweep/ledger/trials").glob("*.json")):
        record = json.loads(path.read_text())
        trials.append((record["started"], path.stat().st_mtime, _parts(record)))
        cell = (record["sender_layer"], record["receiver_layer"])
        accuracy[cell] = record["metrics"]["test_accuracy"]
    return {"wall": wall, "accuracy": accuracy, "parts": _slots(began, wall, trials)}


def run_naive(folder: Path, training: Mapping[str, int], seed: int, inputs: Path) -> dict[str, Any]:
    """One run of the naive script."""
    command = [sys.executable, str(HERE / "_naive.py"), str(inputs), str(folder / "out.json")]
    command += ["--epochs", str(training["epochs"]), "--batch-size", str(training["batch_size"])]
    command += ["--lr", str(LR), "--seed", str(seed)]
    began = time.time()
    wall = _run(command, folder)
    cells = json.loads((folder / "out.json").read_text())["cells"]
    accuracy = {(c["sender_layer"], c["receiver_layer"]): c["test_accuracy"] for c in cells}
    trials = [(c["began"], c["ended"], c["spent"]) for c in cells]
    return {"wall": wall, "accuracy": accuracy, "parts": _slots(began, wall, trials)}


def _run(command: list[str], folder: Path) -> float:
    # MLflow's default store, which lies in the current folder, is part of what we measure.
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return wall


def _parts(record: Mapping[str, Any]) -> dict[str, float]:
    """Where a trial's seconds went, read off the times in its trajectory."""
    rows = record["trajectory"]
    evaluation = record["seconds"] - rows[-1]["time"]
    steps, training, before = 0, 0.0, rows[0]
    for row in rows[1:]:
        passed = row["time"] - before["time"]
        if row["split"] == "validation":
            evaluation += passed
        else:
            training += passed
            steps += row["step"] - before["step"]
        before = row
    # The first row comes after set-up and some steps; those took as long as the others.
    first = rows[0]["step"] * training / steps
    return {
        "set-up, sender (cached)": max(0.0, rows[0]["time"] - first),
        "stitch and receiver": training + first,
        "evaluation": evaluation,
    }


def _slots(
    began: float, wall: float, trials: list[tuple[float, float, dict[str, float]]]
) -> dict[str, float]:
    """Seconds of wall time by what the slots did; they add up to `wall`.

    Args:
        began: moment when the run began.
        wall: its length.
        trials: (moment of its start, moment of its end, seconds by part) of each.
    """
    first, last = min(t[0] for t in trials), max(t[1] for t in trials)
    found: dict[str, float] = {"start-up": first - began}
    for _, _, parts in trials:
        for name, seconds in parts.items():
            found[name] = found.get(name, 0.0) + seconds / SLOTS
    found["between trials"] = last - first - (sum(found.values()) - found["start-up"])
    found["closing"] = began + wall - last
    return found


def compare(ours: list[dict[str, Any]], naive: list[dict[str, Any]]) -> dict[str, Any]:
    """How the accuracies of the two differ, cell by cell, in percentage points."""
    cells: list[Cell] = sorted(naive[0]["accuracy"])

    def mean(runs: list[dict[str, Any]], cell: Cell) -> float:
        return 100 * fmean(run["accuracy"][cell] for run in runs)

    differences = [mean(ours, cell) - mean(naive, cell) for cell in cells]
    found = {
        "cells": len(cells),
        "ours_mean": fmean(mean(ours, cell) for cell in cells),
        "naive_mean": fmean(mean(naive, cell) for cell in cells),
        "mean_difference": fmean(differences),
        "standard_error": stdev(differences) / math.sqrt(len(differences)),
        "mean_absolute_difference": fmean(map(abs, differences)),
        "largest_absolute_difference": max(map(abs, differences)),
    }
    if len(ours) > 1:
        # What a seed alone moves: the scale on which a difference between the two is noise.
        for name, runs in (("ours", ours), ("naive", naive)):
            spread = [stdev(100 * run["accuracy"][cell] for run in runs) for cell in cells]
            found[f"{name}_sd_over_seeds"] = math.sqrt(fmean(s**2 for s in spread))
    return found


def _breakdown(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {name: fmean(run["parts"][name] for run in runs) for name in runs[0]["parts"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10, help="the quickstart's own are 50")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    asked = parser.parse_args()
    about = machine()
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "naive": []}
    with tempfile.TemporaryDirectory(prefix="stitch-sweep-bench-") as scratch:
        inputs = Path(scratch) / "inputs.pt"
        training = prepare_inputs(inputs, asked.epochs)
        for repeat in range(asked.repeats):
            # In turn, and the other one first each time: a machine that warms up favours neither.
            for name in ("ours", "naive") if repeat % 2 == 0 else ("naive", "ours"):
                folder = Path(scratch) / f"{name}-{repeat}"
                folder.mkdir()
                load = os.getloadavg()[0]
                if name == "ours":
                    run = run_ours(folder, training, repeat)
                else:
                    run = run_naive(folder, training, repeat, inputs)
                runs[name].append(run)
                said = f"{name}, seed {repeat}: {run['wall']:.1f} s (load before: {load:.2f})"
                print(said, file=sys.stderr, flush=True)
    walls = {name: [run["wall"] for run in found] for name, found in runs.items()}
    medians = {name: median(found) for name, found in walls.items()}
    found = {
        "machine": about,
        **training,
        "repeats": asked.repeats,
        "wall_seconds": walls,
        "median_seconds": medians,
        "ratio": medians["ours"] / medians["naive"],
        "accuracy": compare(runs["ours"], runs["naive"]),
        "wall_seconds_by_part": {name: _breakdown(found) for name, found in runs.items()},
    }
    if asked.json:
        print(json.dumps(found))
        return
    print(f"{training['epochs']} epochs in batches of {training['batch_size']}, {SLOTS} slots")
    for name, parts in found["wall_seconds_by_part"].items():
        whole = sum(parts.values())
        print(f"{name}: median {medians[name]:.1f} s of {asked.repeats}; where a run's time goes:")
        print(table(shares(parts, whole)))
    print("Test accuracy, percent, and paired differences (ours - naive) in points:")
    print(table([(key.replace("_", " "), value) for key, value in found["accuracy"].items()]))
    print(f"Ratio of medians, ours / naive: {found['ratio']:.3f} (wanted: at most 0.333)")
    print(", ".join(f"{key} {value}" for key, value in about.items()))


if __name__ == "__main__":
    main()
