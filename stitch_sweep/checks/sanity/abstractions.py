"""The check of trainings against the same trainings in plain PyTorch."""

from __future__ import annotations

import torch

from stitch_sweep.checks.differences import first_difference
from stitch_sweep.checks.sanity import plain
from stitch_sweep.checks.sanity.findings import Finding, judge
from stitch_sweep.checks.sanity.plain_subject import (
    CutModules,
    find_cut_modules,
    plain_settings,
    train_plainly,
)
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.training.workbench import Workbench


def no_abstractions(subject: Subject) -> Finding:
    """Compare trainings of this project with trainings in plain PyTorch."""
    compared = "stitches of several trainings, and those of a plain PyTorch loop"
    configured = {term.name: term.weight for term in subject.settings.loss.terms}
    losses: list[dict[str, float]] = [{"task": 1.0}, {"mse": 1.0}, {"task": 1.0, "mse": 0.5}]
    if set(configured) <= {"task", "mse"} and configured not in losses:
        losses.append(configured)
    largest, defects = 0.0, []
    # Without augmentation, which the plain loop lacks; the check `order` covers it.
    for cache_gb in (subject.config.resources.cache_gb, 0.0):
        bench = subject.bench(augment="none", cache_gb=cache_gb)
        try:
            modules = find_cut_modules(subject, bench)
        except LookupError as error:
            return Finding("no abstractions", compared, None, "skip", str(error.args[0]))
        for loss in losses if cache_gb else losses[:2]:
            gap, defect = _compare_training(subject, bench, modules, loss, cache_gb)
            largest = max(largest, gap)
            if defect:
                source = "from cached activations" if cache_gb else "batch by batch"
                defects.append(f"trained for {' + '.join(loss)} {source}, {defect}")
    return judge("no abstractions", compared, largest, defects)


def _compare_training(
    subject: Subject,
    bench: Workbench,
    modules: CutModules,
    loss: dict[str, float],
    cache_gb: float,
) -> tuple[float, str]:
    """Return the largest difference from the plain loop, and the defect; empty if there is none."""
    settings = plain_settings(subject, loss)
    shapes = subject.shapes(bench)
    training = subject.run(bench, settings=settings)
    start = plain.initial_tensors(subject.config.seed, *shapes)
    if (difference := first_difference(start, training.start)) is not None:
        return difference[1], f"the initial {difference[0]} does not follow from the seed"
    used_shapes = shapes if "mse" in loss else shapes[:1]
    largest = max(shape.numel() for shape in map(torch.Size, used_shapes))
    reference = train_plainly(
        subject,
        bench,
        modules,
        settings,
        start,
        loss,
        whole=4 * len(subject.data.train) * largest <= cache_gb * 2**30,
    )
    difference = first_difference(reference, training.result.stitch.state_dict())
    if difference is not None:
        return difference[1], f"the trained {difference[0]} differs"
    return 0.0, ""
