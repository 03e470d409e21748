"""One training step of several stitches with one pass of the receiver's frozen rest.

The gradient of a stitch is computed in three parts: the loss down to the logits and the stitch's output,
the frozen rest, and the stitch. The first and the last part are a stitch's own; all stitches share the
middle one. Sums of gradients are added in the order in which autograd adds them in one whole pass, so the
bits are those of `loss.backward()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stitch_sweep.training.representations import Rows
from stitch_sweep.training.shared_pass import SharedPass

if TYPE_CHECKING:
    from stitch_sweep.training.loop import StepLoss, StitchTraining


def joint_step(
    members: Sequence[tuple[StitchTraining, Rows] | None], shared: SharedPass
) -> dict[StitchTraining, Exception]:
    """Take one step of every member.

    Args:
        members: a training and its batch per place of `shared`; None for a free place.
        shared: the pass of the rest that all members share.

    Returns:
        The error of each member whose own part raised one. It has not taken the step; the others have.

    Raises:
        Exception: the shared part failed, and no member has taken the step.
    """
    errors: dict[StitchTraining, Exception] = {}
    steps = [None if member is None else _Step(*member) for member in members]

    def attempt(
        step: _Step | None, part: Callable[..., Tensor | None], *arguments: Tensor | None
    ) -> Tensor | None:
        """Compute a member's own part, unless an earlier part of its step failed."""
        if step is None or step.training in errors:
            return None
        try:
            with step.training.generators:
                return part(step, *arguments)
        except Exception as error:
            errors[step.training] = error
            return None

    outputs = [attempt(step, _Step.stitch) for step in steps]
    logits = shared.forward(outputs)
    gradients = [
        attempt(step, _Step.differentiate_loss, values)
        for step, values in zip(steps, logits, strict=True)
    ]
    direct = [None if step is None else step.direct_gradient for step in steps]
    for step, gradient in zip(steps, shared.backward(gradients, direct), strict=True):
        attempt(step, _Step.update, gradient)
    return errors


class _Step:
    """The parts of a step that belong to one training."""

    def __init__(self, training: StitchTraining, rows: Rows) -> None:
        self.training = training
        self._rows = rows
        self._stitched: Tensor  # with its history
        # The same values, where the gradients of the loss arrive.
        self._output: Tensor | None = None
        self._loss: StepLoss

    @property
    def direct_gradient(self) -> Tensor | None:
        """Gradient of the output that doesn't come through the shared pass."""
        return None if self._output is None else self._output.grad

    def stitch(self) -> Tensor | None:
        """Apply the stitch; return the output if the shared pass continues it, else None."""
        self._stitched = self.training.stitch_batch(self._rows)
        self._output = self._stitched.detach().requires_grad_(True)
        return self._output if self.training.shares_rest else None

    def differentiate_loss(self, logits: Tensor | None) -> Tensor | None:
        """Compute the loss and its gradients; return that of the logits, None without logits."""
        assert self._output is not None
        if logits is not None:
            logits.requires_grad_(True)
        self._loss = self.training.compute_loss(self._rows, self._output, logits)
        self._loss.loss.backward()
        return None if logits is None else logits.grad

    def update(self, gradient: Tensor | None) -> None:
        """Compute the gradients of the stitch's parameters, and update them.

        Args:
            gradient: of the output, with the part through the shared pass.
        """
        tensors = [] if gradient is None else [self._stitched]
        gradients = [] if gradient is None else [gradient]
        if self._loss.penalty is not None:
            tensors.append(self._loss.penalty)
            gradients.append(torch.ones_like(self._loss.penalty))
        torch.autograd.backward(tensors, gradients)
        self.training.end_step(self._loss)
