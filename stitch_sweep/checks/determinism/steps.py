"""The first training steps of a recorded cell, and an evaluation after them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from stitch_sweep.checks.determinism.kept_tensors import KeptTensors
from stitch_sweep.checks.inspection import sha256_of
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.evaluation import evaluate
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.plan.cells import Cell
from stitch_sweep.storage.digests import fingerprint
from stitch_sweep.training.loop import StitchTraining


def describe_steps(
    cell: Cell,
    networks: Mapping[str, FrozenNetwork],
    training: StitchTraining,
    validation: Loader,
    count: int,
    kept: KeptTensors,
) -> dict[str, Any]:
    """Run up to `count` steps, then evaluate on the validation images.

    Returns:
        The content of `training.json`.
    """
    steps: list[dict[str, Any]] = []
    while len(steps) < count and not training.done:
        training.advance(1)
        steps.append(_describe_step(training, kept))
    stitched = nn.Sequential(
        networks[cell.sender].prefix(cell.sender_layer),
        training.stitch,
        networks[cell.receiver].suffix(cell.receiver_layer),
    )
    stitched.eval()
    evaluation = evaluate(stitched, validation)
    kept.keep("predictions", evaluation.predictions)
    return {
        "total_steps": training.total_steps,
        "steps": steps,
        "stitch_sha256": fingerprint(training.stitch),
        "evaluation": {
            "split": "validation",
            "images": len(validation.images),
            "accuracy": evaluation.accuracy,
            "loss": evaluation.loss if math.isfinite(evaluation.loss) else None,
            "predictions_sha256": sha256_of(evaluation.predictions),
        },
    }


def _describe_step(training: StitchTraining, kept: KeptTensors) -> dict[str, Any]:
    step = training.step
    logged = [r for r in training.trajectory if (r["step"], r["split"]) == (step, "train")]
    row = logged[0] if logged else {"loss": None, "lr": None}
    parameters = dict(training.stitch.named_parameters())
    gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    return {
        "step": step,
        "loss": row["loss"],
        "learning_rate": row["lr"],
        "gradients": {
            name: kept.summarize(f"gradients/{step}/{name}", gradient)
            for name, gradient in gradients.items()
        },
        "parameters": {
            name: kept.summarize(f"parameters/{step}/{name}", parameter)
            for name, parameter in parameters.items()
        },
    }
