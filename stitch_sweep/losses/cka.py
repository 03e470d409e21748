"""Linear centred kernel alignment with the debiased estimator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import Calibrations, Invariance, Loss, LossInputs
from stitch_sweep.losses.moments import over
from stitch_sweep.losses.rows import images

FEWEST = 4
"""The debiased estimator divides by n - 3."""
DEFAULT_BYTES = 2**28
_COLUMNS = 1024


def gram(chunks: Sequence[Tensor]) -> Tensor:
    """Inner products of centred rows, [n, n] in float64, of chunks [*, p] of n rows in all.

    Multiplied in the precision of the rows, a slice of columns at a time, and summed in float64.
    """
    total: Tensor | None = None
    for first in range(0, chunks[0].shape[1], _COLUMNS):
        rows = torch.cat([chunk[:, first : first + _COLUMNS] for chunk in chunks])
        rows = rows - rows.mean(dim=0)
        products = (rows @ rows.T).double()
        total = products if total is None else total + products
    assert total is not None
    return total


def _u_centred(k: Tensor) -> Tensor:
    """Without its diagonal, and with rows and columns that sum to 0 without it (Song et al. 2012)."""
    n = len(k)
    off = ~torch.eye(n, dtype=torch.bool, device=k.device)
    k = k * off
    rows = k.sum(dim=1)
    centred = k - (rows[:, None] + rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return centred * off


def hsic_of_grams(k: Tensor, l: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: E741
    """Debiased HSIC of (k, l), (k, k) and (l, l), three scalars.

        HSIC(K, L) = 1/(n(n-3)) [ tr(K'L') + 1'K'1 1'L'1 / ((n-1)(n-2)) - 2/(n-2) 1'K'L'1 ]

    with K', L' the matrices without their diagonals. Computed as the inner product of the U-centred
    matrices, which is the same and doesn't cancel.

    Args:
        k: [n, n], n >= 4.
        l: [n, n].
    """
    n = len(k)
    k, l = _u_centred(k), _u_centred(l)  # noqa: E741
    scale = 1 / (n * (n - 3))
    return (k * l).sum() * scale, k.square().sum() * scale, l.square().sum() * scale


def alignment(kl: Tensor, kk: Tensor, ll: Tensor) -> Tensor:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)); 0 where one of these is 0 (or, by rounding, below)."""
    return over(kl, _root(kk) * _root(ll))


def _root(value: Tensor) -> Tensor:
    some = ~(value <= 0)  # NaN is no 0
    return torch.where(some, torch.where(some, value, 1.0).sqrt(), 0.0)


class _Products:
    """Debiased HSIC from products of features, one pass over the rows.

    Memory: 8 (p^2 + q^2 + p q) bytes. About a constant near the mean, taken off all rows, so that the
    terms don't cancel; HSIC doesn't depend on it.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._about = (x.double().mean(dim=0), y.double().mean(dim=0))
        self._count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, x: Tensor, y: Tensor) -> None:
        x, y = x.double() - self._about[0], y.double() - self._about[1]
        long_x, long_y = x.square().sum(dim=1), y.square().sum(dim=1)
        self._count += len(x)
        for key, value in {
            "xx": x.T @ x,
            "yy": y.T @ y,
            "xy": x.T @ y,
            "x": x.sum(dim=0),
            "y": y.sum(dim=0),
            "|x|": long_x.sum(),
            "|y|": long_y.sum(),
            "|x||x|": long_x @ long_x,
            "|y||y|": long_y @ long_y,
            "|x||y|": long_x @ long_y,
            "x|x|": long_x @ x,
            "x|y|": long_y @ x,
            "y|x|": long_x @ y,
            "y|y|": long_y @ y,
        }.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value

    def hsic(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._pair("x", "y"), self._pair("x", "x"), self._pair("y", "y")

    def _pair(self, a: str, b: str) -> Tensor:
        """The formula of `hsic_of_grams`, with K = A A^T and L = B B^T."""
        n, of = self._count, self._sums
        lengths = of[f"|{a}||{b}|"]
        trace = of[a + b].square().sum() - lengths
        sums = (of[a].square().sum() - of[f"|{a}|"]) * (of[b].square().sum() - of[f"|{b}|"])
        mixed = of[a] @ of[a + b] @ of[b] + lengths
        mixed = mixed - of[a] @ of[f"{a}|{b}|"] - of[b] @ of[f"{b}|{a}|"]
        return (trace + sums / ((n - 1) * (n - 2)) - 2 * mixed / (n - 2)) / (n * (n - 3))


class CenteredKernelAlignment:
    """CKA of two sets of rows, accumulated chunk by chunk in bounded memory.

    Three regimes, picked by size alone:

    - Fewer images than units: rows are kept as they come and compared by their n x n inner products.
    - More images than units, 8 (p^2 + q^2 + p q) <= limit_bytes: products of features instead.
    - More units than that, and more images than fit: the images kept so far become a block. HSIC is
      a U-statistic, so the mean over blocks, weighted by their images, estimates without bias what all
      images together do; only pairs of images in different blocks are left unused. `blocks` says how
      many there were: 1 is exact. An image left over in a last block of under 4 plays no part.

    Peak memory: about 1.5 limit_bytes and the chunk. 5,000 images of 64 x 32 x 32 units in float32 make
    10 blocks of 512 images at the default of 256 MiB.

    Args:
        limit_bytes: for what is kept.
    """

    def __init__(self, limit_bytes: int = DEFAULT_BYTES) -> None:
        self._limit = limit_bytes
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._rows = 0
        self._products: _Products | None = None
        self._done: list[tuple[int, tuple[Tensor, Tensor, Tensor]]] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows x [n, p] and y [n, q]."""
        if self._products is not None:
            self._products.add(x, y)
            return
        p, q = x.shape[1], y.shape[1]
        # The n x n matrices and what their centring needs are bounded too.
        fits = min(self._limit // (x.element_size() * (p + q)), math.isqrt(self._limit // 32))
        products_fit = 8 * (p * p + q * q + p * q) <= self._limit
        room = max(FEWEST, min(fits, max(p, q)) if products_fit else fits)
        while len(x):
            taken = room - self._rows
            self._kept.append((x[:taken], y[:taken]))
            self._rows += len(x[:taken])
            x, y = x[taken:], y[taken:]
            if self._rows < room:
                return
            if products_fit:
                self._products = _Products(*self._kept[0])
                for kept in (*self._kept, (x, y)):
                    self._products.add(*kept)
                self._kept = []
                return
            self._close()

    @property
    def blocks(self) -> int:
        """In how many blocks the rows were compared."""
        return max(1, len(self._done) + (self._rows >= FEWEST))

    def result(self) -> Tensor | None:
        """CKA of all rows so far; None for fewer than 4, or where one side is constant."""
        if self._products is not None:
            kl, kk, ll = self._products.hsic()
        else:
            blocks = [*self._done, *self._last()]
            if not blocks:
                return None
            count = sum(rows for rows, _ in blocks)
            kl, kk, ll = (
                sum((rows / count * hsic[k] for rows, hsic in blocks), torch.zeros(()))
                for k in range(3)
            )
        return None if kk <= 0 or ll <= 0 else alignment(kl, kk, ll)

    def _last(self) -> list[tuple[int, tuple[Tensor, Tensor, Tensor]]]:
        if self._rows < FEWEST:
            return []
        return [
            (self._rows, hsic_of_grams(*(gram(side) for side in zip(*self._kept, strict=True))))
        ]

    def _close(self) -> None:
        self._done += self._last()
        self._kept, self._rows = [], 0


def cka(x: Tensor, y: Tensor) -> Tensor | None:
    """Linear CKA of rows x [n, p] and y [n, q], debiased.

        HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),   K = x x^T, L = y y^T;   see `hsic_of_grams`

    In [-1, 1]: unlike the biased estimator it is 0 on average for independent data, and may be below.
    1 for identical representations. Symmetric; invariant to rotation, one scale and a shift of either
    side.

    Returns:
        A scalar; None for n < 4, or where one side is constant.

    Source: Kornblith et al. 2019 (arXiv 1905.00414), with HSIC of Song et al. 2012 (JMLR 13), as in
    Nguyen et al. 2021 (arXiv 2010.15327).
    """
    measured = CenteredKernelAlignment()
    measured.add(x, y)
    return measured.result()


@LOSSES.register("cka")
class CKA(Loss):
    """1 - linear CKA of stitched and expected representation, debiased; a row per image.

        L = 1 - HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L));   see `cka`

    In [0, 2], without a unit; 1 for fewer than 4 images, or where a side is constant. Compares which
    images lie near each other, places included: blind to any rotation of all C H W units, one scale
    and a shift. The calibration takes the rotations of channels among these, the same at every place:
    see `Calibration`. O(B^2 C H W); inner products in float64.
    """

    needs_expected: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "": 0.03}
    invariance: ClassVar[Invariance] = "isotropic"
    calibration: ClassVar[Calibrations] = "isotropic"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        assert inputs.expected is not None
        stitched = inputs.stitched
        if len(stitched) < FEWEST:
            return 1 + 0 * stitched.sum()
        grams = (gram([images(side).double()]) for side in (stitched, inputs.expected))
        return (1 - alignment(*hsic_of_grams(*grams))).to(stitched.dtype)
