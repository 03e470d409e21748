"""The task loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from stitch_sweep.losses.base import Loss, LossInputs
from stitch_sweep.registry import LOSSES


@LOSSES.register("task")
class Task(Loss):
    """Cross-entropy of the stitched network with the hard labels, mean over images, in nats.

        L = -(1/B) sum_b log softmax(z_b)[y_b],   z = B_{>j}(S(A_{<=i}(x)))

    Asks whether the receiver can use the sender's representation, not whether it looks as expected.
    Source: Bansal et al. 2021 (arXiv 2106.07682).
    """

    needs_logits: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 0.03, "": 0.03}

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar; needs `logits` [B, K] and `labels` [B]."""
        assert inputs.logits is not None
        return functional.cross_entropy(inputs.logits, inputs.labels)
