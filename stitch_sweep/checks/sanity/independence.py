"""Checks that a training depends on nothing but its networks, images and settings."""

from __future__ import annotations

import copy

from stitch_sweep.checks.differences import first_difference
from stitch_sweep.checks.sanity.findings import Finding, judge
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.config.loss import LossConfig
from stitch_sweep.plan.cells import Cell


def self_against_copy(subject: Subject) -> Finding:
    """Compare a layer stitched to itself with stitches between copies, and with reloaded networks."""
    name, layer = subject.cell.sender, subject.cell.sender_layer
    reloaded_modules = dict(subject.load_again())
    bench = subject.bench(
        modules={
            name: (copy.deepcopy(subject.modules[name]), name),
            f"copy of {name}": (copy.deepcopy(subject.modules[name]), name),
            f"{name} loaded again": (reloaded_modules[name], name),
        }
    )
    original, copied, reloaded = bench.networks
    cell, settings = subject.self_stitch(bench, name, layer)
    expected = subject.run(bench, cell, settings).tensors()
    largest, defects = 0.0, []
    for sender, receiver in (
        (original, copied),
        (original, reloaded),
        (copied, copied),
        (reloaded, reloaded),
    ):
        cell = Cell(sender, layer, receiver, layer)
        difference = first_difference(expected, subject.run(bench, cell, settings).tensors())
        if difference is not None:
            place, gap = difference
            largest = max(largest, gap)
            defects.append(f"{sender} into {receiver}: the first difference is in {place}")
    return judge(
        "self against copy",
        f"training of {name}:{layer} into itself, between copies, and loaded again",
        largest,
        defects,
    )


def other_trials(subject: Subject) -> Finding:
    """Compare a trial that runs alone with the same trial after trials of other cells."""
    loss = LossConfig.model_validate({"task": 1.0, "mse": 1.0})  # needs both representations
    settings = subject.short.model_copy(update={"loss": loss})
    expected = subject.run(subject.bench(), settings=settings).tensors()
    compared = (
        "a trial that runs alone, and the same trial after trials of other cells in its process"
    )
    others: list[Cell | None] = [*_similar_cells(subject)] or [None]
    for other in others:
        bench = subject.bench()
        if other is None:
            subject.run(bench, *subject.self_stitch(bench, subject.cell.receiver, 0))
        else:
            subject.run(bench, other, settings)
        difference = first_difference(expected, subject.run(bench, settings=settings).tensors())
        if difference is not None:
            place, gap = difference
            defect = (
                "earlier trials in the same process change a trial: "
                f"the first difference is in {place}"
            )
            return Finding("other trials", compared, gap, "fail", defect)
    return Finding("other trials", compared, 0.0, "pass")


def _similar_cells(subject: Subject) -> list[Cell]:
    """Find cells of the same shapes, which faulty code could mistake for the subject's cell."""
    bench, cell, image = subject.bench(), subject.cell, subject.data.image_shape
    layer_shapes = {
        (name, layer): network.shape(layer, image)
        for name, network in bench.networks.items()
        for layer in range(len(network.layer_names))
    }
    senders, receivers = (
        [layer for layer, shape in layer_shapes.items() if shape == expected]
        for expected in subject.shapes(bench)
    )
    cells = [Cell(*s, *r) for s in senders for r in receivers if Cell(*s, *r) != cell]
    # The first shares no network with the cell where possible; the last shares all but a layer.
    cells.sort(key=lambda c: (c.sender == cell.sender) + (c.receiver == cell.receiver))
    return [cells[0], cells[-1]] if len(cells) > 1 else cells
