"""The content of each table of `measured/`: a function per table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from stitch_sweep.analysis.comparison.losses import identity_columns
from stitch_sweep.analysis.results import PAIR
from stitch_sweep.config.pairs import IMAGE_LAYER
from stitch_sweep.core.splits import SPLITS
from stitch_sweep.data.augmentation import normalize_images
from stitch_sweep.data.batches import Batch
from stitch_sweep.data.loader import Loader
from stitch_sweep.measuring.chunks import represent
from stitch_sweep.measuring.importances import importances
from stitch_sweep.measuring.networks import network_table
from stitch_sweep.measuring.pictures import Picture, Pictures, choose, displayable
from stitch_sweep.measuring.probes import gather, probe
from stitch_sweep.measuring.representations import (
    cell_columns,
    compare_representations,
    group_by_cell,
)
from stitch_sweep.measuring.source import SweepSource
from stitch_sweep.measuring.stored_stitches import StoredStitch, StoredStitches, recorded_loss
from stitch_sweep.networks.pooling import pooled
from stitch_sweep.plan.cells import Cell

_Progress = Callable[[int, int], None]


@dataclass
class Content:
    """The content of a table, and its notes.

    Attributes:
        table: rows or pictures; None where there is nothing to compute.
        notes: the results that could not be computed, and the reasons.
        awaits: missing files.
        again: whether to compute the table again in any case.
    """

    table: pd.DataFrame | Pictures | None
    notes: list[str] = field(default_factory=list)
    awaits: list[str] = field(default_factory=list)
    again: bool = False


def make_networks(source: SweepSource, on_progress: _Progress) -> Content:
    """Make a table of the networks and their results on the test images."""
    on_progress(0, 1)
    empty = pd.DataFrame(columns=[*PAIR, "sender_accuracy", "receiver_accuracy"])
    results = source.results if source.records else empty
    table = network_table(source.available, source.bench, results)
    return _with_network_notes(source, table)


def make_labels(source: SweepSource, on_progress: _Progress) -> Content:
    """Make a table of the test images' labels."""
    on_progress(0, 1)
    return Content(pd.DataFrame({"label": source.data.test.labels.numpy()}))


def make_importances(source: SweepSource, on_progress: _Progress) -> Content:
    """Make a table of the searched settings' importances."""
    params = {trial: record["params"] for trial, record in source.records.items()}
    table = importances(source.results, params, source.config, on_progress)
    if source.config.search.distributions and not len(table):
        return Content(table, ["importances: no study has two ended trials that could be compared"])
    return Content(table)


def make_representations(source: SweepSource, on_progress: _Progress) -> Content:
    """Make a table of EV, ES, SV and out-of-distribution scores."""
    usable = source.usable
    stored = StoredStitches(source.ledger, source.records, source.bench)
    result = compare_representations(usable, source.bench, stored, on_progress)
    table = pd.DataFrame(result.rows)
    if len(table):
        names = identity_columns(usable)
        table = table.astype({name: usable[name].dtype for name in names})
        first = [*PAIR, *names]
        table = table[[*first, *(c for c in table if c not in first)]]
    content = _with_network_notes(source, table)
    _add_stitch_notes(content, source, stored)
    for count, reason in (
        (
            result.without_task,
            "a stitch trained for another loss, but no finished one for the task",
        ),
        (
            result.without_similarity,
            "a stitch trained for the task, but no finished one for another loss",
        ),
    ):
        if count:
            content.notes.append(
                f"representations: {count} cells, counted per repeat and factors, are left out: they "
                f"have {reason}"
            )
    return content


def make_probes(source: SweepSource, on_progress: _Progress) -> Content:
    """Make a table of linear probes at every sender layer, if the configuration lists them."""
    if "linear_probe" not in source.config.controls:
        return Content(None)
    bench, results = source.bench, source.results
    senders = results[results["sender"].isin(bench.networks)]
    columns = (senders["sender"].map(str), senders["sender_layer"].map(int))
    layers = sorted(set(zip(*columns, strict=True)))
    rows = []
    for done, (name, layer) in enumerate(layers):
        on_progress(done, len(layers))
        splits = {}
        for split in SPLITS:
            labels = getattr(source.data, split).labels
            chunks = represent(bench, "sender", name, layer, split)
            features = torch.cat([pooled(x).cpu()[:valid] for x, valid in chunks])
            splits[split] = gather([features], labels)
        figures = probe(
            splits["train"], splits["validation"], splits["test"], source.config.resources.cpu
        )
        rows.append({"network": name, "layer": layer, **figures})
    content = _with_network_notes(source, pd.DataFrame(rows))
    unconverged = sum(row["converged"] is False for row in rows)
    if unconverged:
        content.notes.append(
            f"probes: {unconverged} of {len(rows)} did not converge within the maximum number of "
            "iterations"
        )
    return content


@torch.no_grad()
def make_images(source: SweepSource, on_progress: _Progress) -> Content:
    """Make the pictures of every stored stitch into layer -1."""
    if not any(r["receiver_layer"] == IMAGE_LAYER for r in source.records.values()):
        return Content(None)
    bench, data = source.bench, source.data
    usable = source.usable[source.usable["receiver_layer"] == IMAGE_LAYER]
    labels = data.test.labels.tolist()
    numbers = choose(labels)
    indices = torch.tensor(numbers)
    loader = bench.loaders()["test"]
    pixels = data.test.images[indices].to(bench.device)
    batch = Batch(
        images=normalize_images(pixels, loader.mean, loader.std),
        labels=data.test.labels[indices].to(bench.device),
        indices=indices.to(bench.device),
        split="test",
        valid=len(indices),
    )
    stored = StoredStitches(source.ledger, source.records, bench)
    pictures = []
    cells = list(group_by_cell(usable, bench))
    factor_names = identity_columns(usable)
    for done, (cell, trials) in enumerate(cells):
        on_progress(done, len(cells))
        stitches = stored.load(cell, trials["trial"].tolist())
        for row in trials.to_dict("records"):
            if (stitch := stitches.get(row["trial"])) is not None:
                pictures.append(
                    _make_picture(source, cell, stitch, row, factor_names, batch, loader)
                )
    predicted = {
        name: network.evaluate(loader).predictions[indices].tolist()
        for name, network in bench.networks.items()
        if network.classifies
    }
    content = _with_network_notes(
        source,
        Pictures(
            numbers,
            [labels[k] for k in numbers],
            list(data.classes),
            predicted,
            pixels.cpu().numpy(),
            pictures,
        ),
    )
    _add_stitch_notes(content, source, stored)
    return content


def _make_picture(
    source: SweepSource,
    cell: Cell,
    stitch: StoredStitch,
    row: dict[Any, Any],
    factor_names: list[str],
    batch: Batch,
    loader: Loader,
) -> Picture:
    bench = source.bench
    output: Tensor = stitch(bench.senders[cell.sender].represent(cell.sender_layer, batch))
    images, figures = displayable(output, loader.mean, loader.std)
    identity = {
        "trial": row["trial"],
        **cell_columns(cell),
        "repeat": row["repeat"],
        "factors": {name: None if pd.isna(row[name]) else row[name] for name in factor_names},
        "loss": row["loss"],
        "kind": _picture_kind(source.records[row["trial"]]["settings"]["loss"]),
        "calibrated": stitch.calibration != "none",
    }
    predicted = bench.networks[cell.receiver].suffix(IMAGE_LAYER)(output).argmax(dim=1).tolist()
    return Picture({**identity, **figures, "predicted": predicted}, images)


def _picture_kind(loss: Any) -> str:
    """Return the kind of a picture: `shown` if the loss uses the receiver's outputs."""
    combined = recorded_loss(loss)
    return "shown" if combined.needs_logits or combined.needs_hints else "reconstruction"


MAKERS: dict[str, Callable[[SweepSource, _Progress], Content]] = {
    "networks": make_networks,
    "labels": make_labels,
    "importances": make_importances,
    "representations": make_representations,
    "probes": make_probes,
    "images": make_images,
}
"""The function of each table, in the order of computation."""


def _with_network_notes(source: SweepSource, table: pd.DataFrame | Pictures) -> Content:
    """Return a table's content with the notes about networks that are not loaded."""
    available = source.available
    notes = [*source.device_notes, *available.notes]
    return Content(table, notes, list(available.awaits), available.damaged)


def _add_stitch_notes(content: Content, source: SweepSource, stored: StoredStitches) -> None:
    """Add the notes about stitches that are missing or unusable."""
    content.notes += _stitch_notes(source, stored)
    content.awaits += stored.missing
    content.again = content.again or bool(stored.problems)


def _stitch_notes(source: SweepSource, stored: StoredStitches) -> Iterator[str]:
    if stored.missing and source.config.keep_stitches == "none":
        yield "the sweep stored no stitches (keep_stitches: none), so results that need them are missing"
    elif stored.missing:
        others = f", and {len(stored.missing) - 1} more" if len(stored.missing) > 1 else ""
        yield f"{stored.missing[0]} is missing{others}: results that need these stitches are left out"
    yield from stored.problems
