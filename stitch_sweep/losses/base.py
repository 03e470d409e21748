"""What a loss gets, what it says of itself, and the weighted sum that is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from stitch_sweep.registry import LOSSES


@dataclass(frozen=True)
class LossContext:
    """What a loss may know of its cell before training starts.

    Attributes:
        expected_variance: mean over channels of the expected representation's variance over all
            training positions; None when no loss of the sum asked for the expected representation.
    """

    expected_variance: float | None = None


@dataclass(frozen=True)
class LossInputs:
    """One batch as the losses see it.

    Attributes:
        labels: int64 [B].
        stitched: S(A_{<=i}(x)), [B, *receiver shape].
        expected: B_{<=j}(x), the same shape; None unless some loss needs it.
        logits: [B, K], the stitched network's; None unless some loss needs them.
    """

    labels: Tensor
    stitched: Tensor
    expected: Tensor | None = None
    logits: Tensor | None = None


class Loss(ABC):
    """A differentiable function of one batch.

    Class attributes:
        needs_logits: the rest of the receiver must run.
        needs_expected: the receiver's own representation must be computed.
        default_lr: learning rate where the user gave none, by optimizer name; "" is for all others.
    """

    needs_logits: ClassVar[bool] = False
    needs_expected: ClassVar[bool] = False
    default_lr: ClassVar[Mapping[str, float]]

    def __init__(self, context: LossContext) -> None:
        self.context = context

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> Tensor:
        """The loss of the batch, a scalar."""


class CombinedLoss:
    """The weighted sum of registered losses.

    Args:
        terms: (name, weight, options) of each.
        context: facts of the cell.
    """

    def __init__(
        self, terms: Iterable[tuple[str, float, Mapping[str, Any]]], context: LossContext
    ) -> None:
        self.terms: dict[str, tuple[float, Loss]] = {
            name: (weight, LOSSES.build(name, context, options=options))
            for name, weight, options in terms
        }

    @staticmethod
    def needs_expected(names: Iterable[str]) -> bool:
        """Whether any of the named losses needs the expected representation."""
        return any(LOSSES.get(name).factory.needs_expected for name in names)  # type: ignore[attr-defined]

    @property
    def needs_logits(self) -> bool:
        """Whether any term needs the receiver's logits."""
        return any(loss.needs_logits for _, loss in self.terms.values())

    def default_lr(self, optimizer: str) -> float:
        """The smallest default among the terms, which none of them finds too large."""
        return min(
            loss.default_lr.get(optimizer.lower(), loss.default_lr[""])
            for _, loss in self.terms.values()
        )

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term before weighting."""
        values = {name: loss(inputs) for name, (_, loss) in self.terms.items()}
        total = sum(weight * values[name] for name, (weight, _) in self.terms.items())
        assert isinstance(
            total, Tensor
        )  # never the empty sum: a configuration has at least one term
        return total, values
