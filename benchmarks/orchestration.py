"""The time of a sweep beyond the computation itself: 100 trials of a second on two slots.

    python benchmarks/orchestration.py [--trials 100] [--seconds 1.0] [--repeats 1] [--json]

A real sweep through Ray Tune, Optuna, the ledger and the tracking process (MLflow, sqlite), in a
temporary folder: one cell of the quickstart's networks, with an Optuna study per five trials and as
many epochs as take about a second. The result is

    ratio = wall time x slots / sum of compute seconds

from the time at which both slots run to the end of the last trial; compute seconds are a trial's time in
the training code, including the final evaluation. Start-up and closing are listed separately. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from _common import PLAIN_TRAINING, QUICKSTART, ROOT, CpuClock, machine, shares, table

BEGAN = time.time()
SLOTS = 2
PER_STUDY = 5
CELL = {"sender": "a", "receiver": "b", "sender_layers": [1], "receiver_layers": [2]}


def read(trials: int, epochs: int) -> Any:
    """Return the quickstart's configuration with one cell that is trained `trials` times."""
    from stitch_sweep.config.reading import read_config

    return read_config(
        QUICKSTART,
        {
            "zoo": str(ROOT / "zoo"),
            "pairs": [CELL],
            "repeats": trials // PER_STUDY,
            "training": {**PLAIN_TRAINING, "epochs": epochs},
            "search": {
                "space": {
                    "training.optimizer.lr": {
                        "type": "float", "low": 0.003, "high": 0.03, "log": True,
                    }
                },
                "samples": PER_STUDY,
                "sampler": {"name": "tpe", "n_startup_trials": 2},
            },
            "tracking.experiment": "orchestration",
        },
    )  # fmt: skip


def calibrate(epochs: int = 10) -> tuple[float, float]:
    """Measure, in this process, the seconds of one epoch and of all other work of a trial."""
    from stitch_sweep.plan.prepare import prepare, provide_networks
    from stitch_sweep.training.workbench import Workbench

    config = read(PER_STUDY, epochs)
    prepared = prepare(config)
    bench = Workbench(config, prepared.data, provide_networks(prepared))
    sender, receiver = list(bench.networks)[:2]
    settings = config.trial_settings({})
    for _ in range(2):  # the first training warms up
        training = bench.training(sender, 1, receiver, 2, settings)
        began = training.seconds
        while not training.done:
            training.run_epoch()
        trained = training.seconds - began
        whole = training.finish().seconds
    return trained / epochs, whole - trained


def epochs_for(seconds: float) -> int:
    """Return the number of epochs of a given duration with both slots busy."""
    # Run one process first, because otherwise both processes would train the networks that the zoo lacks.
    command = [sys.executable, __file__, "--calibrate"]
    subprocess.run(command, check=True, capture_output=True)
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(SLOTS)]
    timings = [json.loads(process.communicate()[0]) for process in running]
    per_epoch, rest = (max(values) for values in zip(*timings, strict=True))
    return max(1, round((seconds - rest) / per_epoch))


def measure(trials: int, epochs: int) -> dict[str, Any]:
    """Run a sweep in a new folder."""
    with tempfile.TemporaryDirectory(prefix="stitch-sweep-bench-") as scratch:
        config = read(trials, epochs)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch}/mlflow.db"
        os.chdir(scratch)
        folder = Path(scratch) / "sweep"
        load = os.getloadavg()[0]
        from stitch_sweep.sweep.run import run_sweep

        with CpuClock() as clock:
            outcome = run_sweep(config, folder)
        ended = time.time()
        if outcome.ended != trials or outcome.failed:
            raise SystemExit(f"{outcome.ended} of {trials} trials ended, {outcome.failed} failed")
        os.chdir(ROOT)
        return {**evaluate(folder, BEGAN, ended, clock), "epochs": epochs, "load_before": load}


def evaluate(folder: Path, start: float, ended: float, clock: CpuClock) -> dict[str, Any]:
    """Compute the results of a finished sweep from its ledger.

    Args:
        folder: its experiment folder.
        start: start time, before the imports.
        ended: time after the sweep returned.
        clock: of the CPU time.
    """
    slots = defaultdict(list)
    for path in (folder / "ledger/trials").glob("*.json"):
        record = json.loads(path.read_text())
        # A record's file is written at its trial's end.
        trial = (record["started"], record["seconds"], path.stat().st_mtime)
        slots[record["worker"]].append(trial)
    if len(slots) != SLOTS:
        raise SystemExit(f"{len(slots)} processes ran trials, {SLOTS} were expected")
    first = max(min(trials)[0] for trials in slots.values())
    last = max(end for trials in slots.values() for _, _, end in trials)
    wall = last - first
    parts = dict.fromkeys(("compute", "into the ledger", "between trials", "idle at the end"), 0.0)
    count = 0
    for trials in slots.values():
        trials.sort()
        # If a trial began before both slots ran, only its time after that is counted.
        inside = [t for t in trials if t[2] > first]
        count += len(inside)
        for started, seconds, end in inside:
            computed = min(seconds, max(0.0, started + seconds - first))
            parts["compute"] += computed
            parts["into the ledger"] += end - max(first, started) - computed
        for trial, following in pairwise(inside):
            parts["between trials"] += following[0] - trial[2]
        parts["idle at the end"] += last - inside[-1][2]
    return {
        "trials": count,
        "slots": SLOTS,
        "seconds_per_trial": parts["compute"] / count,
        "compute_seconds": parts["compute"],
        "wall_seconds": wall,
        "ratio": wall * SLOTS / parts["compute"],
        "startup_seconds": first - start,
        "closing_seconds": ended - last,
        "slot_seconds": parts,
        "cpu_seconds": clock.between(first, last),
        "startup_cpu_seconds": clock.between(start, first),
    }


def show(result: dict[str, Any]) -> str:
    """Format the tables of one sweep."""
    slot_seconds = result["wall_seconds"] * result["slots"]
    rows = [
        ("trials, from the time when both slots run", result["trials"]),
        ("slots", result["slots"]),
        ("seconds of compute per trial", result["seconds_per_trial"]),
        ("sum of compute seconds", result["compute_seconds"]),
        ("wall seconds", result["wall_seconds"]),
        ("ratio: wall x slots / compute", f"{result['ratio']:.3f}"),
        ("start-up seconds, imports included", result["startup_seconds"]),
        ("closing seconds: tables, figures, tracking", result["closing_seconds"]),
    ]
    return "\n".join(
        [
            table(rows),
            "Where the slots' time goes:",
            table(shares(result["slot_seconds"], slot_seconds)),
            f"CPU time in this period, as a share of {result['slots']} cores:",
            table(shares({k: v for k, v in result["cpu_seconds"].items() if v}, slot_seconds)),
            "CPU seconds of the start-up:",
            table([(k, v) for k, v in result["startup_cpu_seconds"].items() if v]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100, help=f"a multiple of {PER_STUDY}")
    parser.add_argument("--seconds", type=float, default=1.0, help="compute time of a trial")
    parser.add_argument(
        "--repeats", type=int, default=1, help="number of sweeps, each in a new process"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--calibrate", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.calibrate:
        print(json.dumps(calibrate()))
        return
    if arguments.epochs:
        print(json.dumps(measure(arguments.trials, arguments.epochs)))
        return
    if arguments.trials % PER_STUDY:
        parser.error(f"--trials: {arguments.trials} is not a multiple of {PER_STUDY}")
    about, epochs = machine(), epochs_for(arguments.seconds)
    command = [sys.executable, __file__, "--trials", str(arguments.trials), "--epochs", str(epochs)]
    runs = []
    for _ in range(arguments.repeats):
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(run.stdout))
        if not arguments.json:
            print(show(runs[-1]), flush=True)
    ratio = median(run["ratio"] for run in runs)
    if arguments.json:
        print(json.dumps({"machine": about, "ratio": ratio, "runs": runs}))
        return
    print(f"Median ratio of {len(runs)}: {ratio:.3f} (goal: at most 1.10)")
    print(", ".join(f"{key} {value}" for key, value in about.items()))


if __name__ == "__main__":
    main()
