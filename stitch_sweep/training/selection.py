"""Choose the stitch of the best validation, and notice when validations stop improving."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from torch import Tensor, nn


def selection_metric(losses: Collection[str]) -> Literal["accuracy", "loss"]:
    """Return the validation metric by which a stitch is chosen.

    Args:
        losses: names of the training loss's terms.

    Returns:
        `accuracy` for a stitch that is trained for the task; `loss` for all others, because their
        accuracy isn't what they are trained for.
    """
    return "accuracy" if "task" in losses else "loss"


def score(metric: Literal["accuracy", "loss"], values: Mapping[str, float]) -> list[float]:
    """Return a validation's score; the larger of two lists is the better score.

    Of equal accuracies, the one with the smaller loss is better, because a small validation set has few
    different accuracies.
    """
    loss = [-values["loss"]]
    return [values["accuracy"], *loss] if metric == "accuracy" else loss


class Selection:
    """The best of a training's validations.

    A validation improves on the best one if its `score` is larger, so the first of equal ones stays the
    best.

    Args:
        metric: `accuracy` (larger is better) or `loss` (smaller is better).
        keeps_best: whether to keep the tensors of the best stitch.
        patience: number of successive validations without improvement that exhaust it; None for no limit.

    Attributes:
        step: step of the best validation; None before the first.
    """

    def __init__(
        self, metric: Literal["accuracy", "loss"], *, keeps_best: bool, patience: int | None
    ) -> None:
        self._metric = metric
        self._keeps_best, self._patience = keeps_best, patience
        self._score: list[float] = []
        self._waited = 0
        self._tensors: dict[str, Tensor] = {}
        self.step: int | None = None

    @property
    def is_needed(self) -> bool:
        """Whether the training has a use for validations, so that its start counts as one."""
        return self._keeps_best or self._patience is not None

    @property
    def is_exhausted(self) -> bool:
        """Whether the training must stop, because its validations no longer improve."""
        return self._patience is not None and self._waited >= self._patience

    def add(self, step: int, values: Mapping[str, float], stitch: nn.Module) -> None:
        """Add a validation.

        Args:
            step: number of optimizer steps taken.
            values: its metrics.
            stitch: the stitch that was validated; its tensors are copied if it is kept.
        """
        if not self.is_needed:
            return
        present = score(self._metric, values)
        if self._score and present <= self._score:
            self._waited += 1
            return
        self._score, self.step, self._waited = present, step, 0
        if self._keeps_best:
            self._tensors = {k: v.detach().clone() for k, v in stitch.state_dict().items()}

    def load_best(self, stitch: nn.Module) -> int | None:
        """Give the stitch the tensors of the best validation, if they are kept.

        Returns:
            The step of the kept stitch; None if the stitch wasn't changed.
        """
        if not self._keeps_best or self.step is None:
            return None
        stitch.load_state_dict(self._tensors)
        return self.step

    def state_dict(self) -> dict[str, Any]:
        """Return the state to resume from."""
        return {
            "score": self._score,
            "step": self.step,
            "waited": self._waited,
            "tensors": dict(self._tensors),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state that `state_dict` returned."""
        self._score, self.step, self._waited = state["score"], state["step"], state["waited"]
        self._tensors = dict(state["tensors"])
