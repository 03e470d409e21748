"""The time of a matrix by least squares, compared with MSE training to the same error.

    python benchmarks/closed_form.py [--stitch paper] [--within 0.05] [--epochs 50] [--repeats 1] [--json]

Every cell of the quickstart's digits matrix, in one process and one thread, twice: with the closed form
and no epochs, and trained with MSE until its error on the training set is at most a share `within` above
the optimum (as for `converged`, an optimum below 1 % of the variance counts as 1 %). Both evaluate the
final stitch in the same way, with frozen representations from a cache that is filled before the clock
starts. The error is measured after every epoch with the clock stopped. If a cell doesn't reach the goal
in `epochs`, its time is included and the cell is reported: the ratio is then a lower bound.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from _common import PLAIN_TRAINING, QUICKSTART, ROOT, machine, table

from stitch_sweep.config.optimizer import OptimizerConfig
from stitch_sweep.config.reading import read_config
from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.data.batches import CHUNK
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.evaluation import Scores
from stitch_sweep.networks.optimization import Optimization
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.least_squares import LeastSquares
from stitch_sweep.stitches.starts import start_stitch
from stitch_sweep.training.workbench import Workbench

FLOOR = 0.01
LEARNING_RATE = 0.1  # the loss's default for Adam


@dataclass
class Cell:
    """One cell: its frozen representations, and the receiver after the stitch."""

    name: str
    sender: torch.Tensor
    expected: torch.Tensor
    test: torch.Tensor
    labels: torch.Tensor
    suffix: torch.nn.Module
    variance: float

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of sender and receiver, without the batch."""
        return tuple(self.sender.shape[1:]), tuple(self.expected.shape[1:])

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Iterate over the training set once, in order."""
        yield from zip(self.sender.split(CHUNK), self.expected.split(CHUNK), strict=True)


def cells() -> tuple[list[Cell], dict[str, Loader]]:
    """Return all cells of the quickstart's matrix, and its loaders."""
    config = read_config(QUICKSTART, {"zoo": str(ROOT / "zoo"), "training": PLAIN_TRAINING})
    prepared = prepare(config)
    bench = Workbench(config, prepared.data, provide_networks(prepared))
    loaders = bench.loaders(config.training.batch_size)
    cell_list, pair = [], config.pairs[0]
    sender, receiver = bench.networks[pair.sender], bench.networks[pair.receiver]
    representations = {
        (network, layer, split): represent(network.prefix(layer), loaders[split])
        for network in dict.fromkeys((sender, receiver))
        for layer in range(len(network.layer_names))
        for split in ("train", "test")
    }
    for i in range(len(sender.layer_names)):
        for j in range(len(receiver.layer_names)):
            expected = representations[receiver, j, "train"]
            cell = Cell(
                name=f"{i} -> {j}",
                sender=representations[sender, i, "train"],
                expected=expected,
                test=representations[sender, i, "test"],
                labels=loaders["test"].images.labels,
                suffix=receiver.suffix(j),
                variance=expected.double().transpose(0, 1).flatten(1).var(dim=1).mean().item(),
            )
            cell_list.append(cell)
    return cell_list, loaders


@torch.no_grad()
def represent(prefix: torch.nn.Module, loader: Loader) -> torch.Tensor:
    """Return a layer's representation of a whole split."""
    return torch.cat([prefix(c.images)[: c.valid] for c in loader.in_order()])


@torch.no_grad()
def accuracy(cell: Cell, stitch: torch.nn.Module) -> float:
    """Return the accuracy on the test set."""
    scores = Scores()
    for x, labels in zip(cell.test.split(CHUNK), cell.labels.split(CHUNK), strict=True):
        scores.add(cell.suffix(stitch.eval()(x)), labels, len(x))
    return scores.result().accuracy


@torch.no_grad()
def error(cell: Cell, stitch: torch.nn.Module) -> float:
    """Return the relative squared error on the training set."""
    total = sum((stitch(x) - y).double().square().sum().item() for x, y in cell.batches())
    return total / cell.expected.numel() / cell.variance


def closed(cell: Cell, name: str) -> dict[str, Any]:
    """Return seconds to the stitch (`fit`) and to its accuracy, error and accuracy, in closed form."""
    start = time.perf_counter()
    stitch = build_stitch(name, *cell.shapes, start="least_squares")
    start_stitch(stitch, "least_squares", cell.batches())
    fit = time.perf_counter() - start
    right = accuracy(cell, stitch)
    seconds = time.perf_counter() - start
    return {"fit": fit, "seconds": seconds, "accuracy": right, "error": error(cell, stitch)}


def trained(cell: Cell, name: str, loader: Loader, epochs: int, goal: float) -> dict[str, Any]:
    """Return the same values for training with Adam and MSE until the error is at most `goal`."""
    start = time.perf_counter()
    stitch = build_stitch(name, *cell.shapes)
    steps = epochs * len(loader)
    adam = OptimizerConfig(name="adam")
    optimization = Optimization(
        list(stitch.parameters()), adam, ScheduleConfig(), steps, LEARNING_RATE
    )
    seconds, epoch, reached = time.perf_counter() - start, 0, float("inf")
    while epoch < epochs and reached > goal:
        start = time.perf_counter()
        for indices in loader.indices(epoch, 0):
            squares = (stitch(cell.sender[indices]) - cell.expected[indices]).square()
            optimization.step(squares.transpose(0, 1).flatten(1).mean(dim=1).sum() / cell.variance)
        seconds += time.perf_counter() - start
        reached, epoch = error(cell, stitch), epoch + 1
    start, fit = time.perf_counter(), seconds
    right = accuracy(cell, stitch)
    seconds += time.perf_counter() - start
    return {
        "fit": fit,
        "seconds": seconds,
        "accuracy": right,
        "error": reached,
        "epochs": epoch,
        "there": reached <= goal,
    }


def run(name: str, within: float, epochs: int) -> dict[str, Any]:
    """Compute one matrix in both ways."""
    torch.set_num_threads(1)
    all_cells, loaders = cells()
    rows = []
    closed(all_cells[0], name)  # the first call of each kernel is slow
    for cell in all_cells:
        exact = closed(cell, name)
        fit = LeastSquares(build_stitch(name, *cell.shapes))
        for x, y in cell.batches():
            fit.add(x, y)
        optimum = fit.optimum() / cell.variance
        goal = optimum + within * max(optimum, FLOOR)
        rows.append(
            {
                "cell": cell.name,
                "optimum": optimum,
                "closed": exact,
                "trained": trained(cell, name, loaders["train"], epochs, goal),
            }
        )
    ways = ("closed", "trained")
    seconds = {way: sum(row[way]["seconds"] for row in rows) for way in ways}
    fits = {way: sum(row[way]["fit"] for row in rows) for way in ways}
    return {
        "cells": rows,
        "seconds": seconds,
        "ratio": seconds["trained"] / seconds["closed"],
        "ratio_of_fits": fits["trained"] / fits["closed"],
        "not_there": sum(not row["trained"]["there"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stitch", default="paper")
    parser.add_argument("--within", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    about = machine()
    runs = [run(args.stitch, args.within, args.epochs) for _ in range(args.repeats)]
    if args.json:
        print(json.dumps({"machine": about, "runs": runs}))
        return
    print("machine\n" + table(list(about.items())))
    last = runs[-1]["cells"]
    print(f"\ncells of {args.stitch}, the last run (optimum; seconds closed, trained; epochs)")
    for row in last:
        note = "" if row["trained"]["there"] else "  goal not reached"
        print(
            f"  {row['cell']}  {row['optimum']:.4f}  {row['closed']['seconds']:7.3f}"
            f"  {row['trained']['seconds']:7.3f}  {row['trained']['epochs']:3d}{note}"
        )
    ratios = [r["ratio"] for r in runs]
    print(
        "\nthe whole matrix\n"
        + table(
            [
                ("closed form, s", median(r["seconds"]["closed"] for r in runs)),
                ("trained, s", median(r["seconds"]["trained"] for r in runs)),
                ("ratio, median", median(ratios)),
                ("ratios", ", ".join(f"{ratio:.1f}" for ratio in ratios)),
                ("without evaluation", median(r["ratio_of_fits"] for r in runs)),
                ("cells whose training missed the goal", max(r["not_there"] for r in runs)),
            ]
        )
    )


if __name__ == "__main__":
    main()
