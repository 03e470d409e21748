"""The check that repeated evaluations give the same logits."""

from __future__ import annotations

import torch
from torch import Tensor

from stitch_sweep.checks.differences import largest_difference
from stitch_sweep.checks.sanity.findings import Finding
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.networks.evaluation import evaluate

TIMES = 5


def evaluate_again(subject: Subject) -> Finding:
    """Compare five evaluations in a row, and one after an unrelated training with the same networks."""
    bench = subject.bench()
    loaders = bench.loaders(subject.short.training.batch_size)
    stitched = subject.stitched(bench, subject.run(bench).result.stitch)
    logits: list[Tensor] = []

    def record_logits(images: Tensor) -> Tensor:
        output = stitched(images)
        logits.append(output.detach().cpu().clone())
        return output

    def evaluate_once() -> tuple[float, Tensor]:
        logits.clear()
        return evaluate(record_logits, loaders["test"]).accuracy, torch.cat(logits)

    first_accuracy, first = evaluate_once()
    largest, defect = 0.0, ""
    for k in range(1, TIMES + 1):
        evaluation = f"evaluation {k + 1} in a row"
        if k == TIMES:
            subject.run(bench, *subject.self_stitch(bench, subject.cell.receiver, 0))
            evaluation = "the evaluation after an unrelated training"
        accuracy, repeated = evaluate_once()
        gap = max(largest_difference(first, repeated), abs(first_accuracy - accuracy))
        largest = max(largest, gap)
        if gap and not defect:
            defect = (
                f"{evaluation} gave other logits; accuracy {first_accuracy:.4f}, "
                f"then {accuracy:.4f}"
            )
    return Finding(
        "evaluate again",
        f"logits of {TIMES} evaluations in a row and of one after another training",
        largest,
        "fail" if defect else "pass",
        defect,
    )
