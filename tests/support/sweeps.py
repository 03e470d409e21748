"""A sweep small enough to run several times in a test, and the results that two sweeps share."""

from __future__ import annotations

import copy
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch
import yaml
from safetensors.torch import load_file

SMALL: dict[str, Any] = {
    "seed": 3,
    "data": {"name": "digits", "image_size": 16, "train_images": 600, "test_images": 100},
    "networks": [
        {"name": "a", "family": "resnet1111", "width": 4, "seed": 0},
        {"name": "b", "family": "resnet1111", "width": 4, "seed": 1},
        {"name": "r", "family": "resnet1111", "width": 4, "seed": 2, "weights": "random"},
    ],
    "pretraining": {"epochs": 2, "batch_size": 32},
    "pairs": [
        {"sender": "a", "receiver": "b", "sender_layers": [0, 3], "receiver_layers": [1, 3]},
        {"sender": "r", "receiver": "b", "sender_layers": [2], "receiver_layers": [4]},
    ],
    "training": {"epochs": 10, "batch_size": 32},
    "search": {
        "cross": {"loss": [{"task": 1.0}, {"mse": 1.0}]},
        "space": {
            "training.optimizer.lr": {"type": "float", "low": 0.003, "high": 0.1, "log": True}
        },
        "samples": 2,
        "sampler": {"name": "tpe", "n_startup_trials": 1},
    },
    "keep_stitches": "all",
}
TRIALS = 5 * 2 * 2

LEVERS_ON = bool(os.environ.get("STITCH_SWEEP_TEST_LEVERS"))
"""Whether every written configuration trains in packs, by the fast recipe: `make test-levers`."""
LEVERS: dict[str, dict[str, Any]] = {
    "training": {"recipe": "fast", "precision": "bfloat16"},
    "resources": {"pack": 3},
}
"""Settings that make a sweep fast."""

# Columns that depend on the time of a run.
TIMES = {"seconds", "time"}


def write_config(folder: Path, zoo: Path, **changes: Any) -> Path:
    """Write the small sweep's configuration to a folder.

    Args:
        folder: for `config.yml` and MLflow's database.
        zoo: folder of trained networks.
        **changes: values by path; `__` stands for a dot.
    """
    tree = copy.deepcopy(SMALL)
    tree["zoo"] = str(zoo)
    tree["tracking"] = {"uri": f"sqlite:///{folder / 'mlflow.db'}"}
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for part in parents:
            node = node[part]
        node[last] = value
    if LEVERS_ON:
        tree |= {section: {**keys, **tree.get(section, {})} for section, keys in LEVERS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(tree))
    return path


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start `stitch-sweep` as a process and process group of its own, with additional variables."""
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from stitch_sweep.cli.main import main; main()",
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )


@contextmanager
def head(*options: str) -> Iterator[str]:
    """Run a Ray cluster of one node, `ray start --head` with these options; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", "--include-dashboard=false", *options]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ray runtime started" in line:
                break
        else:
            raise RuntimeError("the cluster didn't start: " + "".join(lines))
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate()


def run(*arguments: object, **environment: str) -> tuple[int, str]:
    """Run `stitch-sweep` as a process; return its exit status and output."""
    process = start(*arguments, **environment)
    output, _ = process.communicate()
    return process.returncode, output


def invoke(*arguments: object) -> tuple[int, str]:
    """Run `stitch-sweep` in this process; return its exit status and output.

    Quicker than `run`, for refusals and for sweeps without a missing trial.
    """
    from stitch_sweep.cli.main import main

    output = io.StringIO()
    command = ["stitch-sweep", *map(str, arguments)]
    with mock.patch("sys.argv", command), redirect_stdout(output), redirect_stderr(output):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), output.getvalue()
    return 0, output.getvalue()


def ended(folder: Path) -> int:
    """Count the ended trials of a ledger."""
    records = (folder / "ledger" / "trials").glob("*.json")
    return sum('"status": "running"' not in path.read_text() for path in records)


def stop_when(
    process: subprocess.Popen[str], folder: Path, count: int, sign: signal.Signals
) -> None:
    """Send a signal once `count` trials have ended; fail if the process ends by itself before."""
    while ended(folder) < count:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)  # between two looks at the ledger
    process.send_signal(sign)


def figures(folder: Path) -> dict[str, Any]:
    """Return all results of a sweep without times, in a form that `==` compares exactly."""
    results = pd.read_parquet(folder / "results.parquet")
    trajectories = pd.read_parquet(folder / "traj.parquet")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    stitches = {
        path.name: {
            name: (
                str(tensor.dtype),
                tuple(tensor.shape),
                tensor.view(torch.uint8).numpy().tobytes(),
            )
            for name, tensor in load_file(path).items()
        }
        for path in sorted((folder / "stitches").glob("*.safetensors"))
    }
    return {
        "results": _rows(results),
        "trajectories": _rows(trajectories),
        "predictions": {row.trial: row.predictions.tolist() for row in predictions.itertuples()},
        "stitches": stitches,
        "matrices": {p.name: p.read_text() for p in sorted((folder / "matrices").glob("*.csv"))},
    }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    kept = table.drop(columns=[c for c in table.columns if c in TIMES])
    return [
        {key: None if pd.isna(value) else value for key, value in row.items()}
        for row in kept.to_dict("records")
    ]
