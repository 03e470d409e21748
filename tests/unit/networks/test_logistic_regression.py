"""Logistic regression of data with a known answer."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stitch_sweep.networks.logistic_regression import fit_logistic

LABELS = torch.arange(400) ** 2 % 7 % 3


def test_without_features_it_learns_how_frequent_classes_are():
    rows = torch.full((400, 7), 3.0)
    for slopes, offset in fit_logistic(rows, LABELS, 3, (0.1, 0.01), (1e-3, 1.0)):
        logits = slopes @ rows[0].double() + offset
        shares = torch.bincount(LABELS) / len(LABELS)
        torch.testing.assert_close(logits.softmax(dim=0), shares.double(), rtol=1e-3, atol=1e-4)


def test_it_minimizes_what_scikit_learn_minimizes():
    """With standardized, uncorrelated features, whitening is the identity up to a rotation."""
    random = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(400, 6, generator=random).double())
    rows = basis - basis.mean(dim=0)
    rows, _ = torch.linalg.qr(rows)
    rows = rows * 400**0.5 + torch.tensor([5.0, 0, 0, 0, -2, 0])
    penalty = 0.05
    ((slopes, offset),) = fit_logistic(rows.float(), LABELS, 3, (penalty,), (0.0,))
    model = LogisticRegression(C=1 / (penalty * len(rows)), tol=1e-8, max_iter=1000)
    model.fit((rows - rows.mean(dim=0)).numpy(), LABELS.numpy())
    expected = torch.from_numpy(model.predict_proba((rows - rows.mean(dim=0)).numpy()))
    found = (rows @ slopes.T + offset).softmax(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_the_scale_of_features_changes_nothing(scale):
    random = torch.Generator().manual_seed(1)
    rows = torch.randn(400, 4, generator=random) + LABELS[:, None]
    ((one, start),) = fit_logistic(rows, LABELS, 3, (0.01,), (1e-3,))
    ((other, shift),) = fit_logistic(rows * scale, LABELS, 3, (0.01,), (1e-3,))
    torch.testing.assert_close(other * scale, one, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(shift, start, rtol=1e-3, atol=1e-3)
