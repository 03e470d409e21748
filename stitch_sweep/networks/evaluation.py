"""Evaluation that no batch size can move: fixed chunks, fixed order, float64 sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from stitch_sweep.data.loader import Loader

CHUNK = 256
"""Images per evaluation chunk; the last chunk is padded to it, so every kernel sees one shape."""


@dataclass(frozen=True)
class Evaluation:
    """What a network does on one split.

    Attributes:
        accuracy: share of images classified right, in [0, 1].
        loss: mean cross-entropy in nats.
        predictions: int64 [N], the class predicted for every image, in stored order.
    """

    accuracy: float
    loss: float
    predictions: Tensor


class Scores:
    """Accumulates cross-entropy and accuracy over chunks of logits, in float64 and on the device."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._predictions: list[Tensor] = []
        self._right: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, valid: int) -> None:
        """Add a chunk.

        Args:
            logits: [chunk, K].
            labels: int64 [chunk].
            valid: how many leading rows are real; the rest is padding.
        """
        logits, labels = logits[:valid], labels[:valid]
        self._losses.append(functional.cross_entropy(logits.double(), labels, reduction="none"))
        predictions = logits.argmax(dim=1)
        self._predictions.append(predictions)
        self._right.append(predictions == labels)

    def result(self) -> Evaluation:
        """Means over everything that was added."""
        return Evaluation(
            accuracy=torch.cat(self._right).double().mean().item(),
            loss=torch.cat(self._losses).mean().item(),
            predictions=torch.cat(self._predictions).cpu(),
        )


@torch.no_grad()
def evaluate(network: nn.Module | Callable[[Tensor], Tensor], loader: Loader) -> Evaluation:
    """Evaluate a classifier on a whole split.

    Args:
        network: maps images [CHUNK, C, H, W] to logits [CHUNK, K]; a module must be in eval mode.
        loader: the split.

    Raises:
        ValueError: the module, or a part of it, is in train mode.
    """
    if isinstance(network, nn.Module) and any(part.training for part in network.modules()):
        raise ValueError("a network is evaluated in eval mode; call .eval() first")
    scores = Scores()
    for images, labels, valid in loader.in_order(CHUNK):
        scores.add(network(images), labels, valid)
    return scores.result()
