"""The reference matrices, and runs of them in new processes."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _common import ROOT, run_timed

Cell = tuple[int, int]
"""Sender layer and receiver layer."""
REFERENCE = ROOT / "benchmarks/reference"
MATRICES = (
    "digits/resnet",
    "digits/vgg",
    "digits/densenet",
    "digits/vit",
    "cifar10/w8",
    "cifar10/w16",
)
"""Folders in `experiments/reference/`."""


def run_sweep(
    matrix: str,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    data: str | None = None,
    workers: int | None = None,
    resume: bool = False,
) -> float:
    """Run the sweep of a reference matrix as `stitch-sweep sweep` does, in a new process.

    Args:
        matrix: one of `MATRICES`.
        settings: values of keys of the configuration.
        folder: the experiment folder.
        data: folder with CIFAR-10 as Parquet files; the configuration's data set if None.
        workers: number of trials at a time; one for each CPU core if None.
        resume: whether the folder may have a part of the sweep.

    Returns:
        Wall seconds of the process.

    Raises:
        SystemExit: the sweep failed; with its output.
    """
    settings = {"zoo": str(ROOT / "zoo"), **settings}
    if data is not None and matrix.startswith("cifar10"):
        settings |= {"data.name": "parquet", "data.path": str(Path(data).resolve())}
    main = "from stitch_sweep.cli.main import main; main()"
    config = ROOT / "experiments/reference" / matrix / "config.yml"
    command = [sys.executable, "-c", main, "sweep", str(config), "--folder", str(folder), "--json"]
    command += ["--resume"] if resume else []
    command += [] if workers is None else ["--workers", str(workers)]
    command += [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    return run_timed(command)


def read_reference(matrix: str, column: str = "test_accuracy") -> dict[Cell, float] | None:
    """Read a value of every cell's reference optimum; None if the matrix has none yet."""
    file = REFERENCE / f"{matrix}.csv"
    if not file.exists():
        return None
    with file.open() as lines:
        return {
            (int(line["sender_layer"]), int(line["receiver_layer"])): float(line[column])
            for line in csv.DictReader(lines)
        }
