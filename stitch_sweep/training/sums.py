"""Means over batches, accumulated in float64 on the device; shared by stitches and assemblies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from stitch_sweep.losses.base import CombinedLoss, LossInputs
from stitch_sweep.networks.evaluation import Scores


class WeightedSums:
    """Weighted sums of named scalars. The weight of a batch's mean is its number of images.

    Args:
        state: the sums so far, as in the attribute; by default empty.

    Attributes:
        state: `count` (number of images) and one float64 scalar per name; part of a checkpoint.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state: dict[str, Any] = {} if state is None else state

    @classmethod
    def on(cls, device: str | torch.device, state: Mapping[str, Any]) -> WeightedSums:
        """Make sums from the state of other ones, on a device."""
        return cls({k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()})

    def add(self, values: Mapping[str, Tensor], count: int) -> None:
        """Add the means of a batch of `count` images."""
        self.state["count"] = self.state.get("count", 0) + count
        for name, value in values.items():
            # Keep the sums on the device, because reading them at every step would stall a GPU.
            self.state[name] = self.state.get(name, 0) + value.detach().double() * count

    def means(self) -> dict[str, float]:
        """Return the mean over all images, by name."""
        count = self.state["count"]
        return {
            name: (total / count).item() for name, total in self.state.items() if name != "count"
        }


def name_losses(total: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name a loss and its terms as the columns of a trajectory: `loss`, `loss.<term>`."""
    return {"loss": total, **{f"loss.{name}": value for name, value in terms.items()}}


@torch.no_grad()
def measure(
    chunks: Iterable[tuple[LossInputs, int]], loss: CombinedLoss
) -> tuple[dict[str, float], Tensor]:
    """Compute accuracy and loss on a whole split.

    Args:
        chunks: the split in padded chunks, logits included, each with its number of valid rows.
        loss: the loss of the training.

    Returns:
        `accuracy`, `loss` and `loss.<term>`; the predicted classes, int64 [N].
    """
    scores, sums = Scores(), WeightedSums()
    for inputs, valid in chunks:
        assert inputs.logits is not None
        scores.add(inputs.logits, inputs.labels, valid)
        sums.add(name_losses(*loss(inputs.leading(valid))), valid)
    result = scores.result()
    return {"accuracy": result.accuracy, **sums.means()}, result.predictions
