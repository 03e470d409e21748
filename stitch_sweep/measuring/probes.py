"""Linear probes: the accuracy of a linear classifier on the representations of one layer."""

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
"""Feature maps are averaged to at most GRID x GRID positions."""
FEATURES = 2048
"""Maximum of channels x positions; wider maps use a coarser grid, down to one position."""
STRENGTHS = (0.0001, 0.001, 0.01, 0.1)
"""Candidates for scikit-learn's C, the inverse strength of the regularization."""
ITERATIONS = 300
"""Maximum number of iterations of a fit."""


class Features(NamedTuple):
    """Features, float32 [N, D], and labels, int64 [N]."""

    values: np.ndarray
    labels: np.ndarray


def pooled(representation: Tensor) -> Tensor:
    """Pool a representation to the features of a probe.

    Args:
        representation: [B, C, H, W], averaged over the cells of a g x g grid, where g is the largest of
            4, 2 and 1 that is at most H and W with C g^2 <= 2048, or else 1;
            [B, T, D], averaged over the T tokens; or [B, D].

    Returns:
        [B, features].
    """
    if representation.ndim == 4:
        channels, *sides = representation.shape[1:]
        grids = (g for g in (GRID, 2) if g <= min(sides) and channels * g * g <= FEATURES)
        representation = functional.adaptive_avg_pool2d(representation, next(grids, 1))
    elif representation.ndim == 3:
        representation = representation.mean(dim=1)
    return representation.flatten(1)


def probe(train: Features, validation: Features, test: Features, threads: int) -> dict[str, Any]:
    """Fit a multinomial logistic regression (Alain and Bengio 2016, arXiv 1610.01644).

    Features are standardized by the training images' mean and standard deviation; a feature without
    variance becomes 0. The regularization is the member of `STRENGTHS` with the best validation accuracy;
    on a tie, the strongest. The test images are read once, for the selected classifier.

    Args:
        train: features to fit.
        validation: features that select the regularization.
        test: features on which the accuracy is reported.
        threads: threads of the linear algebra; the last bits depend on them.

    Returns:
        `train_accuracy`, `val_accuracy`, `test_accuracy`, `features`, `c` (the selected strength), and
        `converged`, whether the fit converged within `ITERATIONS` iterations. Accuracies are None where
        a feature is NaN or infinite.
    """
    figures: dict[str, Any] = {"features": train.values.shape[1], "c": None, "converged": None}
    figures |= dict.fromkeys(("train_accuracy", "val_accuracy", "test_accuracy"))
    if not all(np.isfinite(split.values).all() for split in (train, validation, test)):
        return figures
    mean = train.values.mean(axis=0, dtype=np.float64)
    std = train.values.std(axis=0, dtype=np.float64)
    # The standard deviation of a constant feature is rounding error.
    std[std <= 1e-6 * np.abs(mean)] = np.inf
    x, x_val, x_test = (
        ((split.values - mean) / std).astype(np.float32) for split in (train, validation, test)
    )
    best, best_accuracy = None, -1.0
    with threadpool_limits(threads):
        for strength in STRENGTHS:
            classifier = LogisticRegression(C=strength, max_iter=ITERATIONS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
                classifier.fit(x, train.labels)
            accuracy = float(classifier.score(x_val, validation.labels))
            if accuracy > best_accuracy:
                best, best_accuracy = classifier, accuracy
        assert best is not None
        return figures | {
            "train_accuracy": float(best.score(x, train.labels)),
            "val_accuracy": best_accuracy,
            "test_accuracy": float(best.score(x_test, test.labels)),
            "c": float(best.C),
            "converged": bool(best.n_iter_.max() < ITERATIONS),
        }


def gather(chunks: list[Tensor], labels: Tensor) -> Features:
    """Join pooled chunks, and convert them and their labels for scikit-learn."""
    return Features(torch.cat(chunks).float().numpy(), labels.cpu().numpy())
