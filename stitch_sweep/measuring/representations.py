"""How far expected, task-stitched and similarity-stitched representation of a cell are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
from torch import Tensor, nn

from stitch_sweep.analysis.comparison.losses import identity_columns, is_task
from stitch_sweep.analysis.results import CELL, PAIR
from stitch_sweep.config.models import LossConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.losses.base import CombinedLoss, LossContext
from stitch_sweep.losses.calibration import Calibration
from stitch_sweep.losses.rows import positions
from stitch_sweep.measuring.networks import CHUNKED
from stitch_sweep.networks.evaluation import CHUNK
from stitch_sweep.networks.frozen import Examples
from stitch_sweep.stitches.storage import describe_stitch, load_stitch
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.training.workbench import Workbench

_VALUES = 2**21
"""So many values of a chunk are worked on in float64 at a time."""


class Cell(NamedTuple):
    """Which layer of which network goes into which."""

    sender: str
    receiver: str
    sender_layer: int
    receiver_layer: int

    def __str__(self) -> str:
        return f"{self.sender}:{self.sender_layer} -> {self.receiver}:{self.receiver_layer}"


@dataclass(frozen=True)
class Stored:
    """A stored stitch on the device, and the map that restores what its loss is blind to."""

    module: nn.Module
    calibration: str
    restore: nn.Module = field(default_factory=nn.Identity)

    def __call__(self, representation: Tensor) -> Tensor:
        """What the receiver is to see, calibrated: [B, *receiver shape]."""
        restored: Tensor = self.restore(self.module(representation))
        return restored


class Shelf:
    """The stored stitches of an experiment folder, and what is wrong with those that can't be used.

    Args:
        ledger: of the folder.
        records: its ended trials, by id.
        bench: the networks.

    Attributes:
        missing: paths of stitches that aren't there.
        problems: of each file that is there and can't be used, why.
    """

    def __init__(
        self, ledger: Ledger, records: Mapping[str, Mapping[str, Any]], bench: Workbench
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._bench = bench
        self.missing: list[str] = []
        self.problems: list[str] = []

    @torch.no_grad()
    def load(self, cell: Cell, trials: list[str]) -> dict[str, Stored]:
        """The stitches of some trials of one cell, those that are there; calibrations fitted."""
        modules = {t: m for t in trials if (m := self._module(cell, t)) is not None}
        groups = {trial: self._group(trial) for trial in modules}
        fits = {t: Calibration(g) for t, g in groups.items() if g != "none"}  # type: ignore[arg-type]
        if fits:
            for rows, expected, valid in pairs(self._bench, cell, "train"):
                for trial, fit in fits.items():
                    fit.add(modules[trial](rows)[:valid], expected[:valid])
        found = {}
        for trial, module in modules.items():
            restore: nn.Module = nn.Identity()
            if trial in fits:
                try:
                    restore = fits[trial].fit().to(self._bench.device)
                except ValueError as error:
                    self.problems.append(
                        f"the stitch of trial {trial} can't be calibrated: {error}"
                    )
                    continue
            found[trial] = Stored(module, groups[trial], restore)
        return found

    def _group(self, trial: str) -> str:
        loss = LossConfig.model_validate(self._records[trial]["settings"]["loss"])
        terms = [(term.name, term.weight, term.options) for term in loss.terms]
        return CombinedLoss(terms, LossContext()).calibration

    def _module(self, cell: Cell, trial: str) -> nn.Module | None:
        trained = self._ledger.trained_trial(trial)
        path = self._ledger.stitch_path(trained)
        if not path.is_file():
            self.missing.append(str(path))
            return None
        try:
            about = describe_stitch(path)
            module = load_stitch(path).to(self._bench.device)
        except InputError as error:
            self.problems.append(str(error))
            return None
        of = about["about"].get("trial")
        image = self._image_shape
        shapes = [
            list(self._bench.senders[cell.sender].shape(cell.sender_layer, image)),
            list(self._bench.networks[cell.receiver].shape(cell.receiver_layer, image)),
        ]
        if of != trained:
            self.problems.append(f"{path}: holds the stitch of trial {of}")
        elif [about["sender"], about["receiver"]] != shapes:
            self.problems.append(
                f"{path}: joins {about['sender']} to {about['receiver']}, the layers of {cell} are "
                f"{shapes[0]} and {shapes[1]}"
            )
        else:
            return module
        return None

    @property
    def _image_shape(self) -> tuple[int, ...]:
        return tuple(self._bench.loaders(CHUNKED)["test"].images.images.shape[1:])


@torch.no_grad()
def represent(bench: Workbench, role: str, name: str, layer: int, split: str) -> Iterator[Tensor]:
    """A layer's representation of a whole split in stored order, in padded chunks.

    Args:
        bench: the networks.
        role: under which the workbench's cache keeps it, if it is small enough.
        name: of the network, or of what stands in its place.
        layer: -1 for the image.
        split: train, validation or test.

    Yields:
        [CHUNK, *shape]; the last chunk is filled up with images from the beginning.
    """
    of, loader = bench.senders[name], bench.loaders(CHUNKED)[split]
    count = len(loader.images)
    whole = bench.cache.get(f"{role} {split}", of, layer, loader)
    if whole is not None:
        for first in range(0, count, CHUNK):
            yield whole[torch.arange(first, first + CHUNK, device=whole.device) % count]
        return
    for k, (images, labels, _) in enumerate(loader.in_order(CHUNK)):
        numbers = torch.arange(k * CHUNK, (k + 1) * CHUNK, device=images.device) % count
        yield of.represent(layer, Examples(split, numbers, images, labels))


def pairs(bench: Workbench, cell: Cell, split: str) -> Iterator[tuple[Tensor, Tensor, int]]:
    """What a stitch of the cell gets and what the receiver expects, chunk by chunk.

    Yields:
        [CHUNK, *sender shape], [CHUNK, *receiver shape], and how many leading rows are real.
    """
    count = len(bench.loaders(CHUNKED)[split].images)
    sent = represent(bench, "sender", cell.sender, cell.sender_layer, split)
    expected = represent(bench, "expected", cell.receiver, cell.receiver_layer, split)
    for k, (rows, wanted) in enumerate(zip(sent, expected, strict=True)):
        yield rows, wanted, min(CHUNK, count - k * CHUNK)


class Differences:
    """Mean squared element-wise differences of named representations, accumulated in float64.

    Args:
        wanted: which two are compared, by what the difference is called.
        scale: the name of the one whose variance is measured: the mean over its channels of the
            variance over images and places.
    """

    def __init__(self, wanted: Mapping[str, tuple[str, str]], scale: str) -> None:
        self._wanted = wanted
        self._scale = scale
        self._sums: dict[str, Tensor] = {}
        self._values = 0
        self._count = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    def add(self, representations: Mapping[str, Tensor]) -> None:
        """Add images: every representation is [B, *shape], real rows only."""
        first = representations[self._scale]
        step = max(1, _VALUES // math.prod(first.shape[1:]))
        for start in range(0, len(first), step):
            part = {k: x[start : start + step].double() for k, x in representations.items()}
            for name, (one, other) in self._wanted.items():
                total = (part[one] - part[other]).square().sum()
                self._sums[name] = self._sums.get(name, 0) + total
            self._values += part[self._scale].numel()
            self._add_variance(positions(part[self._scale]))

    def _add_variance(self, rows: Tensor) -> None:
        mean = rows.mean(dim=0)
        squares = (rows - mean).square().sum(dim=0)
        if self._mean is None or self._squares is None:
            self._count, self._mean, self._squares = len(rows), mean, squares
            return
        # Chan, Golub and LeVeque (1983): nothing cancels.
        count = self._count + len(rows)
        by = mean - self._mean
        self._squares = self._squares + squares + by.square() * (self._count * len(rows) / count)
        self._mean = self._mean + by * (len(rows) / count)
        self._count = count

    def result(self) -> dict[str, float]:
        """Every difference, each also as `<name>_relative`, and `variance`; NaN where undefined."""
        assert self._squares is not None
        variance = (self._squares / self._count).mean().item()
        found = {name: total.item() / self._values for name, total in self._sums.items()}
        found |= {
            f"{name}_relative": value / variance if variance > 0 else math.nan
            for name, value in found.items()
        }
        found["variance"] = variance
        return {k: v if math.isfinite(v) else math.nan for k, v in found.items()}


def by_cell(best: pd.DataFrame, bench: Workbench) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """The best trials cell by cell, sender layer by sender layer, so that the cache serves a row."""
    order = {name: k for k, name in enumerate(bench.senders)}
    groups: dict[Cell, pd.DataFrame] = {}
    for key, cells in best.groupby([*PAIR, *CELL]):
        sender, receiver, i, j = cast(tuple[str, str, int, int], key)
        groups[Cell(sender, receiver, int(i), int(j))] = cells
    for cell in sorted(groups, key=lambda c: (order[c.sender], c.sender_layer, c)):
        yield cell, groups[cell]


@dataclass
class Comparisons:
    """The rows of `representations.parquet`, and what was left out.

    Attributes:
        rows: one per cell, repeat, factors and loss other than the task's.
        compared: so many cells (with repeat and factors) have a row.
        without_task: so many have a similarity-trained stitch, but no task-trained one.
        without_similarity: so many have a task-trained one only.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    compared: int = 0
    without_task: int = 0
    without_similarity: int = 0


@torch.no_grad()
def compare(
    best: pd.DataFrame,
    bench: Workbench,
    shelf: Shelf,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparisons:
    """EV, ES and SV of every cell (Hernandez et al. 2023, arXiv 2303.11277).

    With e the representation that the receiver expects, v the one that the task-trained stitch gives
    it ("vanilla") and s that of a stitch trained for another loss ("similarity"):

        EV = mean (e - v)^2,   ES = mean (e - s)^2,   SV = mean (s - v)^2

    over all values of all validation images. `_relative` is each divided by the expected
    representation's variance (its mean over channels), so that 1 is no nearer than a constant. Where
    the similarity loss is blind to scale, shift or rotation, s is taken behind the map that restores
    them, fitted on the training images; `es_raw` and `sv_raw` are without it.

    Args:
        best: the finished best trial of every study, whose networks are all on the bench.
        bench: the networks.
        shelf: the stitches.
        on_progress: told (cells done, cells in all).

    Returns:
        Rows of sender, receiver, sender_layer, receiver_layer, repeat, factors without the loss,
        `similarity_loss`, `ev`, `es`, `sv`, `ev_relative`, `es_relative`, `sv_relative`, `es_raw`,
        `sv_raw`, `variance`, `calibration` (the group of maps, or none), `task_trial` and
        `similarity_trial`.
    """
    found = Comparisons()
    identity = ["repeat", *identity_columns(best)]
    cells = list(by_cell(best, bench))
    for done, (cell, trials) in enumerate(cells):
        on_progress(done, len(cells))
        wanted = [(k, *_divide(g)) for k, g in trials.groupby(identity, dropna=False)]
        complete = [t for _, task, others in wanted if task and others for t in (task, *others)]
        stitches = shelf.load(cell, complete)
        usable: list[tuple[Any, str, dict[str, str]]] = []
        for key, task, others in wanted:
            there = {t: loss for t, loss in others.items() if t in stitches}
            if task in stitches and there:
                assert task is not None
                usable.append((key, task, there))
            elif task is None:
                found.without_task += 1
            elif not others:
                found.without_similarity += 1
        if usable:
            found.compared += len(usable)
            measured = _measure(bench, cell, stitches, usable)
            for key, task, others in usable:
                for trial, loss in others.items():
                    found.rows.append(
                        {
                            **cell._asdict(),
                            **dict(zip(identity, key, strict=True)),
                            "similarity_loss": loss,
                            **_pick(measured, task, trial),
                            "calibration": stitches[trial].calibration,
                            "task_trial": task,
                            "similarity_trial": trial,
                        }
                    )
    return found


def _divide(trials: pd.DataFrame) -> tuple[str | None, dict[str, str]]:
    """The task-trained trial of a cell, and the others with their losses."""
    losses = dict(zip(trials["trial"], trials["loss"], strict=True))
    tasks = sorted((loss != "task", loss, t) for t, loss in losses.items() if is_task(loss))
    return (tasks[0][2] if tasks else None), {t: k for t, k in losses.items() if not is_task(k)}


def _measure(
    bench: Workbench,
    cell: Cell,
    stitches: Mapping[str, Stored],
    usable: list[tuple[Any, str, dict[str, str]]],
) -> dict[str, float]:
    """Every difference that a cell's rows are made of, in one pass over the validation images."""
    wanted: dict[str, tuple[str, str]] = {}
    for _, task, others in usable:
        wanted[f"ev {task}"] = ("expected", task)
        for trial in others:
            for end in ("", " raw"):
                wanted[f"es {trial}{end}"] = ("expected", f"{trial}{end}")
                wanted[f"sv {trial}{end}"] = (f"{trial}{end}", task)
    named = {name for pair in wanted.values() for name in pair} - {"expected"}
    differences = Differences(wanted, "expected")
    for rows, expected, valid in pairs(bench, cell, "validation"):
        made = {"expected": expected[:valid]}
        for name in named:
            stored = stitches[name.removesuffix(" raw")]
            give = stored.module if name.endswith(" raw") else stored
            made[name] = give(rows)[:valid]
        differences.add(made)
    return differences.result()


def _pick(measured: Mapping[str, float], task: str, trial: str) -> dict[str, float]:
    names = {"ev": f"ev {task}", "es": f"es {trial}", "sv": f"sv {trial}"}
    return {
        **{short: measured[name] for short, name in names.items()},
        **{f"{short}_relative": measured[f"{name}_relative"] for short, name in names.items()},
        "es_raw": measured[f"es {trial} raw"],
        "sv_raw": measured[f"sv {trial} raw"],
        "variance": measured["variance"],
    }
