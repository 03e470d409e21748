"""Thousands of trials of a few milliseconds: the cost of a trial as a sweep grows.

    python benchmarks/scale.py --trials 10000 [--milliseconds 5] [--workers 2] [--store sqlite] [--json]

Tuner, search (TPE, ten trials per study), ledger and tracking process are real. Only the training is
replaced: it sleeps, and reports the data of ten epochs: 50 rows of trajectory, 40 final metrics, 1,000
predictions. `--store postgresql` starts a server (its binaries and psycopg2 must be installed). At the
end, the script measures how long the MLflow server takes for the requests of its UI.

With `--workers` above the number of cores and `--milliseconds 1000`, the script measures how many workers
one driver can keep busy, because sleeping needs no core. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _common import CpuClock, machine, shares, table

PER_STUDY = 10
CELLS = 25
TEST_IMAGES = 1000


def read(trials: int, folder: Path, store: str) -> Any:
    """Return a configuration of two small untrained networks, with enough repeats for `trials` trials."""
    from stitch_sweep.config.root import Config

    network = {"family": "resnet1111", "width": 4, "weights": "random"}
    return Config.model_validate(
        {
            "data": {"name": "digits", "image_size": 16, "train_images": 300, "test_images": 100},
            "networks": [{"name": "a", "seed": 0, **network}, {"name": "b", "seed": 1, **network}],
            "pairs": [{"sender": "a", "receiver": "b"}],
            "zoo": str(folder / "zoo"),
            "repeats": max(1, trials // (PER_STUDY * CELLS)),
            "search": {
                "space": {
                    "training.optimizer.lr": {
                        "type": "float", "low": 0.001, "high": 0.1, "log": True,
                    }
                },
                "samples": PER_STUDY,
                "sampler": {"name": "tpe", "n_startup_trials": 4},
            },
            "keep_stitches": "none",
            "tracking": {"experiment": "scale", "uri": store, "enabled": bool(store)},
        }
    )  # fmt: skip


def stand_in(milliseconds: float) -> type:
    """Return a Trainable that sleeps, and then reports the data of a training."""
    from stitch_sweep.sweep.trainable import StitchTrainable
    from stitch_sweep.sweep.worker_trial import WorkerTrial
    from stitch_sweep.training.pack import Pack

    class StandIn(StitchTrainable):
        def setup(self, config: dict[str, Any], shared: Any = None) -> None:
            self._shared = shared
            self._pack = Pack(1)
            self._begin(config)

        def step(self) -> dict[str, Any]:
            time.sleep(milliseconds / 1000)
            spec = self._waiting[0]["spec"]
            rng = np.random.default_rng(spec["number"])
            rate = spec["settings"]["training"]["optimizer"]["lr"]
            accuracy = 0.9 - abs(np.log10(rate) + 2) / 10
            rows = [
                {
                    "step": step, "epoch": 1 + step // 5, "time": step * milliseconds / 50_000,
                    "split": "train" if step % 5 else "validation",
                    "loss": 1 / (1 + step), "loss.task": 1 / (1 + step), "accuracy": accuracy, "lr": rate,
                }
                for step in range(1, 51)
            ]  # fmt: skip
            metrics = {f"val_measure_{k}": float(rng.random()) for k in range(35)}
            metrics |= dict.fromkeys(("val_accuracy", "test_accuracy", "train_accuracy"), accuracy)
            metrics |= {"penalty": 0.9 - accuracy, "converged": True}
            outcome = {
                "status": "finished", "metric": accuracy, "metrics": metrics,
                "trajectory": rows, "seconds": milliseconds / 1000,
            }  # fmt: skip
            trial = WorkerTrial(spec, None, None, self._shared.writer, "val_accuracy")
            trial.record(outcome, rng.integers(0, 10, TEST_IMAGES), None)
            return {"done": True}

    return StandIn


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[str]:
    """Run a Ray node with a given number of CPUs; yield its address."""
    port = _free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", f"--num-cpus={workers}", "--include-dashboard=false"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        if not any("Ray runtime started" in line for line in process.stdout):
            raise SystemExit("the Ray node didn't start")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


@contextlib.contextmanager
def tracking_store(kind: str, scratch: Path) -> Iterator[str]:
    """Create a tracking store; yield its URI, empty without a store."""
    if kind == "none":
        yield ""
    elif kind == "sqlite":
        yield f"sqlite:///{scratch / 'mlflow.db'}"
    else:
        with _postgresql(scratch / "postgresql") as uri:
            yield uri


@contextlib.contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path("/usr/bin")]
    folder.mkdir()
    folder.parent.chmod(0o755)
    user: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    data, port = folder / "data", _free_port()
    subprocess.run(
        [folders[-1] / "initdb", "-D", data, "-U", "postgres", "-A", "trust"],
        check=True, stdout=subprocess.DEVNULL, cwd=folder, **user,
    )  # fmt: skip
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    with subprocess.Popen(
        [folders[-1] / "postgres", "-D", data, "-p", str(port), *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **user,
    ) as server:  # fmt: skip
        try:
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                if server.poll() is not None:
                    raise SystemExit("PostgreSQL didn't start")
            yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
        finally:
            # With SIGTERM, the server would wait until its clients disconnect.
            server.send_signal(signal.SIGINT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Memory:
    """Resident memory of this process in MiB, by number of ended trials; read periodically."""

    def __init__(self, folder: Path) -> None:
        self.readings: list[tuple[int, float]] = []
        self._trials = folder / "ledger" / "trials"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def thinned(self) -> dict[str, float]:
        """Return about eight of the readings."""
        every = max(1, len(self.readings) // 8)
        return {str(count): mib for count, mib in self.readings[::every]}

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE") / 2**20
        while not self._over.wait(2.0):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            count = sum(1 for _ in self._trials.glob("*.json")) if self._trials.exists() else 0
            self.readings.append((count, pages * page))


def measure(trials: int, milliseconds: float, workers: int, store: str) -> dict[str, Any]:
    """Run a sweep in a new folder."""
    from stitch_sweep.sweep import tuning
    from stitch_sweep.sweep.run import run_sweep

    tuning.StitchTrainable = stand_in(milliseconds)
    with contextlib.ExitStack() as stack:
        scratch = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="stitch-sweep-scale-"))
        )
        uri = stack.enter_context(tracking_store(store, scratch))
        address = stack.enter_context(cluster(workers))
        folder = scratch / "sweep"
        config = read(trials, scratch, uri)
        load = os.getloadavg()[0]
        with CpuClock(interval=1.0) as clock, Memory(folder) as memory:
            outcome = run_sweep(config, folder, address=address, workers=workers)
        returned = time.time()
        if outcome.failed or outcome.lost or outcome.ended != outcome.total:
            raise SystemExit(f"{outcome.ended} of {outcome.total} ended, {outcome.failed} failed")
        result = evaluate(folder, milliseconds, workers, clock, memory, returned)
        if store != "none":
            result["tracked"] = outcome.tracked
            result["ui_seconds"] = time_ui(uri, scratch)
        return {**result, "store": store, "load_before": load}


def evaluate(
    folder: Path,
    milliseconds: float,
    workers: int,
    clock: CpuClock,
    memory: Memory,
    returned: float,
) -> dict[str, Any]:
    """Compute the results of a finished sweep from its ledger."""
    # A record's file is written at its trial's end.
    ends = sorted(path.stat().st_mtime for path in (folder / "ledger/trials").glob("*.json"))
    spans = [(100, 1000), (1000, 3000), (3000, 10_000), (10_000, 30_000), (30_000, 100_000)]
    per_trial = {
        f"{first} to {min(last, len(ends))}": 1000
        * (ends[min(last, len(ends)) - 1] - ends[first - 1])
        / (min(last, len(ends)) - first)
        for first, last in spans
        if len(ends) > first
    }
    last = ends[-1]
    steady = ends[len(ends) // 10 :]
    wall = steady[-1] - steady[0]
    return {
        "trials": len(ends),
        "workers": workers,
        "milliseconds_of_training": milliseconds,
        "milliseconds_per_trial": per_trial,
        "efficiency": milliseconds / 1000 * (len(steady) - 1) / (wall * workers),
        "closing_seconds": returned - last,
        "driver_mib": memory.thinned(),
        "cpu_seconds": clock.between(ends[0], last),
        "wall_seconds": last - ends[0],
    }  # fmt: skip


def time_ui(uri: str, scratch: Path) -> dict[str, float]:
    """Measure the requests of the MLflow UI in seconds, each the median of five."""
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--workers",
        "1",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--artifacts-destination", str(scratch)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as server:
        base = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow"
        try:
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                    break
                if server.poll() is not None:
                    raise SystemExit("the MLflow server didn't start")
            reply = _ask(f"{base}/experiments/get-by-name?experiment_name=scale", None)
            experiment = {"experiment_ids": [reply["experiment"]["experiment_id"]]}
            page = {**experiment, "max_results": 100}
            run = _ask(f"{base}/runs/search", {**page, "max_results": 1})["runs"][0]["info"][
                "run_id"
            ]
            questions = {
                "first page of runs": (f"{base}/runs/search", page),
                "sorted by test accuracy": (
                    f"{base}/runs/search", {**page, "order_by": ["metrics.test_accuracy DESC"]},
                ),
                "one cell's runs": (
                    f"{base}/runs/search",
                    {**page, "filter": "metrics.sender_layer = 1 and metrics.receiver_layer = 2"},
                ),
                "a run's loss curve": (
                    f"{base}/metrics/get-history?run_id={run}&metric_key=train/loss", None,
                ),
            }  # fmt: skip
            return {
                name: median(_timed(*question) for _ in range(5))
                for name, question in questions.items()
            }
        finally:
            server.terminate()


def _ask(url: str, body: dict[str, Any] | None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        content: dict[str, Any] = json.loads(answer.read())
        return content


def _timed(url: str, body: dict[str, Any] | None) -> float:
    start = time.perf_counter()
    _ask(url, body)
    return time.perf_counter() - start


def show(result: dict[str, Any]) -> str:
    """Format the tables of one sweep."""
    lines = [
        f"{result['trials']} trials, {result['workers']} workers, store: {result['store']}",
        "Milliseconds of wall time per trial, by range of trials:",
        table([(k, v) for k, v in result["milliseconds_per_trial"].items()]),
        table(
            [
                ("efficiency: sleep / (wall x workers)", f"{result['efficiency']:.3f}"),
                ("seconds from the last trial to the end", result["closing_seconds"]),
            ]
        ),
        "Driver's memory in MiB, by trials handed out:",
        table([(k, v) for k, v in result["driver_mib"].items()]),
        "CPU time, as a share of one core:",
        table(
            shares({k: v for k, v in result["cpu_seconds"].items() if v}, result["wall_seconds"])
        ),
    ]
    if "ui_seconds" in result:
        lines += [
            "The MLflow server's answers, seconds:",
            table(list(result["ui_seconds"].items())),
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument(
        "--milliseconds", type=float, default=5, help="duration of a training's sleep"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", choices=["sqlite", "postgresql", "none"], default="sqlite")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    if arguments.trials % (PER_STUDY * CELLS):
        parser.error(f"--trials: {arguments.trials} is not a multiple of {PER_STUDY * CELLS}")
    about = machine()
    result = measure(arguments.trials, arguments.milliseconds, arguments.workers, arguments.store)
    if arguments.json:
        print(json.dumps({"machine": about, **result}))
        return
    print(show(result))
    print(", ".join(f"{key} {value}" for key, value in about.items()))


if __name__ == "__main__":
    main()
