"""Linear probes: what of the class a linear classifier finds at each layer of a network by itself."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

GRID = 4
"""Maps are averaged to at most so many places a side."""
FEATURES = 2048
"""A coarser grid is taken where channels x places would be more than this, down to one place."""
STRENGTHS = (0.0001, 0.001, 0.01, 0.1)
"""scikit-learn's C, the inverse strength of the regularisation, among which validation chooses."""
ITERATIONS = 300


class Features(NamedTuple):
    """float32 [N, D] and int64 [N]."""

    values: np.ndarray
    labels: np.ndarray


def pooled(representation: Tensor) -> Tensor:
    """What a probe sees of a representation.

    Args:
        representation: [B, C, H, W], which is averaged over the cells of a grid of g x g places, g the
            largest of 4, 2 and 1 that is no finer than the map and keeps C g^2 <= 2048, or 1;
            [B, T, D], averaged over the T tokens; or [B, D].

    Returns:
        [B, features].
    """
    if representation.ndim == 4:
        channels, *sides = representation.shape[1:]
        fits = (g for g in (GRID, 2) if g <= min(sides) and channels * g * g <= FEATURES)
        representation = functional.adaptive_avg_pool2d(representation, next(fits, 1))
    elif representation.ndim == 3:
        representation = representation.mean(dim=1)
    return representation.flatten(1)


def probe(train: Features, validation: Features, test: Features, threads: int) -> dict[str, Any]:
    """Multinomial logistic regression on standardised features (Alain and Bengio 2016, arXiv 1610.01644).

    Features are standardised by the training images' mean and standard deviation; one without variance
    becomes 0. Of `STRENGTHS`, the one with the best validation accuracy is taken, the strongest
    regularisation on a tie; the test images are read once, for that one.

    Args:
        train: what the classifier learns from.
        validation: what chooses the regularisation.
        test: what its accuracy is reported on.
        threads: threads of the linear algebra; they decide last bits.

    Returns:
        `train_accuracy`, `val_accuracy`, `test_accuracy`, `features`, `c` (the strength taken), and
        `converged`, whether its fit did within `ITERATIONS` iterations. Accuracies are None where a
        feature isn't finite.
    """
    found: dict[str, Any] = {"features": train.values.shape[1], "c": None, "converged": None}
    found |= dict.fromkeys(("train_accuracy", "val_accuracy", "test_accuracy"))
    if not all(np.isfinite(split.values).all() for split in (train, validation, test)):
        return found
    mean = train.values.mean(axis=0, dtype=np.float64)
    std = train.values.std(axis=0, dtype=np.float64)
    # Of a constant feature rounding alone is left.
    std[std <= 1e-6 * np.abs(mean)] = np.inf
    x, x_val, x_test = (
        ((split.values - mean) / std).astype(np.float32) for split in (train, validation, test)
    )
    best, best_accuracy = None, -1.0
    with threadpool_limits(threads):
        for strength in STRENGTHS:
            classifier = LogisticRegression(C=strength, max_iter=ITERATIONS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # it is reported as a figure
                classifier.fit(x, train.labels)
            accuracy = float(classifier.score(x_val, validation.labels))
            if accuracy > best_accuracy:
                best, best_accuracy = classifier, accuracy
        assert best is not None
        return found | {
            "train_accuracy": float(best.score(x, train.labels)),
            "val_accuracy": best_accuracy,
            "test_accuracy": float(best.score(x_test, test.labels)),
            "c": float(best.C),
            "converged": bool(best.n_iter_.max() < ITERATIONS),
        }


def gather(chunks: list[Tensor], labels: Tensor) -> Features:
    """Pooled chunks and labels as scikit-learn takes them."""
    return Features(torch.cat(chunks).float().numpy(), labels.cpu().numpy())
