"""The start and end of a sweep: seconds from the command to the first step, and after the last trial.

    python benchmarks/startup.py [--repeats 3] [--address auto] [--source PATH] [--json]

The 25 cells of the quickstart's digits matrix with the task loss, a few epochs each, networks trained
before: `stitch-sweep sweep` in a new process and an empty folder, with tracking. `--source` measures
another copy of the package; compare two copies in turns, because CPU seconds are steadier than wall time
on a machine that others use too. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from _common import PLAIN_TRAINING, QUICKSTART, ROOT, CpuClock, machine, table

MAIN = "from stitch_sweep.__main__ import main; main()"
CHANGES = {
    "zoo": str(ROOT / "zoo"),
    "search": {},
    "loss": {"task": 1.0},
    "training": {**PLAIN_TRAINING, "epochs": 5},
    "tracking.experiment": "startup",
}


def measure(source: Path, address: str | None) -> dict[str, Any]:
    """Run a sweep in a new process, and return the times of its phases and the CPU seconds of each."""
    set_ = [f"--set={key}={json.dumps(value)}" for key, value in CHANGES.items()]
    command = [sys.executable, "-c", MAIN, "sweep", str(QUICKSTART), *set_, "--json"]
    command += [] if address is None else ["--address", address]
    with tempfile.TemporaryDirectory(prefix="stitch-sweep-bench-") as scratch, CpuClock() as clock:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db"}
        began = time.time()
        done = subprocess.run(
            [*command, "--folder", f"{scratch}/sweep"],
            cwd=scratch, env={**environment, "PYTHONPATH": str(source)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        ended = time.time()
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        trials = []
        for path in (Path(scratch) / "sweep/ledger/trials").glob("*.json"):
            record = json.loads(path.read_text())
            recorded = path.stat().st_mtime  # a record's file is written at its trial's end
            trials.append((record["started"], recorded - record["seconds"], recorded))
        manifest = (Path(scratch) / "sweep/summary.json").stat().st_mtime
    first_start, first_step = min(t[0] for t in trials), min(t[1] for t in trials)
    last = max(t[2] for t in trials)
    moments = [began, first_start, first_step, last, manifest, ended]
    names = ["until the first trial", "until its first step", "trials", "views", "MLflow, exit"]
    seconds = {
        name: after - before
        for name, before, after in zip(names, moments, moments[1:], strict=False)
    }
    return {
        "seconds": {"first step": first_step - began, "closing": ended - last, **seconds},
        "cpu_until_first_step": clock.between(began, first_step),
        "cpu_closing": clock.between(last, ended),
    }


def show(runs: list[dict[str, Any]]) -> str:
    """Format the medians of several runs."""

    def medians(part: str) -> list[tuple[str, float]]:
        names = dict.fromkeys(name for run in runs for name in run[part])
        return [(name, median(run[part].get(name, 0.0) for run in runs)) for name in names]

    def total(part: str) -> tuple[str, float]:
        return ("sum", median(sum(_values(run[part])) for run in runs))

    return "\n".join(
        [
            "Wall seconds:",
            table(medians("seconds")),
            "CPU seconds until the first step:",
            table([*medians("cpu_until_first_step"), total("cpu_until_first_step")]),
            "CPU seconds of the closing:",
            table([*medians("cpu_closing"), total("cpu_closing")]),
        ]
    )


def _values(seconds: Mapping[str, float]) -> list[float]:
    return list(seconds.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--address", help="of a Ray that runs already")
    parser.add_argument("--source", type=Path, default=ROOT, help="folder with the package")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    about = machine()
    runs = [measure(arguments.source, arguments.address) for _ in range(arguments.repeats)]
    if arguments.json:
        print(json.dumps({"machine": about, "runs": runs}))
        return
    print(f"Medians of {len(runs)} runs")
    print(show(runs))
    print(", ".join(f"{key} {value}" for key, value in about.items()))


if __name__ == "__main__":
    main()
