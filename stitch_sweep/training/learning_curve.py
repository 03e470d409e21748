"""The course of a training in equal pieces, from which `convergence` judges its length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.training.sums import WeightedSums

PIECES = 64
"""Number of pieces of a training; a training of fewer steps has one for each step."""
DOUBLINGS = 3
"""Number of times that the learning time doubles between the first window and the last."""


@dataclass(frozen=True)
class Piece:
    """A piece of a training.

    Attributes:
        step: number of optimizer steps taken at its end.
        loss: mean training loss.
        accuracy: mean training accuracy, before each step; None for a loss without logits.
        images: number of images.
    """

    step: int
    loss: float
    accuracy: float | None
    images: int


@dataclass(frozen=True)
class LearningCurve:
    """The course of a training in *learning time*: the sum of the schedule's factors of all steps so far.

    A step at half the learning rate counts half. A schedule that decays to 0 flattens every curve over
    steps, but not over learning time.

    Attributes:
        pieces: the pieces of the training, in order.
        validations: (step, validation accuracy) of every validation after a step.
        total_steps: optimizer steps of the whole training, whose schedule it is; a training that
            stopped early has taken fewer.
        schedule: the learning-rate schedule.
    """

    pieces: Sequence[Piece]
    validations: Sequence[tuple[int, float]]
    total_steps: int
    schedule: ScheduleConfig

    def losses(self) -> list[float] | None:
        """Return the mean training loss of each window; None if a window has no piece."""
        return _means(self._windows([(piece.step, piece.loss) for piece in self.pieces]))

    def loss_error(self) -> float:
        """Return the standard error of the difference between the first and the last mean loss.

        It is that of independent pieces which deviate as those of the last window do.
        """
        windows = self._windows([(piece.step, piece.loss) for piece in self.pieces])
        first, last = windows[0], windows[-1]
        if len(last) < 2:
            return math.inf
        return stdev(last) * math.sqrt(1 / len(first) + 1 / len(last))

    def accuracies(self) -> list[float] | None:
        """Return the mean training accuracy of each window; None for a loss without logits, too."""
        return _means(
            self._windows([(p.step, p.accuracy) for p in self.pieces if p.accuracy is not None])
        )

    def validation_accuracies(self) -> list[float] | None:
        """Return the mean validation accuracy of the last two windows; None if one has none."""
        return _means(self._windows(self.validations)[-2:])

    def _windows(self, values: Sequence[tuple[int, float]]) -> list[list[float]]:
        """Sort (step, value) into windows that end at 1/8, 1/4, 1/2 and all of the learning time."""
        windows: list[list[float]] = [[] for _ in range(DOUBLINGS + 1)]
        if not self.pieces:
            return windows
        steps = range(self.pieces[-1].step)
        times = [0.0, *accumulate(self.schedule.factor(k, self.total_steps) for k in steps)]
        for step, value in values:
            share = times[step] / times[-1]
            windows[sum(share > 2.0 ** (k - DOUBLINGS) for k in range(DOUBLINGS))].append(value)
        return windows


def _means(windows: Sequence[Sequence[float]]) -> list[float] | None:
    return [fmean(window) for window in windows] if all(windows) else None


class CurveRecorder:
    """Records the pieces of a training.

    Args:
        total_steps: optimizer steps of the whole training.

    Attributes:
        pieces: the completed pieces.
    """

    def __init__(self, total_steps: int) -> None:
        self._total = total_steps
        self._sums = WeightedSums()
        self.pieces: list[Piece] = []

    def add(self, step: int, values: Mapping[str, Tensor], count: int) -> None:
        """Add a step.

        Args:
            step: its number, from 1.
            values: `loss` and, if there are logits, `accuracy` of its batch.
            count: number of images of the batch.
        """
        shown = {name: values[name] for name in ("loss", "accuracy") if name in values}
        self._sums.add(shown, count)
        if step * PIECES // self._total > (step - 1) * PIECES // self._total:
            means, images = self._sums.means(), self._sums.state["count"]
            self.pieces.append(Piece(step, means["loss"], means.get("accuracy"), images))
            self._sums = WeightedSums()

    def state_dict(self) -> dict[str, Any]:
        """Return the state to resume from."""
        return {"sums": self._sums.state, "pieces": [asdict(piece) for piece in self.pieces]}

    def load_state_dict(self, state: Mapping[str, Any], device: str | torch.device) -> None:
        """Resume from a state that `state_dict` returned, on a device."""
        self._sums = WeightedSums.on(device, state["sums"])
        self.pieces = [Piece(**piece) for piece in state["pieces"]]
