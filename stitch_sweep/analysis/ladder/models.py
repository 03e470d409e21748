"""Fit the models of a ladder: constant, line, power law, step and logistic change."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import minimize, minimize_scalar

from stitch_sweep.analysis.ladder.candidates import WIDTHS, Changes, completed_share
from stitch_sweep.analysis.ladder.covariance import Errors
from stitch_sweep.analysis.ladder.fit import LadderModel
from stitch_sweep.analysis.ladder.scale import EXPONENT_STEP, EXPONENTS, SizeScale
from stitch_sweep.analysis.matrix.uncertainty import Interval

LEVEL = 0.9
"""Level of the intervals of slope and place."""


def make_model(
    name: str, parameters: dict[str, float], likelihood: Any, *, points: int, smallest: float
) -> LadderModel:
    """Make a fitted model with its BIC.

    Args:
        name: "constant", "linear", "power", "step" or "logistic".
        parameters: as in `LadderModel`.
        likelihood: the log-likelihood, a number or an array with a single entry.
        points: the number of points of the ladder.
        smallest: the smallest size.
    """
    likelihood = float(np.squeeze(likelihood))
    free = len(parameters) + 1  # and the scale of the errors
    return LadderModel(
        name=name,
        parameters=parameters,
        log_likelihood=likelihood,
        bic=free * math.log(points) - 2 * likelihood,
        smallest=smallest,
    )


def null_errors(y: np.ndarray, errors: list[Errors], line: int) -> Errors:
    """Choose the covariance with the largest restricted likelihood around one of the lines.

    Args:
        y: values, shape (n,).
        errors: candidates.
        line: index of the line in `Errors.lines`.
    """

    def restricted_likelihood(candidate: Errors) -> float:
        squares = candidate.residuals(candidate.whiten(y)[None], candidate.lines[[line]]).item()
        return candidate.restricted_likelihood(squares, float(candidate.line_lengths[line]))

    return max(errors, key=restricted_likelihood)


def fit_line(
    scale: SizeScale, points: pd.DataFrame, errors: list[Errors]
) -> tuple[Errors, dict[str, Any]]:
    """Fit the line in log size.

    Args:
        scale: of the ladder.
        points: n rows with `size` and `y`.
        errors: candidates for the covariance.

    Returns:
        The chosen covariance, and the attributes of `LadderFit` that describe the slope.
    """
    y, n = points["y"].to_numpy(), len(points)
    best = null_errors(y, errors, 0)
    per_span = float(best.coefficients(y, scale.relative(points["size"].to_numpy()))[1])
    doublings = scale.span / math.log(2)
    slope: dict[str, Any] = {"per_doubling": per_span / doublings}
    if n > 2:
        squares = best.residuals(best.whiten(y)[None], best.lines[:1]).item()
        error = math.sqrt(squares / (n - 2)) / float(best.line_lengths[0])
        margin = float(stats.t.ppf((1 + LEVEL) / 2, n - 2)) * error
        slope["slope"] = Interval(
            (per_span - margin) / doublings, (per_span + margin) / doublings, LEVEL, "t"
        )
        slope["slope_p_value"] = float(2 * stats.t.sf(abs(per_span) / error, n - 2))
    return best, slope


def fit_models(
    y: np.ndarray, t: np.ndarray, scale: SizeScale, changes: Changes, errors: list[Errors]
) -> dict[str, LadderModel]:
    """Fit each model by maximum likelihood over places, widths and covariances of the errors.

    Args:
        y: values, shape (n,).
        t: positions on the scale, shape (n,).
        scale: of the ladder.
        changes: candidates for the transition.
        errors: candidates for the covariance, made with the shapes of `changes`.

    Returns:
        Models by name; without "logistic" where no gradual change fits within the ladder.
    """
    nothing = np.zeros((1, len(t)))
    models: dict[str, LadderModel] = {}

    def best_fit(directions: list[np.ndarray]) -> tuple[Errors, int, float]:
        likelihoods = [
            candidate.log_likelihood(candidate.residuals(candidate.whiten(y)[None], x)[0])
            for candidate, x in zip(errors, directions, strict=True)
        ]
        k = int(np.argmax([likelihood.max() for likelihood in likelihoods]))
        return errors[k], int(likelihoods[k].argmax()), float(likelihoods[k].max())

    def add(name: str, parameters: dict[str, float], likelihood: float) -> None:
        models[name] = make_model(
            name, parameters, likelihood, points=len(y), smallest=scale.smallest
        )

    steps = changes.widths == 0
    best, _, likelihood = best_fit([nothing for _ in errors])
    add(
        "constant",
        {"value": float(best.constant @ best.whiten(y)) / best.constant_length},
        likelihood,
    )

    best, _, likelihood = best_fit([candidate.lines[:1] for candidate in errors])
    start, slope = best.coefficients(y, t)
    per_doubling = float(slope) * math.log(2) / scale.span
    add("linear", {"at_smallest": float(start), "per_doubling": per_doubling}, likelihood)

    best, k, likelihood = best_fit([candidate.lines[1:] for candidate in errors])
    exponent, likelihood = _refine_exponent(best, y, t * scale.span, EXPONENTS[1 + k], likelihood)
    offset, factor = best.coefficients(y, np.exp(exponent * t * scale.span))
    parameters = {"offset": float(offset), "factor": float(factor), "exponent": exponent}
    add("power", parameters, likelihood)

    best, k, likelihood = best_fit([candidate.shapes[steps] for candidate in errors])
    rungs = scale.rungs
    above = int(np.searchsorted(rungs, changes.middles[steps][k]))
    # Any place between two sizes fits equally well: the middle stands for them.
    place = float(rungs[above - 1] + rungs[above]) / 2
    before, jump = best.coefficients(y, (t > place).astype("float64"))
    parameters = {
        "before": float(before),
        "after": float(before + jump),
        "place": scale.size_at(place),
    }
    add("step", parameters, likelihood)

    # If all points but one have the size at one end, no gradual change fits in between.
    if not steps.all():
        best, k, likelihood = best_fit([candidate.shapes[~steps] for candidate in errors])
        middle = float(changes.middles[~steps][k])
        width = float(changes.widths[~steps][k])
        middle, width, likelihood = _refine(best, y, t, changes, middle, width, likelihood)
        before, jump = best.coefficients(y, completed_share(t, middle, width))
        parameters = {
            "before": float(before),
            "after": float(before + jump),
            "place": scale.size_at(middle),
            "ratio": math.exp(width * scale.span),
        }
        add("logistic", parameters, likelihood)
    return models


def _refine_exponent(
    errors: Errors, y: np.ndarray, log_ratios: np.ndarray, exponent: float, likelihood: float
) -> tuple[float, float]:
    """Optimize the exponent of a power law within a step of `EXPONENTS`, and its log-likelihood."""
    z = errors.whiten(y)[None]

    def misfit(exponent: float) -> float:
        power = errors.direction(np.exp(exponent * log_ratios)[None])[0]
        return -float(errors.log_likelihood(errors.residuals(z, power)).item())

    bounds = (exponent - EXPONENT_STEP, exponent + EXPONENT_STEP)
    optimum = minimize_scalar(misfit, bounds=bounds, method="bounded")
    if -optimum.fun <= likelihood:
        return exponent, likelihood
    return float(optimum.x), -float(optimum.fun)


def _refine(
    errors: Errors,
    y: np.ndarray,
    t: np.ndarray,
    changes: Changes,
    middle: float,
    width: float,
    likelihood: float,
) -> tuple[float, float, float]:
    """Optimize place and width of a logistic change, starting from the best candidate."""
    z = errors.whiten(y)[None]
    lowest, highest = changes.cells[0, 0], changes.cells[-1, 2]

    def unpack(free: np.ndarray) -> tuple[float, float]:
        # The width, and the place as a share of the places at which the change is within the ladder.
        width = float(free[0])
        low, high = max(width / 2, lowest), min(1 - width / 2, highest)
        return low + float(free[1]) * (high - low), width

    def misfit(free: np.ndarray) -> float:
        change = errors.direction(completed_share(t, *unpack(free))[None])[0]
        return -float(errors.log_likelihood(errors.residuals(z, change)).item())

    low, high = max(width / 2, lowest), min(1 - width / 2, highest)
    inside = (middle - low) / (high - low) if high > low else 0.5
    bounds = [(WIDTHS[1], 1.0), (0.0, 1.0)]
    start = np.clip([width, inside], 0, 1)
    optimum = minimize(misfit, start, method="Nelder-Mead", bounds=bounds)
    if -optimum.fun <= likelihood:
        return middle, width, likelihood
    return (*unpack(optimum.x), -float(optimum.fun))
