"""Learning-rate schedules, with their warm-up.

`checks.sanity.plain` repeats these formulas independently: change both.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from stitch_sweep.core.registry import Options


class ScheduleConfig(Options):
    """Learning-rate schedule: a factor on the base learning rate at each step.

    ```yaml
    schedule: {name: linear, warmup: 0.2}
    ```

    With T total steps and W = round(`warmup` T), the factor at step t (from 0) is

    | steps | factor |
    |---|---|
    | t < W | (t + 1) / W |
    | afterwards, `constant` | 1 |
    | afterwards, `warmup_cosine` | (1 + cos(pi (t - W) / (T - W))) / 2 |
    | afterwards, `linear` | 1 - (t - W) / (T - W) |

    The cosine schedule is that of Loshchilov and Hutter 2017 (arXiv 1608.03983), without restarts.
    """

    name: Literal["warmup_cosine", "linear", "constant"] = Field(
        default="warmup_cosine",
        description="Shape of the schedule after the warm-up: a cosine to 0, a line to 0, or constant.",
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1,
        description="Share of the steps in which the learning rate rises linearly to its base value.",
    )

    def factor(self, step: int, total: int) -> float:
        """Return the factor at step `step` (from 0) of `total` steps."""
        warmup = round(self.warmup * total)
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total - warmup)
        if self.name == "warmup_cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        return 1.0 if self.name == "constant" else 1 - progress
