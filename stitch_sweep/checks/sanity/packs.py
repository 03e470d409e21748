"""The check that a training in a pack depends on nothing but the pack's width."""

from __future__ import annotations

from stitch_sweep.checks.differences import first_difference
from stitch_sweep.checks.sanity.findings import Finding
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.config.optimizer import OptimizerConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import DivergedError
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.pack import Pack
from stitch_sweep.training.workbench import Workbench

USUAL_WIDTH = 4
"""Width of the check's pack where the configuration names none."""


def pack(subject: Subject) -> Finding:
    """Compare a training alone with the same training beside neighbors, one of which diverges."""
    configured = subject.config.resources.pack
    width = configured if isinstance(configured, int) and configured > 1 else USUAL_WIDTH
    compared = f"a training alone and between neighbors in a pack of {width}"
    bench = subject.bench()
    running = _start(subject, bench, width)
    if running.done:
        return Finding("pack", compared, None, "skip", "the stitch takes no training step")
    alone = subject.complete(running, running.run_epoch).tensors()
    unstable = subject.short.training.model_copy(
        update={"optimizer": OptimizerConfig(name="sgd", lr=1e38)}
    )
    neighbors = [
        _start(subject, bench, width, subject.short.model_copy(update={"training": unstable})),
        _start(subject, bench, width, repeat=1),
    ]
    member = _start(subject, bench, width)
    group = Pack(width)
    for training in [*neighbors[: width - 1], member]:
        group.add(training)

    def run_group_epoch() -> None:
        if (error := group.run_epoch().get(member)) is not None:
            raise error

    defect = "neighbors in a pack change a training: "
    try:
        between_neighbors = subject.complete(member, run_group_epoch).tensors()
    except DivergedError:
        return Finding("pack", compared, None, "fail", f"{defect}it diverges")
    difference = first_difference(alone, between_neighbors)
    if difference is None:
        return Finding("pack", compared, 0.0, "pass")
    place, gap = difference
    return Finding("pack", compared, gap, "fail", f"{defect}the first difference is in {place}")


def _start(
    subject: Subject,
    bench: Workbench,
    width: int,
    settings: TrialSettings | None = None,
    repeat: int = 0,
) -> StitchTraining:
    cell = subject.cell
    return bench.training(
        cell.sender,
        cell.sender_layer,
        cell.receiver,
        cell.receiver_layer,
        settings or subject.short,
        repeat,
        width,
    )
