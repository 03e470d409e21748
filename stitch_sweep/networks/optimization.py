"""Optimizer steps with a learning-rate schedule, for zoo networks and stitches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from stitch_sweep.config.optimizer import OptimizerConfig
from stitch_sweep.config.schedule import ScheduleConfig


class Optimization:
    """An optimizer with its schedule: the step counter, and the state for a checkpoint.

    Args:
        parameters: the trained parameters.
        optimizer: settings of the optimizer.
        schedule: settings of the schedule.
        total_steps: length of the whole training, in optimizer steps.
        default_lr: base learning rate if `optimizer` has none.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        total_steps: int,
        default_lr: float,
    ) -> None:
        self.optimizer = optimizer.build(parameters, default_lr)
        self.schedule = schedule
        self.total_steps = total_steps
        self.step_count = 0
        self._base = [float(group["lr"]) for group in self.optimizer.param_groups]

    def step(self, loss: torch.Tensor) -> float:
        """Backpropagate `loss` (a scalar), take one step, and return its learning rate."""
        self.clear_gradients()
        loss.backward()
        return self.apply_gradients()

    def clear_gradients(self) -> None:
        """Forget the gradients of the last step."""
        self.optimizer.zero_grad(set_to_none=True)

    def apply_gradients(self) -> float:
        """Take one step with the present gradients, and return its learning rate."""
        factor = self.schedule.factor(self.step_count, self.total_steps)
        for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base * factor
        self.optimizer.step()
        self.step_count += 1
        return self._base[0] * factor

    def state_dict(self) -> dict[str, Any]:
        """Return the state to resume from: the optimizer's state and the step."""
        return {"optimizer": self.optimizer.state_dict(), "step": self.step_count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state that `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_count = state["step"]
