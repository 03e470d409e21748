"""Linear centered kernel alignment (CKA) with the debiased estimator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from stitch_sweep.core.registry import LOSSES
from stitch_sweep.core.seeding import generator
from stitch_sweep.losses.base import CalibrationGroup, Invariance, Loss, LossInputs
from stitch_sweep.losses.moments import divide_or_zero
from stitch_sweep.losses.rows import images

MIN_IMAGES = 4
"""Fewest images that the debiased estimator, which divides by n - 3, can compare."""
DEFAULT_BYTES = 2**28
"""Default memory limit of `CenteredKernelAlignment`."""
_COLUMNS = 1024
"""Number of columns that are multiplied at a time."""


def gram(chunks: Sequence[Tensor]) -> Tensor:
    """Compute the inner products of centered rows, [n, n], in float64.

    Products are in the precision of the rows, a slice of columns at a time; their sums are in float64.

    Args:
        chunks: [*, p] each, n rows altogether.
    """
    total: Tensor | None = None
    for first in range(0, chunks[0].shape[1], _COLUMNS):
        rows = torch.cat([chunk[:, first : first + _COLUMNS] for chunk in chunks])
        rows = rows - rows.mean(dim=0)
        products = (rows @ rows.T).double()
        total = products if total is None else total + products
    assert total is not None
    return total


def _u_center(k: Tensor) -> Tensor:
    """Set the diagonal, and the row and column sums of the rest, to 0 (Song et al. 2012)."""
    n = len(k)
    off = ~torch.eye(n, dtype=torch.bool, device=k.device)
    k = k * off
    rows = k.sum(dim=1)
    centered = k - (rows[:, None] + rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return centered * off


def hsic_of_grams(k: Tensor, l: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: E741
    """Compute the debiased HSIC of (k, l), (k, k) and (l, l), three scalars.

        HSIC(K, L) = 1/(n(n-3)) [ tr(K'L') + 1'K'1 1'L'1 / ((n-1)(n-2)) - 2/(n-2) 1'K'L'1 ]

    K', L' are the matrices without their diagonals. Computed as the inner product of the U-centered
    matrices, which is equal and doesn't cancel.

    Args:
        k: [n, n], n >= 4.
        l: [n, n].
    """
    n = len(k)
    k, l = _u_center(k), _u_center(l)  # noqa: E741
    scale = 1 / (n * (n - 3))
    return (k * l).sum() * scale, k.square().sum() * scale, l.square().sum() * scale


def alignment(kl: Tensor, kk: Tensor, ll: Tensor) -> Tensor:
    """Compute HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)); 0 if HSIC(K, K) or HSIC(L, L) isn't positive."""
    return divide_or_zero(kl, _root(kk) * _root(ll))


def _root(value: Tensor) -> Tensor:
    positive = ~(value <= 0)  # NaN counts as positive, and stays NaN
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)


class _Products:
    """Debiased HSIC from products of features, in one pass over the rows.

    Memory: 8 (p^2 + q^2 + p q) bytes. A constant near the mean is subtracted from all rows, so that the
    terms don't cancel; HSIC doesn't depend on it.

    Args:
        x: the first rows, [n, p]; their mean is the constant. They aren't added.
        y: the first rows, [n, q].
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._offsets = (x.double().mean(dim=0), y.double().mean(dim=0))
        self._count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, x: Tensor, y: Tensor) -> None:
        x, y = x.double() - self._offsets[0], y.double() - self._offsets[1]
        squares_x, squares_y = x.square().sum(dim=1), y.square().sum(dim=1)
        self._count += len(x)
        for key, value in {
            "xx": x.T @ x,
            "yy": y.T @ y,
            "xy": x.T @ y,
            "x": x.sum(dim=0),
            "y": y.sum(dim=0),
            "|x|": squares_x.sum(),
            "|y|": squares_y.sum(),
            "|x||x|": squares_x @ squares_x,
            "|y||y|": squares_y @ squares_y,
            "|x||y|": squares_x @ squares_y,
            "x|x|": squares_x @ x,
            "x|y|": squares_y @ x,
            "y|x|": squares_x @ y,
            "y|y|": squares_y @ y,
        }.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value

    def hsic(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._pair("x", "y"), self._pair("x", "x"), self._pair("y", "y")

    def _pair(self, a: str, b: str) -> Tensor:
        """Evaluate the formula of `hsic_of_grams` for K = A A^T and L = B B^T."""
        n, s = self._count, self._sums
        lengths = s[f"|{a}||{b}|"]
        trace = s[a + b].square().sum() - lengths
        sums = (s[a].square().sum() - s[f"|{a}|"]) * (s[b].square().sum() - s[f"|{b}|"])
        mixed = s[a] @ s[a + b] @ s[b] + lengths
        mixed = mixed - s[a] @ s[f"{a}|{b}|"] - s[b] @ s[f"{b}|{a}|"]
        return (trace + sums / ((n - 1) * (n - 2)) - 2 * mixed / (n - 2)) / (n * (n - 3))


def block_order(count: int) -> Tensor:
    """Return the order in which images are added to `CenteredKernelAlignment`, int64 [count].

    A permutation that depends on `count` alone. Images of a folder come sorted by class; blocks of them
    would have few classes each, and their CKA would be near 0 for networks that separate all classes.
    """
    return torch.randperm(count, generator=generator("order of blocks", count))


class CenteredKernelAlignment:
    """CKA of two sets of rows, accumulated chunk by chunk in bounded memory.

    There are three cases; the sizes alone determine the case:

    - Fewer images than units: the rows are kept and compared by their n x n inner products.
    - More images than units, and 8 (p^2 + q^2 + p q) <= limit_bytes: products of features are
      accumulated.
    - More units than that, and more images than fit into memory: the stored images become a block. HSIC
      is a U-statistic, so the mean over blocks, weighted by their numbers of images, is an unbiased
      estimate of the value of all images if they come in random order: see `block_order`. It ignores
      pairs of images in different blocks. `blocks` is the number of blocks; with 1 block the value is
      exact. A last block of fewer than 4 images is ignored.

    Peak memory: about 1.5 limit_bytes plus the chunk. 5,000 images of 64 x 32 x 32 units in float32 make
    10 blocks of 512 images at the default of 256 MiB.

    Args:
        limit_bytes: memory limit for the stored rows or products.

    Example:
        >>> cka = CenteredKernelAlignment()
        >>> for x, y in chunks:
        ...     cka.add(x, y)
        >>> cka.result()
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
        # The limit also bounds the n x n matrices and their centering.
        fits = min(self._limit // (x.element_size() * (p + q)), math.isqrt(self._limit // 32))
        products_fit = 8 * (p * p + q * q + p * q) <= self._limit
        room = max(MIN_IMAGES, min(fits, max(p, q)) if products_fit else fits)
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
        """Number of blocks in which the rows are compared."""
        return max(1, len(self._done) + (self._rows >= MIN_IMAGES))

    def result(self) -> Tensor | None:
        """Return the CKA of all rows so far; None for fewer than 4 rows, or if one side is constant."""
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
        if self._rows < MIN_IMAGES:
            return []
        return [
            (self._rows, hsic_of_grams(*(gram(side) for side in zip(*self._kept, strict=True))))
        ]

    def _close(self) -> None:
        self._done += self._last()
        self._kept, self._rows = [], 0


def cka(x: Tensor, y: Tensor, limit_bytes: int = DEFAULT_BYTES) -> Tensor | None:
    """Compute the debiased linear CKA of rows x [n, p] and y [n, q].

        HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),   K = x x^T, L = y y^T;   see `hsic_of_grams`

    In [-1, 1], 1 for identical representations. Unlike the biased estimator it is 0 on average for
    independent data, so it may be negative. Symmetric; invariant to rotation, one scale and a shift of
    either side.

    Args:
        x: rows of images in any order.
        y: rows of the same images.
        limit_bytes: see `CenteredKernelAlignment`.

    Returns:
        A scalar; None if n < 4, or if one side is constant.

    Source: Kornblith et al. 2019 (arXiv 1905.00414), with HSIC of Song et al. 2012 (JMLR 13), as in
    Nguyen et al. 2021 (arXiv 2010.15327).
    """
    measured = CenteredKernelAlignment(limit_bytes)
    order = block_order(len(x)).to(x.device)
    measured.add(x[order], y[order])
    return measured.result()


@LOSSES.register("cka")
class CKA(Loss):
    r"""1 - debiased linear CKA of stitched and expected representation, with one row per image.

    ```math
    L = 1 - \frac{\mathrm{HSIC}(s, e)}{\sqrt{\mathrm{HSIC}(s, s)\, \mathrm{HSIC}(e, e)}}
    ```

    HSIC is the debiased estimator with linear kernels. The loss tests whether the same images are close
    to each other in both representations. An image's representation counts as one vector of all its C H
    W values, so positions matter. The loss is invariant to any rotation of these vectors. The
    calibration uses only rotations of channels, the same at every position, because a rotation of all
    values can't be estimated from fewer images than values.

    Use: to test whether the same images are close to each other in both representations, also with many
    channels. Train with large batches.

    Assumes: at least 4 images in a batch.

    Range: 0 to 2. 1 for fewer than 4 images, or if s or e is constant.

    Flat for: stitches that can only rotate, scale and shift; an affine stitch with one input value;
    batches of fewer than 4 images.

    Cost: O(B^2 C H W); inner products in float64.

    Source: Kornblith et al. 2019, arXiv 1905.00414; Song et al. 2012 (the estimator).
    """

    needs_expected: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "": 0.03}
    invariance: ClassVar[Invariance] = "isotropic"
    calibration: ClassVar[CalibrationGroup] = "isotropic"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss, a scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        assert inputs.expected is not None
        stitched = inputs.stitched
        if len(stitched) < MIN_IMAGES:
            return 1 + 0 * stitched.sum()
        grams = (gram([images(side).double()]) for side in (stitched, inputs.expected))
        return (1 - alignment(*hsic_of_grams(*grams))).to(stitched.dtype)
