"""Sweeps with packs, early stopping and shared knowledge, whose processes are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stitch_sweep.storage.ledger import Ledger
from tests.support.sweeps import figures, run, start, write_config

TRIALS = 3 * 8


def write(folder: Path) -> Path:
    """Write a configuration with every lever on; some of its trials diverge."""
    return write_config(
        folder,
        folder / "zoo",
        networks=[
            {"name": name, "family": "resnet1111", "width": 4, "seed": seed, "weights": "random"}
            for seed, name in enumerate("ab")
        ],
        pairs=[
            {"sender": "a", "receiver": "b", "sender_layers": [0, 1], "receiver_layers": [1]},
            {"sender": "a", "receiver": "b", "sender_layers": [4], "receiver_layers": [4]},
        ],
        loss={"mse": 1.0},
        training={"epochs": 6, "batch_size": 32, "optimizer": {"name": "sgd"}},
        search={
            "cross": {},
            "space": {
                "training.optimizer.lr": {"type": "float", "low": 1e-4, "high": 10.0, "log": True}
            },
            "samples": 8,
            "parallel_per_study": 4,
            "sampler": {"name": "tpe", "n_startup_trials": 4},
            "scheduler": {"name": "asha", "reduction_factor": 2},
            "share": "neighbors",
        },
        resources={"pack": 4},
        tracking={"enabled": False},
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep with one worker, without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    status, output = run("sweep", write(folder), "--workers", 1)
    assert status in (0, 1), output
    assert "Traceback" not in output
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    return list(Ledger(folder).records())


def wait_until(process: Any, condition: Any) -> None:
    """Wait for a condition on the ledger; fail if the sweep ends before."""
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)  # between two looks at the ledger


def test_every_kind_of_end_occurs(undisturbed):
    statuses = Counter(record["status"] for record in records(undisturbed))
    assert sum(statuses.values()) == TRIALS
    assert min(statuses[name] for name in ("finished", "failed", "stopped")) >= 1, statuses
    assert any("start" in record for record in records(undisturbed))


DYING_WORKER = """
import os, signal, sys
from pathlib import Path
import stitch_sweep.sweep.trainable as workers
import stitch_sweep.sweep.tuning as tuning
from stitch_sweep.cli.main import main

died = Path(sys.argv.pop(1))

class Dying(workers.StitchTrainable):
    def _run_epoch(self):
        super()._run_epoch()
        if len(self._open) >= 2 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

tuning.StitchTrainable = Dying
main()
"""


def test_a_killed_worker_costs_its_whole_pack_nothing_but_time(undisturbed, tmp_path):
    """It is killed after the first epoch of two or more trials in one pass."""
    config, died = write(tmp_path / "sweep"), tmp_path / "died"
    command = [sys.executable, "-c", DYING_WORKER, died, "sweep", config, "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert died.exists()
    assert "tried again: its worker died" in done.stderr
    assert "too many attempts" not in done.stderr
    assert figures(config.parent) == figures(undisturbed)


def test_a_driver_that_is_killed_within_a_rung_resumes_with_other_workers(undisturbed, tmp_path):
    """Some trials of a round wait, others don't; one of those that wait loses its checkpoint."""
    config = write(tmp_path)
    process = start("sweep", config, "--workers", 2)

    def waiting() -> list[str]:
        return [r["trial"] for r in records(tmp_path) if "paused_at" in r]

    wait_until(process, lambda: len(waiting()) >= 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert any(record["status"] == "running" for record in records(tmp_path))
    for trial in waiting()[:1]:
        for path in (tmp_path / "ledger" / "checkpoints").glob(f"{trial}*"):
            path.unlink()
    status, output = run("sweep", config, "--resume", "--workers", 2)
    assert status in (0, 1), output
    assert figures(tmp_path) == figures(undisturbed)
