"""The check of the learning rates against their formula."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from stitch_sweep.checks.sanity import plain
from stitch_sweep.checks.sanity.findings import Finding, judge
from stitch_sweep.checks.sanity.plain_subject import base_learning_rate
from stitch_sweep.checks.sanity.subject import Subject


def schedule(subject: Subject) -> Finding:
    """Compare the optimizer's and the logged learning rate of every step with the formula."""
    # The default learning rate of whitened coordinates depends on the cell.
    training_settings = subject.short.training.model_copy(update={"coordinates": "raw"})
    settings = subject.short.model_copy(update={"training": training_settings})
    used: list[float] = []

    def record_rate(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        used.append(float(optimizer.param_groups[0]["lr"]))

    hook = register_optimizer_step_pre_hook(record_rate)
    try:
        training = subject.run(subject.bench(), settings=settings)
    finally:
        hook.remove()
    logged = [row["lr"] for row in training.result.trajectory if row["split"] == "train"]
    total = training.training.total_steps
    compared = f"learning rates of {total} steps, and their formula"
    if total == 0:
        return Finding("schedule", compared, None, "skip", "this stitch has nothing to train")
    base, configured = base_learning_rate(settings), settings.training.schedule
    expected = [
        base * plain.factor(configured.name, configured.warmup, step, total)
        for step in range(total)
    ]
    largest, defects = 0.0, []
    for source, rates in (("used", used), ("logged", logged)):
        if len(rates) != total:
            defects.append(f"{len(rates)} learning rates were {source}")
        gaps = [abs(a - b) for a, b in zip(rates, expected, strict=False)]
        largest = max(largest, *gaps)
        # A product of two floats may be rounded a second time.
        wrong_steps = [k for k, gap in enumerate(gaps) if gap > 1e-12 * base]
        if wrong_steps:
            k = wrong_steps[0]
            defects.append(
                f"at step {k} the learning rate {source} is {rates[k]:.6g}, not {expected[k]:.6g}"
            )
    if defects and used and max(used) < 0.99 * max(expected):
        defects.append(
            f"it never exceeds {max(used):.6g}, of {max(expected):.6g}: is the warm-up longer than "
            "the training?"
        )
    return judge("schedule", compared, largest, defects)
