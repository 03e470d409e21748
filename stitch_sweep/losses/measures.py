"""All similarity measures of two representations, over a whole set of images."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from stitch_sweep.core.measures import SIMILARITY_MEASURES
from stitch_sweep.losses.cca import cca, pwcca, svcca
from stitch_sweep.losses.cka import (
    DEFAULT_BYTES,
    CenteredKernelAlignment,
    block_order,
    cka,
)
from stitch_sweep.losses.correlation import correlation_sum
from stitch_sweep.losses.cosine import cosine_sum
from stitch_sweep.losses.moments import Moments
from stitch_sweep.losses.mse import mean_squared_error
from stitch_sweep.losses.neighborhoods import NEIGHBORHOOD_MEASURES, Neighborhoods
from stitch_sweep.losses.procrustes import procrustes
from stitch_sweep.losses.rows import images, positions

_VALUES = 2**21
"""Number of values that are processed at a time."""

_OF_MOMENTS: dict[str, Callable[[Moments], Tensor | None]] = {
    "cca": cca,
    "svcca": svcca,
    "pwcca": pwcca,
    "procrustes": procrustes,
}
MEASURE_INPUTS = {
    **dict.fromkeys(("mse", "relative_mse", "cosine", "correlation"), "shape"),
    **dict.fromkeys(_OF_MOMENTS, "positions"),
    "cka": "images",
    **dict.fromkeys(NEIGHBORHOOD_MEASURES, "images"),
}
"""The measures, and what two representations must have in common to be compared."""


class SimilarityMeasures:
    """All measures between stitched and expected representation, in one pass and bounded memory.

    The functions are those of the losses, without a ridge, over the whole set instead of batches. Sums
    are float64, and the result doesn't depend on the sizes of the chunks. Memory: 24 C^2 bytes for C
    channels, plus that of `CenteredKernelAlignment` and of `Neighborhoods`.

    Args:
        cka_bytes: memory limit of CKA.

    Example:
        >>> measures = SimilarityMeasures()
        >>> for x, y in validation.pairs():
        ...     measures.add(stitch(x), y)
        >>> measures.result()["cka"]
    """

    def __init__(self, cka_bytes: int = DEFAULT_BYTES) -> None:
        self._moments: Moments | None = None
        self._cka = CenteredKernelAlignment(cka_bytes)
        self._neighborhoods = Neighborhoods()
        self._squares: Tensor | float = 0.0
        self._cosines: Tensor | float = 0.0
        self._cosine_rows: Tensor | int = 0
        self._values = 0
        names = [entry.name for entry in SIMILARITY_MEASURES.extensions()]
        self._further = {name: SIMILARITY_MEASURES.build(name) for name in names}

    @torch.no_grad()
    def add(self, stitched: Tensor, expected: Tensor) -> None:
        """Add images, both [B, *receiver shape], without padding.

        Raises:
            ValueError: the shapes differ.
        """
        if stitched.shape != expected.shape:
            raise ValueError(
                f"stitched and expected representations must have one shape, not "
                f"{tuple(stitched.shape)} and {tuple(expected.shape)}"
            )
        # Convert small pieces to float64, because a whole chunk of a large layer would need more memory
        # than all sums.
        count = max(1, _VALUES // math.prod(stitched.shape[1:]))
        for first in range(0, len(stitched), count):
            self._add(stitched[first : first + count], expected[first : first + count])
        for measure in self._further.values():
            measure.add(stitched, expected)

    def _add(self, stitched: Tensor, expected: Tensor) -> None:
        x, y = positions(stitched), positions(expected)
        moments = Moments.of(x, y)
        self._moments = moments if self._moments is None else self._moments.merged(moments)
        cosines, cosine_rows = cosine_sum(x, y)
        self._cosines = self._cosines + cosines
        self._cosine_rows = self._cosine_rows + cosine_rows
        error = mean_squared_error(stitched.double(), expected.double())
        self._squares = self._squares + error * stitched.numel()
        self._values += stitched.numel()
        self._cka.add(images(stitched), images(expected))
        self._neighborhoods.add(images(stitched), images(expected))

    @torch.no_grad()
    def result(self) -> dict[str, float]:
        """Return the measures of all images so far; NaN where a measure is undefined.

        Keys:
            mse: mean squared difference per value, in squared units of the representation.
            relative_mse: mse divided by the expected representation's variance (a mean over channels);
                the best constant has the value 1.
            cosine: in [-1, 1]; mean over the positions at which the expected representation isn't 0.
            correlation: in [-1, 1]; see `correlation_sum`.
            correlation_left_out: number of channels without variance, which `correlation` ignores.
            cca, svcca, pwcca: in [0, 1].
            cka: in [-1, 1].
            cka_blocks: number of blocks of images; with 1 block `cka` is exact.
            jaccard_knn, second_order_cosine, knn_agreement: in [0, 1]; see `neighborhood_measures`.
                NaN for fewer than 12 images.
            knn_images: number of images among which neighbors are searched, at most 512.
            procrustes: a distance in [0, 1]; 0 for representations that a rotation makes equal.
            The names of registered measures (see `core/measures.py`).

        Raises:
            ValueError: no images were added.
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
            "cosine": float(self._cosines / self._cosine_rows) if self._cosine_rows else math.nan,
            "correlation": float(correlations / counted) if counted else math.nan,
            "correlation_left_out": float(channels - counted),
            **{name: _to_float(function(moments)) for name, function in _OF_MOMENTS.items()},
            "cka": _to_float(self._cka.result()),
            "cka_blocks": float(self._cka.blocks),
            **_neighborhood_values(self._neighborhoods),
            "knn_images": float(self._neighborhoods.images),
            **{name: float(measure.result()) for name, measure in self._further.items()},
        }


@torch.no_grad()
def compare_representations(x: Tensor, y: Tensor) -> dict[str, float]:
    """Compute every measure that is defined for the shapes of two representations.

    Args:
        x: [N, ...], floating-point.
        y: [N, ...], of the same images; all other sizes may differ.

    Returns:
        Value by name; names are those of `MEASURE_INPUTS`. NaN where a measure is undefined.
    """
    if x.shape == y.shape:
        order = block_order(len(x)).to(x.device)
        measures = SimilarityMeasures()
        measures.add(x[order], y[order])
        values = measures.result()
        return {name: values[name] for name in MEASURE_INPUTS}
    order = block_order(len(x)).to(x.device)
    neighborhoods = Neighborhoods()
    neighborhoods.add(images(x[order]), images(y[order]))
    values = {"cka": _to_float(cka(images(x), images(y))), **_neighborhood_values(neighborhoods)}
    rows_x, rows_y = positions(x), positions(y)
    if len(rows_x) == len(rows_y):
        chunk = max(1, _VALUES // max(rows_x.shape[1], rows_y.shape[1]))
        parts = zip(rows_x.split(chunk), rows_y.split(chunk), strict=True)
        moments = reduce(Moments.merged, (Moments.of(*rows) for rows in parts))
        for name, function in _OF_MOMENTS.items():
            values[name] = _to_float(function(moments))
    return values


def _neighborhood_values(neighborhoods: Neighborhoods) -> dict[str, float]:
    values = neighborhoods.result() or dict.fromkeys(NEIGHBORHOOD_MEASURES)
    return {name: _to_float(value) for name, value in values.items()}


def _to_float(value: Tensor | None) -> float:
    return math.nan if value is None else value.item()
