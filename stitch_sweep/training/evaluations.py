"""The steps of an epoch after which a training is validated."""

from __future__ import annotations


def evaluation_steps(steps_per_epoch: int, every: float | int | None) -> frozenset[int]:
    """Return the steps within an epoch, 1 to `steps_per_epoch`, that end with a validation.

    The last step of an epoch always does.

    Args:
        steps_per_epoch: number of optimizer steps of an epoch.
        every: distance between two of them: a share of an epoch (float), a number of steps (int), or
            None for the last step only.

    Example:
        >>> sorted(evaluation_steps(10, 0.25))
        [3, 5, 8, 10]
    """
    distance = every if isinstance(every, int) else (every or 1.0) * steps_per_epoch
    # A step is due when it reaches or passes a multiple of the distance. Rounding must not hide one.
    reached = [int(step / distance + 1e-9) for step in range(steps_per_epoch + 1)]
    due = {k for k in range(1, steps_per_epoch + 1) if reached[k] > reached[k - 1]}
    return frozenset({*due, steps_per_epoch})
