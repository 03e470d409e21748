"""Multinomial logistic regression with an L2 penalty, on whitened features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

_STEPS = 60
"""Largest number of L-BFGS iterations for each penalty."""
_NO_VARIANCE = 1e-60
"""Largest variance that counts as none: whitened, it would exceed float32."""


def fit_logistic(
    rows: Tensor,
    labels: Tensor,
    classes: int,
    penalties: Sequence[float],
    ridges: Sequence[float],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fit classifiers with the logits A r + a, one for each ridge and penalty.

    In whitened features z it minimizes the mean cross-entropy plus penalty / 2 times the sum of squared
    weights, by L-BFGS; whitening lets it converge in few steps, and makes the penalty independent of
    the scales of the features.

    Args:
        rows: features r, float32 [N, D].
        labels: int64 [N], on the device of the rows.
        classes: K.
        penalties: weights of the penalty; each fit starts from the one before, so put the largest first.
        ridges: added to the eigenvalues of the covariance in whitening, as a share of their mean.

    Yields:
        A [K, D] and a [K], float64: for the first ridge all penalties, then for the next.
    """
    mean = rows.double().mean(dim=0)
    centered = rows - mean.float()
    covariance = (centered.T.double() @ centered.double() / len(rows)).cpu()
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    eigenvalues = eigenvalues.clamp(min=0)
    for ridge in ridges:
        regular = eigenvalues + ridge * eigenvalues.mean()
        # Rows that are all equal have no direction to whiten.
        scales = torch.where(regular > _NO_VARIANCE, regular.rsqrt(), 0.0)
        whitening = (vectors * scales).to(rows.device)
        inputs = centered @ whitening.float()
        weight = torch.zeros(classes, rows.shape[1], device=rows.device, requires_grad=True)
        bias = torch.zeros(classes, device=rows.device, requires_grad=True)
        for penalty in penalties:
            _minimize(inputs, labels, weight, bias, penalty)
            slopes = weight.detach().double() @ whitening.T
            yield slopes, bias.detach().double() - slopes @ mean


def _minimize(inputs: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, penalty: float) -> None:
    """Minimize over weight [K, D] and bias [K], in place."""
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(functional.linear(inputs, weight, bias), labels)
        value = value + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
