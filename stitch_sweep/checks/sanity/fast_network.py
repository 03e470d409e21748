"""The check that fast copies of the receiver compute what the receiver computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.checks.sanity.findings import Finding
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.fast.comparison import BFLOAT16, FLOAT32, Difference, measure_difference
from stitch_sweep.networks.fast.copies import FastSettings, training_network
from stitch_sweep.networks.fast.machine import has_bfloat16


def fast_network(subject: Subject) -> Finding:
    """Compare logits and gradients at the stitch's output in training steps with the network as it is.

    The fused copy is compared in float32 and, on a machine that has it, in bfloat16, and so is the copy
    that is configured. Too large a difference is a defect, or a warning for bfloat16 that isn't
    configured.
    """
    configured = FastSettings.from_config(subject.settings.training)
    kinds = {"fused": FastSettings("fused")}
    if has_bfloat16(torch.device(subject.device).type):
        kinds["fused, bfloat16"] = FastSettings("fused", "bfloat16")
    if not configured.is_exact:
        kinds[f"{configured.mode}, {configured.precision}"] = configured
    figures: dict[str, Any] = {}
    defects: list[str] = []
    warnings: list[str] = []
    for name, settings in kinds.items():
        try:
            difference = _measure(subject, settings)
        except InputError as error:  # the training itself refuses the copy
            problem = str(error)
        else:
            figures[name] = {"logits": difference.output, "gradient": difference.gradient}
            tolerance = FLOAT32 if settings.precision == "float32" else BFLOAT16
            if not difference.exceeds(tolerance):
                continue
            problem = (
                f"{name}: logits differ by {difference.output:.2g}, gradients at the stitch's output by "
                f"{difference.gradient:.2g}; allowed: {tolerance.output:g} and {tolerance.gradient:g}"
            )
        is_needed = settings == configured or settings.precision == "float32"
        (defects if is_needed else warnings).append(problem)
    return Finding(
        "fast network",
        "logits and gradients of fast copies, and of the network as it is",
        figures.get("fused", {}).get("logits"),
        "fail" if defects else "warn" if warnings else "pass",
        "; ".join([*defects, *warnings]),
        figures,
    )


def _measure(subject: Subject, settings: FastSettings) -> Difference:
    """Compare the first training step's pass through the copy with one through fresh networks."""
    cell, bench = subject.cell, subject.bench()
    short = subject.short.training.model_copy(
        update={"frozen": settings.mode, "precision": settings.precision}
    )
    training = subject.start(bench, settings=subject.short.model_copy(update={"training": short}))
    # The copy that the training's steps run.
    fast = training_network(bench.networks[cell.receiver], settings).suffix(cell.receiver_layer)
    batch = next(iter(bench.loaders(short.batch_size)["train"].batches(0, 0)))
    with torch.no_grad():
        sent = bench.senders[cell.sender].represent(cell.sender_layer, batch)
        stitched = training.stitch(sent)
    fresh = subject.bench().networks[cell.receiver].suffix(cell.receiver_layer)
    reference, other = (
        _logits_and_gradient(rest, stitched, batch.labels) for rest in (fresh, fast)
    )
    return measure_difference(reference, other)


def _logits_and_gradient(
    rest: nn.Module, stitched: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the logits and the gradient of their cross-entropy at the stitch's output."""
    stitched = stitched.clone().requires_grad_()
    logits = rest(stitched)
    if not logits.requires_grad:
        return logits, None
    (gradient,) = torch.autograd.grad(
        functional.cross_entropy(logits, labels), stitched, allow_unused=True
    )
    return logits.detach(), gradient
