"""Similarity of neighborhoods: whether the same images are near each other in two representations."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBORHOOD_MEASURES = ("jaccard_knn", "second_order_cosine", "knn_agreement")
"""The names of the measures."""
NEIGHBORS = 10
"""Number k of nearest neighbors, as in the ReSi benchmark and in Huh et al. 2024."""
MAX_IMAGES = 512
"""Number of images among which `Neighborhoods` searches neighbors."""
DEFAULT_BYTES = 2**28
"""Default memory limit of `Neighborhoods`."""
_ROWS = 512
"""Number of images whose neighbors are searched at a time."""
_COLUMNS = 4096
"""Number of columns that are multiplied at a time."""


def neighborhood_measures(x: Tensor, y: Tensor, k: int = NEIGHBORS) -> dict[str, Tensor] | None:
    """Compare the k nearest neighbors of every image in two representations.

    N_x(i) are the k images j != i with the largest cosine cos(x_i, x_j), and U_i is the union of N_x(i)
    and N_y(i). The measures are means over images:

        jaccard_knn:          |N_x(i) ∩ N_y(i)| / |U_i|
        knn_agreement:        |N_x(i) ∩ N_y(i)| / k
        second_order_cosine:  cosine of the vectors (1 - cos(x_i, x_j)) and (1 - cos(y_i, y_j)), j in U_i

    They are in [0, 1], symmetric, and 1 for identical representations. For unrelated representations the
    expected `knn_agreement` is k / (n - 1), so values of different numbers of images must not be
    compared. The measures don't change under a rotation of the units, a positive scale of each image, or
    another order of the images; they change under a shift. They count neighbors and have no useful
    gradient. Rows without length have the cosine 0 with every image. Inner products are in the precision
    of the rows, a slice of columns at a time; their sums are in float64.

    Memory: about 64 n bytes for each of at most 512 images at a time, beside x and y.

    Args:
        x: rows of images, [n, p], n >= k + 2.
        y: rows of the same images, [n, q].
        k: number of neighbors, at least 1.

    Returns:
        Three float64 scalars by name; None if a side contains NaN or infinite values, or if all its rows
        are equal.

    Raises:
        ValueError: the numbers of images differ or are below k + 2, or k is below 1.

    Source: the program of ReSi (Klabunde et al. 2024, arXiv 2408.00531, github.com/mklabunde/resi), which
    also counts positions of a map as separate inputs. Hamilton et al. 2016 (arXiv 1606.02821) compare
    cosines instead of distances in `second_order_cosine`; cosines of activations that are never negative
    are all alike. `knn_agreement` is the mutual nearest-neighbor metric of Huh et al. 2024
    (arXiv 2405.07987).
    """
    if len(x) != len(y):
        raise ValueError(
            f"x has {len(x)} images and y has {len(y)}; both must have the same images"
        )
    if k < 1 or len(x) < k + 2:
        raise ValueError(
            f"{k} nearest neighbors of {len(x)} images: k must be at least 1, and at least k + 2 images "
            "are required"
        )
    if not all(_has_neighbors(rows) for rows in (x, y)):
        return None
    lengths = [_lengths(rows) for rows in (x, y)]
    parts = []
    for first in range(0, len(x), _ROWS):
        part = slice(first, first + _ROWS)
        cosines = [_cosines(rows, norms, part) for rows, norms in zip((x, y), lengths, strict=True)]
        nearest_x, nearest_y = (_nearest(c, first, k) for c in cosines)
        shared = (nearest_x & nearest_y).sum(dim=1).double()
        a, b = ((1 - c).clamp(min=0) * (nearest_x | nearest_y) for c in cosines)
        norms = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
        equal = (a == b).all(dim=1).double()  # neighbors without a distance have no direction
        second_order = torch.where(norms > 0, (a * b).sum(dim=1) / norms, equal)
        parts.append(torch.stack([shared / (2 * k - shared), second_order, shared / k]))
    return dict(zip(NEIGHBORHOOD_MEASURES, torch.cat(parts, dim=1).mean(dim=1), strict=True))


def _has_neighbors(rows: Tensor) -> bool:
    """Return whether the rows are finite and not all equal."""
    return bool(rows.isfinite().all()) and not bool((rows == rows[0]).all())


def _lengths(rows: Tensor) -> Tensor:
    squares = (part.double().square().sum(dim=1) for part in rows.split(_COLUMNS, dim=1))
    return torch.stack(list(squares)).sum(dim=0).sqrt()


def _cosines(rows: Tensor, lengths: Tensor, part: slice) -> Tensor:
    """Compute the cosines of some rows with all rows, float64 [part, n]."""
    products = torch.zeros(len(rows[part]), len(rows), dtype=torch.float64, device=rows.device)
    for columns in rows.split(_COLUMNS, dim=1):
        products += (columns[part] @ columns.T).double()
    scale = lengths[part, None] * lengths
    return torch.where(scale > 0, products / scale, 0.0)


def _nearest(cosines: Tensor, first: int, k: int) -> Tensor:
    """Mark the k nearest neighbors of the images first, first + 1, ...; bool [part, n]."""
    count = len(cosines)
    others = cosines.clone()
    images = torch.arange(count, device=cosines.device)
    others[images, images + first] = -torch.inf  # an image isn't its own neighbor
    nearest = torch.zeros_like(cosines, dtype=torch.bool)
    return nearest.scatter_(1, others.topk(k, dim=1).indices, True)


class Neighborhoods:
    """The `neighborhood_measures` of the first images that are added, in bounded memory.

    At most 512 images are kept, because the values depend on the number of images: layers up to 65,536
    units (float32, at the default limit) are compared among equally many. `images` is the number. The
    images should come in random order: see `block_order`. Memory: limit_bytes and about 40 MiB, and
    limit_bytes once more in `result`.

    Args:
        limit_bytes: memory limit for the kept rows of both sides.

    Example:
        >>> neighborhoods = Neighborhoods()
        >>> for x, y in chunks:
        ...     neighborhoods.add(x, y)
        >>> neighborhoods.result()["jaccard_knn"]
    """

    def __init__(self, limit_bytes: int = DEFAULT_BYTES) -> None:
        self._limit = limit_bytes
        self._kept: list[tuple[Tensor, Tensor]] = []
        self.images = 0
        """Number of images that are compared."""

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows x [n, p] and y [n, q]."""
        row_bytes = x.element_size() * x.shape[1] + y.element_size() * y.shape[1]
        room = min(MAX_IMAGES, self._limit // row_bytes) - self.images
        if room <= 0:
            return
        # Copies, because a view would keep the whole chunk.
        self._kept.append((x[:room].clone(), y[:room].clone()))
        self.images += len(x[:room])

    def result(self) -> dict[str, Tensor] | None:
        """Return the measures of the kept images; None if there are too few, or if undefined."""
        if self.images < NEIGHBORS + 2:
            return None
        x, y = (torch.cat(side) for side in zip(*self._kept, strict=True))
        return neighborhood_measures(x, y)
