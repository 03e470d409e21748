"""Evaluate a classifier on a split, independently of batch size and order of the data loader."""

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
"""Images per evaluation chunk. The last chunk is padded to this size, so all kernels get the same
shape."""


@dataclass(frozen=True)
class Evaluation:
    """The result of a network on one split.

    Attributes:
        accuracy: share of correctly classified images, in [0, 1].
        loss: mean cross-entropy in nats.
        predictions: int64 [N], the class predicted for every image, in stored order.
    """

    accuracy: float
    loss: float
    predictions: Tensor


class Scores:
    """Accumulate cross-entropy and accuracy over chunks of logits, in float64 and on the device."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._predictions: list[Tensor] = []
        self._correct: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, valid: int) -> None:
        """Add a chunk.

        Args:
            logits: [chunk, K].
            labels: int64 [chunk].
            valid: number of leading rows that are images; the rest is padding.
        """
        logits, labels = logits[:valid], labels[:valid]
        self._losses.append(functional.cross_entropy(logits.double(), labels, reduction="none"))
        predictions = logits.argmax(dim=1)
        self._predictions.append(predictions)
        self._correct.append(predictions == labels)

    def result(self) -> Evaluation:
        """Return the means over all chunks."""
        return Evaluation(
            accuracy=torch.cat(self._correct).double().mean().item(),
            loss=torch.cat(self._losses).mean().item(),
            predictions=torch.cat(self._predictions).cpu(),
        )


@torch.no_grad()
def evaluate(network: nn.Module | Callable[[Tensor], Tensor], loader: Loader) -> Evaluation:
    """Evaluate a classifier on a whole split.

    Chunks have a fixed size and order, and sums are in float64, so the result does not depend on the
    loader's batch size, order or augmentation.

    Args:
        network: maps images [CHUNK, C, H, W] to logits [CHUNK, K]; a module must be in eval mode.
        loader: loader of the split.

    Raises:
        ValueError: the module, or a part of it, is in train mode.
    """
    if isinstance(network, nn.Module) and any(part.training for part in network.modules()):
        raise ValueError("a network must be in eval mode to be evaluated; call .eval() first")
    scores = Scores()
    for images, labels, valid in loader.in_order(CHUNK):
        scores.add(network(images), labels, valid)
    return scores.result()
