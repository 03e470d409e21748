"""What a loss gets, what it says of itself, and the weighted sum that is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from stitch_sweep.core.registry import LOSSES

Invariance = Literal["none", "position_scale", "channel_affine", "isotropic", "affine"]
"""What a loss doesn't notice being done to the stitched representation: nothing; a positive scale of
each position; a shift and positive scale of each channel; rotation, reflection, one scale and a shift;
any invertible affine map of the channels."""

Calibrations = Literal["none", "scale", "scale_shift", "channel_affine", "isotropic", "affine"]
"""Groups of maps of the channels, the same at every position: nothing; one scale; one scale and a
shift; a scale and shift per channel; rotation, one scale and a shift; any affine map."""

Teacher = Literal["receiver", "sender"]
"""Whose predictions are soft labels."""

_OF: dict[Teacher, str] = {"receiver": "expected", "sender": "sender"}


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
        expected_logits: [B, K], the receiver's own for the same images, without gradient; None unless
            it is some loss's teacher.
        sender_logits: [B, K], the sender's own; likewise.
        hints: by the receiver's layer, from the first after j to the last: what the receiver makes
            there of the stitched representation, and what it would have made itself (without
            gradient), both [B, *shape of that layer]. Empty when j is the last layer; None unless some
            loss needs them.
    """

    labels: Tensor
    stitched: Tensor
    expected: Tensor | None = None
    logits: Tensor | None = None
    expected_logits: Tensor | None = None
    sender_logits: Tensor | None = None
    hints: Mapping[int, tuple[Tensor, Tensor]] | None = None

    def leading(self, rows: int) -> LossInputs:
        """The first images only, without those that pad a chunk."""

        def first(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[:rows]

        hints = self.hints
        return LossInputs(
            self.labels[:rows],
            self.stitched[:rows],
            first(self.expected),
            first(self.logits),
            first(self.expected_logits),
            first(self.sender_logits),
            None if hints is None else {k: (s[:rows], e[:rows]) for k, (s, e) in hints.items()},
        )


class Loss(ABC):
    """A differentiable function of one batch.

    Class attributes:
        needs_logits: the rest of the receiver must run.
        needs_expected: the receiver's own representation must be computed.
        needs_teacher: the logits that `teacher`, an attribute of the loss, gives by itself.
        needs_hints: the receiver's later layers, for the stitched representation and its own.
        default_lr: learning rate where the user gave none, by optimizer name; "" is for all others.
        invariance: what the loss is blind to.
        calibration: which map restores that before the receiver sees the representation; see
            `Calibration`.
    """

    needs_logits: ClassVar[bool] = False
    needs_expected: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False
    needs_hints: ClassVar[bool] = False
    default_lr: ClassVar[Mapping[str, float]]
    invariance: ClassVar[Invariance] = "none"
    calibration: ClassVar[Calibrations] = "none"
    teacher: Teacher = "receiver"

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
        return any(loss.needs_logits for loss in self._losses)

    @property
    def needs_hints(self) -> bool:
        """Whether any term needs the receiver's later layers."""
        return any(loss.needs_hints for loss in self._losses)

    @property
    def roles(self) -> frozenset[str]:
        """Fields of `LossInputs` that the frozen networks have to provide, and what the stitch gets."""
        found = {"sender", *(f"{_OF[teacher]}_logits" for teacher in self.teachers)}
        if self.needs_expected(self.terms):
            found.add("expected")
        return frozenset(found)

    @property
    def teachers(self) -> frozenset[Teacher]:
        """The networks whose own logits some term needs."""
        return frozenset(loss.teacher for loss in self._losses if loss.needs_teacher)

    @property
    def calibration(self) -> Calibrations:
        """The largest group of maps that all terms are blind to."""
        return common_calibration(loss.calibration for loss in self._losses)

    @property
    def _losses(self) -> list[Loss]:
        return [loss for _, loss in self.terms.values()]

    def default_lr(self, optimizer: str) -> float:
        """The smallest default among the terms, which none of them finds too large."""
        return min(
            loss.default_lr.get(optimizer.lower(), loss.default_lr[""]) for loss in self._losses
        )

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term before weighting."""
        values = {name: loss(inputs) for name, (_, loss) in self.terms.items()}
        total = sum(weight * values[name] for name, (weight, _) in self.terms.items())
        assert isinstance(
            total, Tensor
        )  # never the empty sum: a configuration has at least one term
        return total, values


def common_calibration(groups: Iterable[Calibrations]) -> Calibrations:
    """What several groups of maps have in common, as one of them."""
    # Largest first; each holds those after it, but for the two that share scale and shift only.
    order: list[Calibrations] = ["affine", "isotropic", "channel_affine"]
    order += ["scale_shift", "scale", "none"]
    found = set(groups)
    if {"isotropic", "channel_affine"} <= found:
        found.add("scale_shift")
    return max(found, key=order.index)


def one_minus(similarity: Tensor | None, stitched: Tensor) -> Tensor:
    """1 - similarity in the dtype of `stitched`; 1, with a gradient of 0, where it isn't defined."""
    if similarity is None:
        return 1 + 0 * stitched.sum()
    return (1 - similarity).to(stitched.dtype)
