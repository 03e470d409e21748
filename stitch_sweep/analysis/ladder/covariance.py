"""Generalized least squares of many ladders at once, with one covariance of the errors."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import cholesky, solve_triangular

EXACT = 1e-12
"""Share of a sum of squares below which a remainder is a rounding error."""


class Errors:
    """One covariance of the errors, up to a scale, and the regressors whitened by it.

    Args:
        covariance: shape (n, n), positive definite.
        lines: regressors of the nulls, shape (L, n).
        shapes: regressors of the transitions, shape (D, n). Every model has a constant too.

    Attributes:
        factor: lower Cholesky factor of the covariance.
        log_determinant: of the covariance.
        constant: the whitened constant as a unit vector, shape (n,); `constant_length` is its length.
        lines: whitened directions of the lines, shape (L, n); `line_lengths` are their lengths.
        shapes: whitened directions of the transitions, shape (D, n); `shape_lengths` are their lengths.
    """

    def __init__(self, covariance: np.ndarray, lines: np.ndarray, shapes: np.ndarray) -> None:
        self.factor = cholesky(covariance, lower=True)
        self.log_determinant = 2 * float(np.log(np.diag(self.factor)).sum())
        constant = self.whiten(np.ones(len(covariance)))
        self.constant_length = float(np.linalg.norm(constant))
        self.constant = constant / self.constant_length
        self.lines, self.line_lengths = self.direction(lines)
        self.shapes, self.shape_lengths = self.direction(shapes)

    def whiten(self, y: np.ndarray) -> np.ndarray:
        """Transform `y` (..., n) to independent errors of equal variance."""
        return solve_triangular(self.factor, y.T, lower=True).T

    def color(self, z: np.ndarray) -> np.ndarray:
        """Invert `whiten`."""
        return z @ self.factor.T

    def direction(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whiten regressors (D, n) and remove their constant part: unit vectors and lengths."""
        z = self.whiten(x)
        z = z - np.outer(z @ self.constant, self.constant)
        lengths = np.linalg.norm(z, axis=1)
        # A regressor that varies nowhere explains nothing.
        return z / np.where(lengths > EXACT, lengths, math.inf)[:, None], lengths

    def residuals(self, z: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Compute squared residuals (B, D) of whitened `z` (B, n) from a constant and each direction.

        Residuals are at least as large as rounding errors, because the logarithm of 0 is infinite.
        """
        total = np.einsum("bn,bn->b", z, z)[:, None]
        constant = total - (z @ self.constant)[:, None] ** 2
        least = np.maximum(total, 1e-300) * EXACT
        return np.maximum(constant - (z @ directions.T) ** 2, least)

    def least_residuals(self, z: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Compute the least of `residuals` over directions (D, n), shape (B,)."""
        projections = z @ directions.T
        explained = np.maximum(projections.max(axis=1), -projections.min(axis=1)) ** 2
        total = np.einsum("bn,bn->b", z, z)
        rest = total - (z @ self.constant) ** 2 - explained
        return np.maximum(rest, np.maximum(total, 1e-300) * EXACT)

    def log_likelihood(self, squares: np.ndarray) -> np.ndarray:
        """Compute the log-likelihood from squared residuals, maximized over the errors' scale."""
        n = len(self.constant)
        return -n / 2 * np.log(squares / n) - self.log_determinant / 2

    def restricted_likelihood(self, squares: float, length: float) -> float:
        """Compute the restricted log-likelihood of a constant and one direction.

        Args:
            squares: squared residuals.
            length: of the whitened direction.
        """
        n = len(self.constant)
        return float(
            -(n - 2) / 2 * math.log(squares)
            - self.log_determinant / 2
            - math.log(self.constant_length * length)
        )

    def coefficients(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Fit `y` (n,) on (1, `x`) by generalized least squares."""
        design = np.column_stack([np.ones_like(x), x])
        return np.linalg.lstsq(self.whiten(design.T).T, self.whiten(y), rcond=None)[0]


def random_residuals(
    fit: np.ndarray, z: np.ndarray, basis: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Simulate ladders with the same fit and size of residuals as `z`, and random residuals.

    Args:
        fit: the fitted values, shape (n,).
        z: the whitened values, shape (n,).
        basis: orthonormal, shape (p, n); spans the values that the model can fit.
        noise: directions of the residuals, shape (B, n).
    """
    free = noise - noise @ basis.T @ basis
    free /= np.linalg.norm(free, axis=1, keepdims=True)
    return fit + float(np.linalg.norm(z - fit)) * free
