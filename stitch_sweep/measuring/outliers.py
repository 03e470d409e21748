"""Out-of-distribution score: whether stitched activations look like the receiver's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from stitch_sweep.measuring.probes import pooled

FEATURES = 512
"""Maximum number of features of a detector: channels x positions; see `pooled`."""


@dataclass(frozen=True)
class OutlierDetector:
    """Free energy of representations under a receiver's own: high for unusual ones.

        E(x) = -log sum_c pi_c exp(-(x - mu_c)^T Sigma^-1 (x - mu_c) / 2)

    x are pooled features, pi_c is the share of class c, mu_c its mean, and Sigma the covariance that all
    classes share. See `fit_detector`.

    Attributes:
        whitening: W with W W^T = Sigma^-1, [features, features], float64.
        means: mu_c^T W of every class, [classes, features].
        log_shares: log pi_c, [classes].
    """

    whitening: Tensor
    means: Tensor
    log_shares: Tensor

    def energy(self, representation: Tensor) -> Tensor:
        """Compute the energy of each image, float64 [B].

        Args:
            representation: [B, *shape of the layer].
        """
        rows = _features(representation) @ self.whitening
        # Not by a product of matrices, which would cancel for distant rows.
        distances = torch.cdist(rows, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        return -(self.log_shares - distances.square() / 2).logsumexp(dim=1)


@torch.no_grad()
def fit_detector(chunks: Iterable[tuple[Tensor, Tensor]]) -> OutlierDetector | None:
    """Fit a detector to a receiver's own representations of its training images.

    The covariance is shrunk towards a multiple of the identity, with the weight of Chen et al. 2010
    (OAS). So fewer images than features suffice, and a channel that is constant in the receiver has a
    finite weight. Memory: about 16 bytes per pair of features, of which there are at most 512^2.

    Args:
        chunks: representations [B, *shape], and their labels [B].

    Returns:
        The detector; None if the representations don't vary within classes, or aren't finite.
    """
    offset = scatter = None
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    for representation, labels in chunks:
        rows = _features(representation)
        if offset is None or scatter is None:
            offset = rows.mean(dim=0)  # subtracted, so that the terms don't cancel
            scatter = torch.zeros(
                rows.shape[1], rows.shape[1], dtype=rows.dtype, device=rows.device
            )
        rows = rows - offset
        scatter += rows.T @ rows
        for label in labels.unique().tolist():
            members = rows[labels.to(rows.device) == label]
            sums[label] = sums.get(label, 0) + members.sum(dim=0)
            counts[label] = counts.get(label, 0) + len(members)
    if offset is None or scatter is None:
        return None
    classes = sorted(sums)
    sizes = torch.tensor([counts[c] for c in classes], dtype=offset.dtype, device=offset.device)
    means = torch.stack([sums[c] for c in classes]) / sizes[:, None]
    total = sizes.sum()
    covariance = (scatter - (means.T * sizes) @ means) / total
    covariance = _shrink(covariance, int(total))
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed or not bool(factor.isfinite().all()):
        return None
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    whitening = torch.linalg.solve_triangular(factor, identity, upper=False).T
    return OutlierDetector(whitening, (means + offset) @ whitening, (sizes / total).log())


def _features(representation: Tensor) -> Tensor:
    return pooled(representation, FEATURES).double()


def _shrink(covariance: Tensor, count: int) -> Tensor:
    """Shrink a covariance of `count` rows towards its mean variance (Chen et al. 2010, eq. 23)."""
    size = len(covariance)
    variance = covariance.diagonal().mean()
    mean_square = covariance.square().mean()
    spread = (count + 1) * (mean_square - variance.square() / size)
    weight = torch.clamp((mean_square + variance.square()) / spread, max=1.0).nan_to_num(nan=1.0)
    identity = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    return (1 - weight) * covariance + weight * variance * identity


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
