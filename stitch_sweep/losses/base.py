"""The interface of a loss: its inputs, its declarations, and the weighted sum that is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from stitch_sweep.config.loss import LossConfig
from stitch_sweep.core.registry import LOSSES

Invariance = Literal["none", "position_scale", "channel_affine", "isotropic", "affine"]
"""Maps of the stitched representation that don't change a loss: none; a positive scale of each position;
a shift and positive scale of each channel; rotation, reflection, one scale and a shift; any invertible
affine map of the channels."""

INVARIANCES: dict[str, str] = {
    "none": "nothing",
    "position_scale": "a positive scale of each position",
    "scale": "one scale",
    "scale_shift": "one scale and a shift",
    "channel_affine": "shift and positive scale of each channel",
    "isotropic": "rotation, reflection, one scale and a shift",
    "affine": "any invertible affine map of the channels",
}
"""Invariances and groups of calibrations in words."""

CalibrationGroup = Literal["none", "scale", "scale_shift", "channel_affine", "isotropic", "affine"]
"""Groups of maps of the channels, the same at every position: the identity; one scale; one scale and a
shift; a scale and shift per channel; rotation, one scale and a shift; any affine map."""

Teacher = Literal["receiver", "sender"]
"""The network whose predictions are soft labels."""

_LOGITS: dict[Teacher, str] = {"receiver": "expected_logits", "sender": "sender_logits"}


@dataclass(frozen=True)
class LossContext:
    """Facts of a cell that a loss may use, known before training starts.

    Attributes:
        expected_variance: variance of the expected representation over all training positions, a mean
            over its channels; None if no loss of the sum needs the expected representation.
    """

    expected_variance: float | None = None


@dataclass(frozen=True)
class LossInputs:
    """The inputs of a loss for one batch.

    Attributes:
        labels: int64 [B].
        stitched: S(A_{<=i}(x)), [B, *receiver shape].
        expected: B_{<=j}(x), the same shape; None if no loss needs it.
        logits: the stitched network's logits, [B, K]; None if no loss needs them.
        expected_logits: the receiver's own logits for the same images, [B, K], without gradient; None if
            no loss has the receiver as teacher.
        sender_logits: the sender's own logits, [B, K], without gradient; None if no loss has the sender
            as teacher.
        hints: the receiver's layers after j, by index: the receiver's output there for the stitched
            representation, and its own representation (without gradient), both [B, *shape of the layer].
            Empty if j is the last layer; None if no loss needs them.
    """

    labels: Tensor
    stitched: Tensor
    expected: Tensor | None = None
    logits: Tensor | None = None
    expected_logits: Tensor | None = None
    sender_logits: Tensor | None = None
    hints: Mapping[int, tuple[Tensor, Tensor]] | None = None

    def leading(self, rows: int) -> LossInputs:
        """Return the first `rows` images, without the padding of a chunk."""

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
        needs_logits: the loss needs the stitched network's logits, so the rest of the receiver runs.
        needs_expected: the loss needs the receiver's own representation.
        needs_teacher: the loss needs the logits of the network that its attribute `teacher` names.
        needs_hints: the loss needs the receiver's later layers, for both representations.
        default_lr: learning rate if the user sets none, by optimizer name; "" is for all others.
        invariance: maps of the stitched representation that don't change the loss.
        calibration: group of maps from which `Calibration` fits one on training data. It corrects what
            the loss leaves undetermined, before the receiver sees the representation.

    Args:
        context: facts of the cell.
    """

    needs_logits: ClassVar[bool] = False
    needs_expected: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False
    needs_hints: ClassVar[bool] = False
    default_lr: ClassVar[Mapping[str, float]]
    invariance: ClassVar[Invariance] = "none"
    calibration: ClassVar[CalibrationGroup] = "none"
    teacher: Teacher = "receiver"

    def __init__(self, context: LossContext) -> None:
        self.context = context

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss of the batch, a scalar."""


class CombinedLoss:
    """The weighted sum of registered losses.

    Args:
        terms: (name, weight, options) of each loss.
        context: facts of the cell.

    Example:
        >>> loss = CombinedLoss([("task", 1.0, {}), ("mse", 0.5, {})], LossContext(1.0))
        >>> total, terms = loss(inputs)
    """

    def __init__(
        self, terms: Iterable[tuple[str, float, Mapping[str, Any]]], context: LossContext
    ) -> None:
        self.terms: dict[str, tuple[float, Loss]] = {
            name: (weight, LOSSES.build(name, context, options=options))
            for name, weight, options in terms
        }

    @classmethod
    def from_config(cls, config: LossConfig, context: LossContext | None = None) -> CombinedLoss:
        """Build the loss of a configuration; without a context, to read its requirements and defaults."""
        terms = [(term.name, term.weight, term.options) for term in config.terms]
        return cls(terms, LossContext() if context is None else context)

    @staticmethod
    def needs_expected(names: Iterable[str]) -> bool:
        """Return whether a named loss needs the expected representation."""
        return any(LOSSES.get(name).factory.needs_expected for name in names)  # type: ignore[attr-defined]

    @property
    def needs_logits(self) -> bool:
        """Whether a term needs the stitched network's logits."""
        return any(loss.needs_logits for loss in self._losses)

    @property
    def needs_hints(self) -> bool:
        """Whether a term needs the receiver's later layers."""
        return any(loss.needs_hints for loss in self._losses)

    @property
    def roles(self) -> frozenset[str]:
        """Representations that frozen networks must provide: `sender`, and fields of `LossInputs`."""
        roles = {"sender", *(_LOGITS[teacher] for teacher in self.teachers)}
        if self.needs_expected(self.terms):
            roles.add("expected")
        return frozenset(roles)

    @property
    def teachers(self) -> frozenset[Teacher]:
        """The networks whose own logits are needed by a term."""
        return frozenset(loss.teacher for loss in self._losses if loss.needs_teacher)

    @property
    def calibration(self) -> CalibrationGroup:
        """The largest group of maps to which all terms are blind."""
        return common_calibration(loss.calibration for loss in self._losses)

    @property
    def _losses(self) -> list[Loss]:
        return [loss for _, loss in self.terms.values()]

    def default_lr(self, optimizer: str) -> float:
        """Return the smallest default learning rate of the terms, which isn't too large for any term."""
        return min(
            loss.default_lr.get(optimizer.lower(), loss.default_lr[""]) for loss in self._losses
        )

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted sum, and each term before weighting."""
        values = {name: loss(inputs) for name, (_, loss) in self.terms.items()}
        total = sum(weight * values[name] for name, (weight, _) in self.terms.items())
        assert isinstance(total, Tensor)  # a configuration has at least one term
        return total, values


def common_calibration(groups: Iterable[CalibrationGroup]) -> CalibrationGroup:
    """Return the largest group of maps that is contained in all the given groups."""
    # Largest group first. Each group contains the later groups, except that `isotropic` and
    # `channel_affine` share only scale and shift.
    order: list[CalibrationGroup] = ["affine", "isotropic", "channel_affine"]
    order += ["scale_shift", "scale", "none"]
    candidates = set(groups)
    if {"isotropic", "channel_affine"} <= candidates:
        candidates.add("scale_shift")
    return max(candidates, key=order.index)


def one_minus(similarity: Tensor | None, stitched: Tensor) -> Tensor:
    """Return 1 - similarity in the dtype of `stitched`; 1, with gradient 0, if it is undefined."""
    if similarity is None:
        return 1 + 0 * stitched.sum()
    return (1 - similarity).to(stitched.dtype)


def explain_missing_teacher(sender: str, *, network: bool = False) -> str:
    """Explain why a loss can't learn from the predictions of a sender.

    Args:
        sender: the sender's name in messages.
        network: whether it is a network, with logits for other classes.
    """
    reason = "knows only the class and predicts nothing"
    if network:
        reason = "has a head for other classes than the data's"
    return (
        f"{sender} {reason}, so it can't be the teacher of a loss; "
        "with teacher: receiver the loss learns from the receiver's predictions"
    )
