"""The number of workers that one driver can keep busy: real driver code, simulated workers.

    python benchmarks/simulated_cluster.py [--seconds 20] [--tune-ms 8] [--worker-ms 20] [--json]

The searcher and the ledger's writer are real and write real files; the duration of each call is measured.
Workers and Ray's messages are simulated: a trial takes `--seconds` of virtual time. The driver's process
and the writer's process handle one event at a time, so ended workers wait in a queue for each.
`--tune-ms` is the time that Ray Tune adds to an event of the driver, and `--worker-ms` the time that it
adds to a worker's trial; benchmarks/scale.py measures both.
"""

from __future__ import annotations

import argparse
import heapq
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, table
from scale import PER_STUDY, TEST_IMAGES, read

WORKERS = (1, 10, 30, 100, 300, 1000)
TRIALS_PER_WORKER = 6


@dataclass(order=True)
class _End:
    """A trial that ends on its worker at a virtual time."""

    at: float
    trial_id: str = field(compare=False)
    spec: dict[str, Any] = field(compare=False)


def _spec(suggested: dict[str, Any]) -> dict[str, Any]:
    """Return the recorded content of the only trial of a group."""
    (entry,) = json.loads(suggested["group"])["trials"]
    spec: dict[str, Any] = entry["spec"]
    return spec


@dataclass
class _Server:
    """A process that handles one call at a time. Times are virtual, durations are measured."""

    overhead: float
    busy_until: float = 0.0
    busy: float = 0.0

    def serve(self, at: float, call: Any, *arguments: Any) -> tuple[float, Any]:
        """Handle a call at a virtual time; return the time of its answer, and the answer."""
        start = time.perf_counter()
        answer = call(*arguments)
        took = time.perf_counter() - start + self.overhead
        self.busy_until = max(at, self.busy_until) + took
        self.busy += took
        return self.busy_until, answer


def simulate(workers: int, seconds: float, tune: float, worker: float) -> dict[str, float]:
    """Simulate a sweep until each worker has had a few trials."""
    from stitch_sweep.plan.prepare import prepare
    from stitch_sweep.storage.ledger import Ledger
    from stitch_sweep.storage.ledger_writer import LedgerWriter
    from stitch_sweep.sweep.searcher import SweepSearcher

    folder = Path(tempfile.mkdtemp(prefix="stitch-sweep-simulated-"))
    target = max(min(2000, 20 * workers), TRIALS_PER_WORKER * workers)
    # A study runs one trial at a time, so more studies than workers are needed.
    config = read(max(target, 2 * workers) * PER_STUDY, folder, "")
    ledger = Ledger(folder / "sweep")
    ledger.start({})
    searcher = SweepSearcher(prepare(config).studies, config, ledger, limit=lambda: workers)
    writer = LedgerWriter(str(ledger.folder), "none", "max")
    driver, ledgers = _Server(tune), _Server(0.0)
    rng = np.random.default_rng(0)
    ends: list[_End] = []
    handed, done, now, filled = 0, 0, 0.0, 0.0

    def hand_out(at: float) -> None:
        nonlocal handed
        trial_id = f"t{handed}"
        answered, suggested = driver.serve(at, searcher.suggest, trial_id)
        if suggested is None or suggested == SweepSearcher.FINISHED:
            return
        handed += 1
        # Durations differ by a tenth, so that the workers don't all request trials at the same time.
        length = seconds * (1 + 0.1 * rng.standard_normal()) + worker
        heapq.heappush(ends, _End(answered + max(0.0, length), trial_id, _spec(suggested)))

    for _ in range(workers):
        hand_out(0.0)
    started = driver.busy_until
    while ends and done < target:
        end = heapq.heappop(ends)
        outcome = _outcome(seconds)
        predictions = rng.integers(0, 10, TEST_IMAGES)
        written, _ = ledgers.serve(
            end.at, writer.finish, end.spec["trial"], outcome, predictions, None
        )
        heard, _ = driver.serve(written, searcher.on_trial_complete, end.trial_id)
        done, now = done + 1, heard
        if done == workers:
            # Skip each worker's first trial, because all workers start at the same time.
            filled = now
        hand_out(heard)
    shutil.rmtree(folder)
    return {
        "workers": workers,
        "trials": done,
        "efficiency": (done - workers) * seconds / (workers * (now - filled)),
        "driver_busy": driver.busy / now,
        "writer_busy": ledgers.busy / now,
        "driver_ms_per_trial": 1000 * driver.busy / handed,
        "writer_ms_per_trial": 1000 * ledgers.busy / done,
        "start_seconds": started,
    }


def _outcome(seconds: float) -> dict[str, Any]:
    """Return the result of a training of ten epochs."""
    row = {"step": 1, "epoch": 1, "time": 1.0, "split": "train", "loss": 0.1234567, "accuracy": 0.5}
    return {
        "status": "finished",
        "metric": 0.5,
        "metrics": {f"val_measure_{k}": k / 7 for k in range(40)} | {"val_accuracy": 0.5},
        "trajectory": [{**row, "step": k} for k in range(50)],
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="that a training takes")
    parser.add_argument("--tune-ms", type=float, default=3.0, help="Ray Tune's own, per event")
    parser.add_argument(
        "--worker-ms", type=float, default=20.0, help="that a trial costs its worker"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    tune, worker = arguments.tune_ms / 1000, arguments.worker_ms / 1000
    runs = [simulate(count, arguments.seconds, tune, worker) for count in WORKERS]
    if arguments.json:
        print(json.dumps({"machine": machine(), "seconds": arguments.seconds, "runs": runs}))
        return
    for run in runs:
        print(table(list(run.items())), "\n")
    print(", ".join(f"{key} {value}" for key, value in machine().items()))


if __name__ == "__main__":
    main()
