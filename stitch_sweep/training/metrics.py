"""The final metrics of a stitch: accuracy with calibration, and similarity measures."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stitch_sweep.losses.base import CalibrationGroup
from stitch_sweep.losses.calibration import Calibration
from stitch_sweep.losses.cka import block_order
from stitch_sweep.losses.measures import SimilarityMeasures
from stitch_sweep.networks.evaluation import Scores
from stitch_sweep.training.representations import SplitRepresentations
from stitch_sweep.training.stitched_network import StitchedNetwork


@torch.no_grad()
def calibrated_accuracy(
    network: StitchedNetwork,
    group: CalibrationGroup,
    pairs: Iterable[tuple[Tensor, Tensor]],
    test: SplitRepresentations,
    device: torch.device,
) -> float:
    """Compute the test accuracy with a map after the stitch that corrects what the loss is blind to.

    Args:
        network: the stitched network, in eval mode.
        group: the group of maps to which the loss is blind.
        pairs: the training set, (input of the stitch, expected representation).
        test: the test images.
        device: device of the networks.
    """
    calibration = Calibration(group)
    for x, y in pairs:
        calibration.add(network.stitch(x), y)
    restore = calibration.fit().to(device)
    scores = Scores()
    for rows, valid in test.chunks():
        logits = network.rest(restore(network.stitch(rows["sender"])))
        scores.add(logits, rows["labels"], valid)
    return scores.result().accuracy


@torch.no_grad()
def similarity_metrics(
    stitch: nn.Module, validation: SplitRepresentations
) -> dict[str, float | None]:
    """Compute every measure of stitched and expected representation on the validation images.

    Args:
        stitch: in eval mode.
        validation: the validation images.

    Returns:
        `val_<measure>` as in `SimilarityMeasures.result`; None where a measure is undefined.
    """
    measures = SimilarityMeasures()
    for rows, valid in validation.chunks(order=block_order(validation.count)):
        measures.add(stitch(rows["sender"])[:valid], rows["expected"][:valid])
    return {
        f"val_{name}": value if math.isfinite(value) else None
        for name, value in measures.result().items()
    }
