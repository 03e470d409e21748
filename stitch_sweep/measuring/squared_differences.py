"""Mean squared differences of representations, accumulated over chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from stitch_sweep.losses.rows import positions

_VALUES = 2**21
"""Number of values of a chunk that are processed in float64 at a time."""


class SquaredDifferences:
    """Mean squared element-wise differences of named representations, accumulated in float64.

    Args:
        compared: name of each difference -> the names of its two representations.
        scale: name of the representation whose variance is measured: the mean over its channels of
            the variance over images and positions.
    """

    def __init__(self, compared: Mapping[str, tuple[str, str]], scale: str) -> None:
        self._compared = compared
        self._scale = scale
        self._sums: dict[str, Tensor] = {}
        self._values = 0
        self._count = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    def add(self, representations: Mapping[str, Tensor]) -> None:
        """Add images: every representation is [B, *shape], without padding."""
        first = representations[self._scale]
        step = max(1, _VALUES // math.prod(first.shape[1:]))
        for start in range(0, len(first), step):
            part = {k: x[start : start + step].double() for k, x in representations.items()}
            for name, (a, b) in self._compared.items():
                total = (part[a] - part[b]).square().sum()
                self._sums[name] = self._sums.get(name, 0) + total
            self._values += part[self._scale].numel()
            self._add_variance(positions(part[self._scale]))

    def _add_variance(self, rows: Tensor) -> None:
        mean = rows.mean(dim=0)
        squares = (rows - mean).square().sum(dim=0)
        if self._mean is None or self._squares is None:
            self._count, self._mean, self._squares = len(rows), mean, squares
            return
        # Chan, Golub and LeVeque (1983): no cancellation.
        count = self._count + len(rows)
        shift = mean - self._mean
        self._squares = self._squares + squares + shift.square() * (self._count * len(rows) / count)
        self._mean = self._mean + shift * (len(rows) / count)
        self._count = count

    def result(self) -> dict[str, float]:
        """Return every difference, each also as `<name>_relative`, and `variance`; NaN if undefined."""
        assert self._squares is not None
        variance = (self._squares / self._count).mean().item()
        figures = {name: total.item() / self._values for name, total in self._sums.items()}
        figures |= {
            f"{name}_relative": value / variance if variance > 0 else math.nan
            for name, value in figures.items()
        }
        figures["variance"] = variance
        return {k: v if math.isfinite(v) else math.nan for k, v in figures.items()}
