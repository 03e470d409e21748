"""Shared parts of the benchmarks: the quickstart's configuration, CPU clocks, tables, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "experiments/quickstart/digits/config.yml"
PLAIN_TRAINING = {"epochs": 50, "batch_size": 32, "optimizer": {"name": "adam"}}
"""Section `training` for the benchmarks that need a training of a fixed length, without a recipe."""
TICKS = os.sysconf("SC_CLK_TCK")

# Parts of command lines, and the names of these processes in the tables; the first match counts.
_KINDS = (
    ("stitch_sweep.tracking.program", "tracking (MLflow)"),
    ("stitch_sweep.__main__", "driver"),
    ("stitch_sweep.sweep.worker_template", "worker template"),
    ("sweep/fork_worker.py", "worker template"),
    ("sweep/idle_agent.py", "Ray, agents and monitors"),
    ("ray::LedgerWriter", "ledger writer"),
    ("ray::IDLE", "Ray, idle workers"),
    ("Agent", "Ray, agents and monitors"),
    ("ray::", "trial processes"),
    ("raylet/raylet", "Ray, raylet"),
    ("gcs_server", "Ray, gcs_server"),
    ("ray/", "Ray, agents and monitors"),
)


def machine() -> dict[str, Any]:
    """Return hardware, versions, date and load, which every figure needs."""
    text = Path("/proc/cpuinfo").read_text()
    model = next((k.split(":")[1] for k in text.splitlines() if k.startswith("model name")), "?")
    packages = [name for name in ("torch", "ray", "optuna", "mlflow") if find_spec(name)]
    return {
        "cpu": model.strip(),
        "cores": len(os.sched_getaffinity(0)),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def run_timed(command: Sequence[str], folder: Path | None = None) -> float:
    """Run a program of this copy of the package, without an MLflow server; return its wall seconds.

    Args:
        command: the program and its arguments.
        folder: the current folder of the program, for MLflow's store, too. Without it, the store is that
            of the project.

    Raises:
        SystemExit: the program failed; with its output.
    """
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    if folder is not None:
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder.absolute() / 'mlflow.db'}"
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return wall


def table(rows: Sequence[tuple[str, Any]], indent: str = "  ") -> str:
    """Format rows with names on the left and right-aligned values."""
    shown = [(name, f"{v:.2f}" if isinstance(v, float) else str(v)) for name, v in rows]
    width = max(len(name) for name, _ in shown)
    right = max(len(value) for _, value in shown)
    return "\n".join(f"{indent}{name:<{width}}  {value:>{right}}" for name, value in shown)


@dataclass(frozen=True)
class _Process:
    parent: int
    born: int
    seconds: float


class CpuClock:
    """CPU time of this process and its descendants, by kind, as a function of time.

    Reads /proc, so it works on Linux only; on other systems all results are empty. It misses processes
    that live for less than `interval`.

    Args:
        interval: seconds between two readings.
    """

    def __init__(self, interval: float = 0.25) -> None:
        self._interval = interval
        self._kinds: dict[tuple[int, int], str] = {}
        self._readings: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CpuClock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def between(self, first: float, last: float) -> dict[str, float]:
        """Return CPU seconds by kind between two times (of `time.time`), the largest first."""
        spent: dict[str, float] = defaultdict(float)
        for process, readings in self._readings.items():
            used = _at(readings, last) - _at(readings, first)
            spent[self._kinds[process]] += max(0.0, used)
        return dict(sorted(spent.items(), key=lambda item: -item[1]))

    def _watch(self) -> None:
        driver = os.getpid()
        while not self._over.wait(self._interval):
            processes, now = _processes(), time.time()
            family = {driver}
            # Repeat until nothing is added, because a parent may have a larger process number than its
            # child.
            while True:
                more = {p for p, process in processes.items() if process.parent in family} - family
                if not more:
                    break
                family |= more
            for number in family & set(processes):
                process = (number, processes[number].born)
                kind = "driver" if number == driver else _kind(number)
                # Before its start, an actor's process is named IDLE, so the last name counts.
                if kind is not None and not (process in self._kinds and kind.startswith("Ray, i")):
                    self._kinds[process] = kind
                self._kinds.setdefault(process, "other")
                self._readings[process].append((now, processes[number].seconds))


def _at(readings: Sequence[tuple[float, float]], moment: float) -> float:
    """Return CPU seconds at a time, by linear interpolation; 0 before the first reading."""
    previous = (readings[0][0], 0.0)
    for reading in readings:
        if reading[0] >= moment:
            if reading[0] == previous[0]:
                return 0.0
            share = (moment - previous[0]) / (reading[0] - previous[0])
            return previous[1] + max(0.0, share) * (reading[1] - previous[1])
        previous = reading
    return previous[1]


def _processes() -> dict[int, _Process]:
    processes = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue  # the process ended during the reading
        # The name is in brackets, and may contain brackets itself.
        fields = text[text.rindex(")") + 2 :].split()
        seconds = (int(fields[11]) + int(fields[12])) / TICKS
        processes[int(path.parent.name)] = _Process(int(fields[1]), int(fields[19]), seconds)
    return processes


def _kind(number: int) -> str | None:
    try:
        command = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (OSError, ValueError):
        return None
    return next((kind for text, kind in _KINDS if text in command), None)


def shares(parts: Mapping[str, float], whole: float) -> list[tuple[str, str]]:
    """Return rows for `table`: seconds and their share of the total."""
    return [(name, f"{value:8.2f} s {100 * value / whole:5.1f} %") for name, value in parts.items()]
