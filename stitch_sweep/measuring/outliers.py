"""Out-of-distribution score: whether stitched activations look like the receiver's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from stitch_sweep.networks.pooling import pooled


@dataclass(frozen=True)
class OutlierDetector:
    r"""The energy of a representation: high if it is unusual among the receiver's own representations.

    ```math
    E(x) = -\log \sum_c \pi_c \exp\left( -\frac{\lVert x - \mu_c \rVert^2}{2 v} \right)
    ```

    x are pooled features, pi_c is the share of class c, mu_c the mean of class c, and v the variance
    within classes, averaged over features. pi, mu and v are those of the receiver's own representations
    of training images. At a score of 0.5, stitched representations can't be told apart from the
    receiver's own; at 1, all are more unusual.

    Attributes:
        means: mu_c of every class, float64 [classes, features].
        log_shares: log pi_c, [classes].
        variance: v.
    """

    means: Tensor
    log_shares: Tensor
    variance: Tensor

    def energy(self, representation: Tensor) -> Tensor:
        """Compute the energy of each image, float64 [B].

        Args:
            representation: [B, *shape of the layer].
        """
        rows = pooled(representation).double()
        # Not by a product of matrices, which would cancel for distant rows.
        distances = torch.cdist(rows, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        return -(self.log_shares - distances.square() / (2 * self.variance)).logsumexp(dim=1)


@torch.no_grad()
def fit_detector(chunks: Iterable[tuple[Tensor, Tensor]]) -> OutlierDetector | None:
    """Fit a detector to a receiver's own representations of its training images, in one pass.

    A Gaussian per class, all with the same variance in every direction: a deviation counts by its size,
    as in EV. With a full covariance (Lee et al. 2018), the directions in which a receiver hardly varies
    would decide alone, and the score would be near 1 for nearly every stitch. Memory: 16 bytes per class
    and feature.

    Args:
        chunks: representations [B, *shape], and their labels [B].

    Returns:
        The detector; None if the representations don't vary within classes, or aren't finite.
    """
    offset: Tensor | None = None
    squares: Tensor | float = 0.0
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    for representation, labels in chunks:
        rows = pooled(representation).double()
        if offset is None:
            offset = rows.mean(dim=0)  # subtracted, so that the terms don't cancel
        rows = rows - offset
        squares = squares + rows.square().sum()
        for label in labels.unique().tolist():
            members = rows[labels.to(rows.device) == label]
            sums[label] = sums.get(label, 0) + members.sum(dim=0)
            counts[label] = counts.get(label, 0) + len(members)
    if offset is None:
        return None
    classes = sorted(sums)
    sizes = torch.tensor([counts[c] for c in classes], dtype=offset.dtype, device=offset.device)
    means = torch.stack([sums[c] for c in classes]) / sizes[:, None]
    between = (sizes @ means.square()).sum()
    variance = (squares - between) / (sizes.sum() * len(offset))
    # The variance of representations that don't vary within classes is rounding error.
    if not variance > 1e-12 * (squares / (sizes.sum() * len(offset))):
        return None
    return OutlierDetector(means + offset, (sizes / sizes.sum()).log(), variance)


class OutlierScores:
    """The out-of-distribution scores of representations, accumulated over chunks.

    Args:
        detector: the detector of the receiver's layer; None if there is none.
        own: name of the receiver's own representation.
        compared: names of the representations that are scored.
    """

    def __init__(self, detector: OutlierDetector | None, own: str, compared: Iterable[str]) -> None:
        self._detector = detector
        self._own = own
        self._energies: dict[str, list[Tensor]] = {name: [] for name in (own, *compared)}

    def add(self, representations: Mapping[str, Tensor]) -> None:
        """Add images: every representation is [B, *shape], without padding."""
        if self._detector is not None:
            for name, energies in self._energies.items():
                energies.append(self._detector.energy(representations[name]).cpu())

    def result(self) -> dict[str, float]:
        """Return the area under the ROC curve of every compared representation; NaN if undefined."""
        if self._detector is None:
            return {name: float("nan") for name in self._energies if name != self._own}
        energies = {name: torch.cat(parts) for name, parts in self._energies.items()}
        own = energies.pop(self._own)
        return {name: _area(own, stitched) for name, stitched in energies.items()}


def _area(own: Tensor, stitched: Tensor) -> float:
    """Return the probability that a stitched energy is above one of the receiver's own.

    A tie counts as one half.
    """
    values = torch.cat([own, stitched])
    if not values.isfinite().all():
        return float("nan")
    is_stitched = torch.cat([torch.zeros(len(own)), torch.ones(len(stitched))])
    return float(roc_auc_score(is_stitched.numpy(), values.numpy()))
