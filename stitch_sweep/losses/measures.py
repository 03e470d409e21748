"""Every similarity of two representations, over a whole set of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stitch_sweep.losses.cca import cca, pwcca, svcca
from stitch_sweep.losses.cka import DEFAULT_BYTES, CenteredKernelAlignment
from stitch_sweep.losses.correlation import correlation_sum
from stitch_sweep.losses.cosine import cosine_sum
from stitch_sweep.losses.moments import Moments
from stitch_sweep.losses.mse import mean_squared_error
from stitch_sweep.losses.procrustes import procrustes
from stitch_sweep.losses.rows import images, positions

MEASURES = (
    "mse",
    "relative_mse",
    "cosine",
    "correlation",
    "correlation_left_out",
    "cca",
    "svcca",
    "pwcca",
    "cka",
    "cka_blocks",
    "procrustes",
)
"""What `SimilarityMeasures` reports."""

_VALUES = 2**21
"""So many values of a chunk are worked on at a time."""


class SimilarityMeasures:
    """All measures between stitched and expected representation, one pass, in bounded memory.

    The functions are those of the losses, without a ridge, of the whole set rather than of batches:
    sums are float64, and the result doesn't depend on how the set was cut into chunks. Memory:
    24 C^2 bytes for C channels, and what CKA keeps (see `CenteredKernelAlignment`).

    Args:
        cka_bytes: limit for what CKA keeps.

    Example:
        >>> measures = SimilarityMeasures()
        >>> for batch, valid in chunks:
        ...     measures.add(stitch(batch.sender)[:valid], batch.expected[:valid])
        >>> measures.result()["cka"]
    """

    def __init__(self, cka_bytes: int = DEFAULT_BYTES) -> None:
        self._moments: Moments | None = None
        self._cka = CenteredKernelAlignment(cka_bytes)
        self._squares: Tensor | float = 0.0
        self._cosines: Tensor | float = 0.0
        self._directed: Tensor | int = 0
        self._values = 0

    @torch.no_grad()
    def add(self, stitched: Tensor, expected: Tensor) -> None:
        """Add images, both [B, *receiver shape]: real ones only, none that pads a chunk.

        Raises:
            ValueError: the shapes differ.
        """
        if stitched.shape != expected.shape:
            raise ValueError(
                f"stitched and expected representations must have one shape, not "
                f"{tuple(stitched.shape)} and {tuple(expected.shape)}"
            )
        # In float64 a chunk of a large layer would take more than all that is kept.
        count = max(1, _VALUES // math.prod(stitched.shape[1:]))
        for first in range(0, len(stitched), count):
            self._add(stitched[first : first + count], expected[first : first + count])

    def _add(self, stitched: Tensor, expected: Tensor) -> None:
        x, y = positions(stitched), positions(expected)
        moments = Moments.of(x, y)
        self._moments = moments if self._moments is None else self._moments.merged(moments)
        cosines, directed = cosine_sum(x, y)
        self._cosines = self._cosines + cosines
        self._directed = self._directed + directed
        error = mean_squared_error(stitched.double(), expected.double())
        self._squares = self._squares + error * stitched.numel()
        self._values += stitched.numel()
        self._cka.add(images(stitched), images(expected))

    @torch.no_grad()
    def result(self) -> dict[str, float]:
        """The measures of all images so far; NaN where one isn't defined.

        Keys:
            mse: mean squared difference per value, in the representation's units squared.
            relative_mse: the same over the expected representation's variance (mean over channels):
                1 is no better than a constant.
            cosine: in [-1, 1]; `cosine_sum` over positions where the expected one isn't 0.
            correlation: in [-1, 1]; see `correlation_sum`.
            correlation_left_out: channels without variance, which it leaves out.
            cca, svcca, pwcca: in [0, 1].
            cka: in [-1, 1].
            cka_blocks: in how many blocks of images; 1 is exact.
            procrustes: a distance, in [0, 1]: 0 is alike.

        Raises:
            ValueError: nothing was added.
        """
        if self._moments is None:
            raise ValueError("no representations were added")
        moments = self._moments
        channels = len(moments.mean_y)
        variance = moments.deviations_y().square().sum().item() / (channels * moments.count)
        mse = float(self._squares) / self._values
        correlations, counted = correlation_sum(moments)
        return {
            "mse": mse,
            "relative_mse": mse / variance if variance else math.nan,
            "cosine": float(self._cosines / self._directed) if self._directed else math.nan,
            "correlation": float(correlations / counted) if counted else math.nan,
            "correlation_left_out": float(channels - counted),
            "cca": _number(cca(moments)),
            "svcca": _number(svcca(moments)),
            "pwcca": _number(pwcca(moments)),
            "cka": _number(self._cka.result()),
            "cka_blocks": float(self._cka.blocks),
            "procrustes": _number(procrustes(moments)),
        }


def _number(value: Tensor | None) -> float:
    return math.nan if value is None else value.item()
