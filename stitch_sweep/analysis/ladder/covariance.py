"""Generalised least squares of many ladders at once, under one covariance of the errors."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import cholesky, solve_triangular

EXACT = 1e-12  # share of a sum of squares under which what is left is rounding


class Errors:
    """One covariance of the errors, up to a scale, with everything seen through its whitening.

    Args:
        covariance: shape (n, n), positive definite.
        lines: regressors of the nulls, shape (L, n).
        shapes: regressors of the transitions, shape (D, n). Every model has a constant besides.
    """

    def __init__(self, covariance: np.ndarray, lines: np.ndarray, shapes: np.ndarray) -> None:
        self.factor = cholesky(covariance, lower=True)
        self.log_determinant = 2 * float(np.log(np.diag(self.factor)).sum())
        one = self.whiten(np.ones(len(covariance)))
        self.length = float(np.linalg.norm(one))
        self.one = one / self.length
        self.lines, self.line_lengths = self.direction(lines)
        self.shapes, _ = self.direction(shapes)

    def whiten(self, y: np.ndarray) -> np.ndarray:
        """`y` of shape (..., n) with independent errors of one size."""
        return solve_triangular(self.factor, y.T, lower=True).T

    def colour(self, z: np.ndarray) -> np.ndarray:
        """The inverse of `whiten`."""
        return z @ self.factor.T

    def direction(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Regressors [D, n], whitened, without their constant part: unit vectors and lengths."""
        z = self.whiten(x)
        z = z - np.outer(z @ self.one, self.one)
        lengths = np.linalg.norm(z, axis=1)
        # A regressor that varies nowhere explains nothing.
        return z / np.where(lengths > EXACT, lengths, math.inf)[:, None], lengths

    def residuals(self, z: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Squared residuals [B, D] of whitened `z` [B, n] fitted by a constant and each direction.

        None is 0, whose logarithm would be infinite: rounding is taken for the smallest.
        """
        total = np.einsum("bn,bn->b", z, z)[:, None]
        constant = total - (z @ self.one)[:, None] ** 2
        least = np.maximum(total, 1e-300) * EXACT
        return np.maximum(constant - (z @ directions.T) ** 2, least)

    def log_likelihood(self, squares: np.ndarray) -> np.ndarray:
        """Of normal errors, their scale at its best, from squared residuals."""
        n = len(self.one)
        return -n / 2 * np.log(squares / n) - self.log_determinant / 2

    def coefficients(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Generalised least squares of `y` [n] on (1, `x`)."""
        design = np.column_stack([np.ones_like(x), x])
        return np.linalg.lstsq(self.whiten(design.T).T, self.whiten(y), rcond=None)[0]


def turned(fit: np.ndarray, z: np.ndarray, basis: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Ladders with the same fit and size of residuals as `z` [n], in directions `noise` [B, n].

    `basis` [p, n], orthonormal, spans what the model can fit.
    """
    free = noise - noise @ basis.T @ basis
    free /= np.linalg.norm(free, axis=1, keepdims=True)
    return fit + float(np.linalg.norm(z - fit)) * free
