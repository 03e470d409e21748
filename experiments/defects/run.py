"""Which published finding survives? R1111 to itself, with the known defects planted one at a time.

    python experiments/defects/run.py OUTPUT [--set data.download=true] [--only clean,all] [--loss mse]

The loop is written out in plain PyTorch, because the project's own refuses most of these mistakes. Data,
networks and training settings come from `config.yml` beside this file. Every stitch is a file of its own
under OUTPUT/cells, written when it is done: the same command goes on where an earlier one stopped, and
at the end writes `OUTPUT/results.csv`, and per loss and defect a matrix, its indices and its picture.

    clean           the paper's optimizer; networks in eval mode; float32; the whole test set
    last_batch      the clean stitches, read on the last test batch only (1,808 images, as in the logs)
    train_mode      both networks in train mode while stitches train: BatchNorm's statistics move
    half_precision  forward passes under autocast in bfloat16
    long_warmup     the learning rate rises over 10 epochs of a training that ends after 4
    plain_mse       MSE as an element-wise mean, which divides gradients by the number of channels
    all             all of these together
    other_seed      clean, but onto a network of another seed: no cell has an exact solution
    least_squares   no training: the best stitch in closed form (MSE only)
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.analysis.matrix.files import write_matrix
from stitch_sweep.analysis.matrix.judging import judge_bare
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.charts.figures import grid, save_figure
from stitch_sweep.config.reading import parse_value, read_config
from stitch_sweep.config.root import Config
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.cutting.traced import TracedNetwork
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.starts import start_stitch
from stitch_sweep.storage.files import write_atomically

CHANCE = 0.1
TEST_IMAGES = 10_000
LAST_BATCH = 1808
"""Images of the last test batch in the logged runs: 10,000 less two batches of 4,096."""
WARMUP_EPOCHS = 10
CHUNK = 500


@dataclass(frozen=True)
class Defects:
    """What is wrong with a run."""

    train_mode: bool = False
    half_precision: bool = False
    long_warmup: bool = False
    plain_mse: bool = False
    other_seed: bool = False
    least_squares: bool = False


RUNS = {
    "clean": Defects(),
    "train_mode": Defects(train_mode=True),
    "half_precision": Defects(half_precision=True),
    "long_warmup": Defects(long_warmup=True),
    "plain_mse": Defects(plain_mse=True),
    "all": Defects(train_mode=True, half_precision=True, long_warmup=True, plain_mse=True),
    "other_seed": Defects(other_seed=True),
    "least_squares": Defects(least_squares=True),
}
MSE_ONLY = ("plain_mse", "least_squares")
READ_ON_LAST_BATCH = {"clean": "last_batch", "all": "all"}
"""Runs that are read on the last test batch, and what the matrix that comes of it is called. Training
doesn't depend on what is read, so that needs no stitches of its own."""


class Bench:
    """Networks and images that all runs share."""

    def __init__(self, config: Config) -> None:
        prepared = prepare(config)
        self.config = config
        self.data: Data = prepared.data
        self.networks = provide_networks(prepared)
        for network in self.networks.values():
            network.eval().requires_grad_(False)
        loaders = make_loaders(self.data, CHUNK, seed=config.seed)
        self.loader = make_loaders(self.data, config.training.batch_size, seed=config.seed)["train"]
        self.train = _normalised(loaders["train"])
        self.test = _normalised(loaders["test"])
        self.train_labels = loaders["train"].images.labels
        self.test_labels = loaders["test"].images.labels

    def accuracies(self) -> dict[str, float]:
        """Test accuracy of each network."""
        found = {}
        with torch.no_grad():
            for name, network in self.networks.items():
                right = _through(network, self.test).argmax(dim=1) == self.test_labels
                found[name] = right.double().mean().item()
        return found

    def order(self, epoch: int) -> Iterator[Tensor]:
        """Indices of an epoch's batches: the project's own order."""
        return self.loader.indices(epoch, 0)


def _normalised(loader: object) -> Tensor:
    chunks = loader.in_order(CHUNK)  # type: ignore[attr-defined]
    return torch.cat([chunk.images[: chunk.valid] for chunk in chunks])


def run_cell(bench: Bench, loss: str, defects: Defects, i: int, j: int) -> dict[str, object]:
    """Train and evaluate one stitch; returns what is stored of it."""
    config = bench.config
    began = time.perf_counter()
    seed_everything(config.seed, config.resources.cpu)
    # Copies: in train mode their statistics move, and the next cell must not see that.
    sender = copy.deepcopy(bench.networks["r1111"])
    receiver = copy.deepcopy(bench.networks["r1111-other" if defects.other_seed else "r1111"])
    prefix = TracedNetwork(sender).sub_network(-1, i)
    traced = TracedNetwork(receiver)
    upto, suffix = traced.sub_network(-1, j), traced.sub_network(j, None)
    with torch.no_grad():
        x = _through(prefix, bench.train)
        e = _through(upto, bench.train) if loss == "mse" else None
    stitch = build_stitch(
        "paper",
        tuple(x.shape[1:]),
        tuple(upto(bench.train[:1]).shape[1:]),
        start="least_squares" if defects.least_squares else "random",
        seed=config.seed,
    )
    if defects.least_squares:
        assert e is not None
        start_stitch(stitch, "least_squares", zip(x.split(CHUNK), e.split(CHUNK), strict=True))
    else:
        _train(bench, loss, defects, stitch, (prefix, upto, suffix), (x, e))
    for part in (prefix, upto, suffix):
        part.eval()  # as their evaluation did; what moved stays moved
    with torch.no_grad():
        logits = torch.cat([suffix(stitch(prefix(c))) for c in bench.test.split(CHUNK)])
    right = (logits.argmax(dim=1) == bench.test_labels).double()
    return {
        "accuracy": right.mean().item(),
        "last_batch_accuracy": right[-LAST_BATCH:].mean().item(),
        "finite": bool(logits.isfinite().all()),
        "seconds": time.perf_counter() - began,
    }


def _through(part: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([part(chunk) for chunk in images.split(CHUNK)])


def _train(
    bench: Bench,
    loss: str,
    defects: Defects,
    stitch: nn.Module,
    parts: tuple[nn.Module, nn.Module, nn.Module],
    whole: tuple[Tensor, Tensor | None],
) -> None:
    settings = bench.config.training
    prefix, upto, suffix = parts
    all_x, all_e = whole
    variance = 1.0
    if all_e is not None and not defects.plain_mse:
        variance = all_e.double().transpose(0, 1).flatten(1).var(dim=1).mean().item()
    options = settings.optimizer.options
    rate = settings.optimizer.lr
    assert rate is not None
    optimizer = torch.optim.SGD(stitch.parameters(), lr=rate, **options)
    steps = math.ceil(len(bench.train) / settings.batch_size)
    total = settings.epochs * steps
    for part in parts:
        part.train(defects.train_mode)
    step = 0
    for epoch in range(settings.epochs):
        for at in bench.order(epoch):
            share = settings.schedule.factor(step, total)
            if defects.long_warmup:
                share = (step + 1) / (WARMUP_EPOCHS * steps)
            optimizer.param_groups[0]["lr"] = rate * share
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=defects.half_precision):
                with torch.no_grad():
                    x = prefix(bench.train[at]) if defects.train_mode else all_x[at]
                s = stitch(x)
                if loss == "task":
                    logits = suffix(s)
                    value = functional.cross_entropy(logits, bench.train_labels[at])
                else:
                    assert all_e is not None
                    with torch.no_grad():
                        e = upto(bench.train[at]) if defects.train_mode else all_e[at]
                    value = (s.float() - e.float()).square().mean()
                    if not defects.plain_mse:
                        value = value * (e.shape[1] / variance)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            step += 1


def main() -> None:
    """Run what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--only", default=",".join(RUNS), help="runs, divided by commas")
    parser.add_argument("--loss", choices=["task", "mse"], action="append")
    args = parser.parse_args()
    wanted = args.only.split(",")
    if unknown := [name for name in wanted if name not in RUNS]:
        parser.error(f"--only: {', '.join(unknown)} is unknown; there are {', '.join(RUNS)}")
    overrides = {key: parse_value(value) for key, _, value in (s.partition("=") for s in args.set)}
    bench = Bench(read_config(Path(__file__).with_name("config.yml"), overrides))
    layers = len(TracedNetwork(bench.networks["r1111"]).layers)
    cells = [
        (loss, run, i, j)
        for run in wanted
        for loss in args.loss or ["task", "mse"]
        if loss == "mse" or run not in MSE_ONLY
        for i in range(layers)
        for j in range(layers)
    ]
    for loss, run, i, j in track(cells, description="cells"):
        file = args.output / "cells" / f"{loss}-{run}-{i}-{j}.json"
        if not file.exists():
            about = {"loss": loss, "run": run, "sender_layer": i, "receiver_layer": j}
            found = run_cell(bench, loss, RUNS[run], i, j)
            write_atomically(file, json.dumps({**about, **found}).encode())
    _write(args.output, bench.accuracies())


def _write(output: Path, own: dict[str, float]) -> None:
    """A table of all cells, and a matrix per loss and run with its indices.

    Args:
        output: where the cells are.
        own: test accuracy of each network.
    """
    rows = [json.loads(file.read_text()) for file in sorted((output / "cells").glob("*.json"))]
    found = pd.DataFrame(rows)
    last = found[found["run"].isin(READ_ON_LAST_BATCH)]
    last = last.assign(
        accuracy=last["last_batch_accuracy"], run=last["run"].map(READ_ON_LAST_BATCH)
    )
    table = pd.concat([found[found["run"] != "all"], last]).drop(columns="last_batch_accuracy")
    table = table.sort_values(["loss", "run", "sender_layer", "receiver_layer"])
    text = table.to_csv(index=False, quoting=csv.QUOTE_MINIMAL)
    write_atomically(output / "results.csv", text.encode())
    matrices, indices = [], []
    order = [*RUNS, *READ_ON_LAST_BATCH.values()]
    for (loss, run), cells in sorted(
        table.groupby(["loss", "run"]),
        key=lambda item: (item[0][0] != "task", order.index(str(item[0][1]))),
    ):
        values = cells.pivot(index="sender_layer", columns="receiver_layer", values="accuracy")
        receiver = "r1111-other" if run == "other_seed" else "r1111"
        matrix = Matrix.bare(values, "r1111", receiver, factors={"loss": loss, "run": run})
        write_matrix(matrix, output / "matrices")
        matrices.append(matrix)
        verdict = judge_bare(
            values,
            sender="r1111",
            receiver=receiver,
            sender_accuracy=own["r1111"],
            receiver_accuracy=own[receiver],
            test_images=LAST_BATCH if run in READ_ON_LAST_BATCH.values() else TEST_IMAGES,
            chance=CHANCE,
        )
        means = verdict.parameters
        whole = {"loss": loss, "run": run, "label": verdict.label, "mean": values.to_numpy().mean()}
        regions = {"lower": means.lower, "band": means.band, "upper": means.upper}
        indices.append({**whole, **regions, "order": means.order})
    text = pd.DataFrame(indices).to_csv(index=False, float_format="%.4f")
    write_atomically(output / "indices.csv", text.encode())
    for loss, columns in (("task", 4), ("mse", 5)):
        shown = [m for m in matrices if m.factors["loss"] == loss]
        panels = [replace(m, factors={"run": m.factors["run"]}) for m in shown]
        if panels:
            save_figure(grid(panels, columns=columns), output, f"defects_{loss}")


if __name__ == "__main__":
    main()
