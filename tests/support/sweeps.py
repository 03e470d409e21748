"""A sweep small enough to run several times in a test, and what two of them must have in common."""

from __future__ import annotations

import copy
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

# What says when or where, and not what.
TIMES = {"seconds", "time"}


def write_config(folder: Path, zoo: Path, **changes: Any) -> Path:
    """The small sweep's configuration in `folder`; dotted paths are written with `__`."""
    tree = copy.deepcopy(SMALL)
    tree["zoo"] = str(zoo)
    tree["tracking"] = {"uri": f"sqlite:///{folder / 'mlflow.db'}"}
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for part in parents:
            node = node[part]
        node[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(tree))
    return path


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """`stitch-sweep` as a process and process group of its own, with more in its environment."""
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
    """A Ray cluster of one node, `ray start --head` with these options; gives its address."""
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
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                break
        else:
            raise RuntimeError("the cluster didn't start: " + "".join(said))
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate()


def run(*arguments: object, **environment: str) -> tuple[int, str]:
    """Exit status and output of a finished `stitch-sweep`."""
    process = start(*arguments, **environment)
    output, _ = process.communicate()
    return process.returncode, output


def ended(folder: Path) -> int:
    """How many trials the ledger has as ended."""
    records = (folder / "ledger" / "trials").glob("*.json")
    return sum('"status": "running"' not in path.read_text() for path in records)


def stop_when(
    process: subprocess.Popen[str], folder: Path, count: int, sign: signal.Signals
) -> None:
    """Send `sign` once `count` trials have ended; the process must not end by itself before."""
    while ended(folder) < count:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)  # between two looks at the ledger
    process.send_signal(sign)


def figures(folder: Path) -> dict[str, Any]:
    """Everything a sweep found out, times left out, in a form that `==` compares exactly."""
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
