"""Test a transition and bound its place by simulated ladders."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats
from scipy.special import bdtr, bdtrc, gammaincinv

from stitch_sweep.analysis.ladder.candidates import PLACES, WIDTHS, Changes, place_cells
from stitch_sweep.analysis.ladder.covariance import Errors, random_residuals
from stitch_sweep.analysis.ladder.models import LEVEL, null_errors
from stitch_sweep.analysis.ladder.scale import EXPONENTS, SizeScale

SIGNIFICANCE = 0.05
"""Largest p-value at which power laws are rejected or a slope is claimed."""

_SIMULATIONS = 1999  # of the null; with 1999 of them, 0.05 is a possible p-value
_UNLIKELY = 0.001  # share of ladders whose exponent is outside of its interval
_PLACE_SIMULATIONS = 499
_FEW = 99  # simulations after which a clear case is decided
_PLAUSIBLE = 1.35  # drop of the log-likelihood at the ends of a 90 % interval
_DOUBT = 1e-3  # probability of deciding wrongly after few, at the level itself
_FIRST_LEVEL = 0.99  # level of the first, rough interval of the place
# The 0.99 quantile of chi squared with one degree of freedom: the largest drop of twice the
# log-likelihood at which a width remains plausible.
_LIKELY = float(2 * gammaincinv(0.5, 0.99))


def transition_p_value(y: np.ndarray, errors: list[Errors], random: np.random.Generator) -> float:
    """Test a transition against all power laws.

    The statistic is the log-likelihood ratio of the best transition to the best power law. It is
    simulated for the likeliest exponent and for both ends of the exponent's 99.9 % interval, and the
    largest p-value counts (Berger and Boos, Journal of the American Statistical Association 89, 1994).

    Args:
        y: values, shape (n,).
        errors: candidates for the covariance.
        random: source of the simulations.

    Returns:
        The share of simulated power laws where the ratio is at least the observed one; 1 where a power
        law fits the observed ladder better.
    """
    profile = np.max(
        [e.log_likelihood(e.residuals(e.whiten(y)[None], e.lines)[0]) for e in errors], 0
    )
    observed = float(_likelihood_ratio(y[None], errors)[0])
    if observed <= 0:
        return 1.0
    n = len(y)
    drop = n / 2 * math.log1p(float(stats.f.isf(_UNLIKELY, 1, n - 3)) / (n - 3))
    likely = np.flatnonzero(profile >= profile.max() - drop)
    likely = likely[np.argsort(np.array(EXPONENTS)[likely])]
    noise = random.standard_normal((_SIMULATIONS, n))
    p = 0.0
    for line in dict.fromkeys(map(int, (profile.argmax(), likely[0], likely[-1]))):
        null = null_errors(y, errors, line)
        z = null.whiten(y)
        basis = np.vstack([null.constant, null.lines[line]])
        simulated = null.color(random_residuals(z @ basis.T @ basis, z, basis, noise))
        first = _likelihood_ratio(simulated[:_FEW], errors)
        if not _is_decided(first, observed, SIGNIFICANCE, above=True):
            first = np.append(first, _likelihood_ratio(simulated[_FEW:], errors))
        p = max(p, _share_above(first, observed))
        if p > SIGNIFICANCE:
            break  # one power law that isn't rejected suffices
    return p


def _likelihood_ratio(y: np.ndarray, errors: list[Errors]) -> np.ndarray:
    """Compute the log-likelihood ratio of transition to power law for ladders (B, n), shape (B,)."""
    best = []
    for candidate in errors:
        z = candidate.whiten(y)
        squares = [candidate.least_residuals(z, x) for x in (candidate.lines, candidate.shapes)]
        best.append([candidate.log_likelihood(least) for least in squares])
    smooth, changing = np.max(best, axis=0)
    return changing - smooth


def place_interval(
    y: np.ndarray,
    t: np.ndarray,
    scale: SizeScale,
    changes: Changes,
    errors: list[Errors],
    width: float,
    random: np.random.Generator,
) -> tuple[float, float, list[str]]:
    """Bound the place of a transition by the places that simulations there don't reject.

    A first pass covers the whole ladder roughly. A second one covers the places that the first one
    kept, in finer cells and with more widths around the best one, at the level of the interval.

    Args:
        y: values, shape (n,).
        t: positions on the scale, shape (n,).
        scale: of the ladder.
        changes: candidates for the transition.
        errors: candidates for the covariance, made with the shapes of `changes`.
        width: the width of the logistic fit, 0 without one.
        random: source of the simulations.

    Returns:
        Lower and upper end, in units of size, and notes.
    """
    best = _cautious_errors(y, errors)
    noise = random.standard_normal((_PLACE_SIMULATIONS, len(y)))
    lowest, highest = changes.cells[0, 0], changes.cells[-1, 2]
    low, high = _accepted_range(best, y, t, changes, noise, _FIRST_LEVEL)
    margin = 1 / PLACES
    around = np.clip(width * 1.2 ** np.arange(-2, 3), WIDTHS[1], 1.0) if width else ()
    cells = place_cells(scale, t, max(low - margin, lowest), min(high + margin, highest))
    finer = Changes(cells, sorted({*WIDTHS, *around}))
    low, high = _accepted_range(best, y, t, finer, noise, LEVEL)
    notes = [
        f"The interval reaches the {extreme} sizes between which a transition can be seen: "
        f"{beyond} networks are needed to bound it."
        for extreme, beyond, reached in (
            ("smallest", "smaller", low <= lowest),
            ("largest", "larger", high >= highest),
        )
        if reached
    ]
    return scale.size_at(low), scale.size_at(high), notes


def _cautious_errors(y: np.ndarray, errors: list[Errors]) -> Errors:
    """Choose, of the plausible covariances, the one under which the best change is least certain.

    Plausible are those of a 90 % interval: a restricted log-likelihood at most 1.35 below the largest.
    The likeliest one often understates how much pairs have in common, and its intervals are too short.
    """
    likelihoods, relative_errors = [], []
    for candidate in errors:
        squares = candidate.residuals(candidate.whiten(y)[None], candidate.shapes)[0]
        k = int(squares.argmin())
        length = float(candidate.shape_lengths[k])
        likelihoods.append(candidate.restricted_likelihood(float(squares[k]), length))
        relative_errors.append(math.sqrt(squares[k]) / length)
    plausible = np.array(likelihoods) >= max(likelihoods) - _PLAUSIBLE
    return errors[int(np.where(plausible, relative_errors, 0).argmax())]


def _accepted_range(
    errors: Errors,
    y: np.ndarray,
    t: np.ndarray,
    changes: Changes,
    noise: np.ndarray,
    level: float,
) -> tuple[float, float]:
    """Return the ends of the cells whose middles are not rejected; the best cell is never rejected.

    Cells are tried from both ends, and those between the first and the last accepted one are not.
    """
    z = errors.whiten(y)
    shapes, _ = errors.direction(changes.shapes(t))
    squares = errors.residuals(z[None], shapes)[0]
    # Twice a ratio that chance exceeds once in 10,000 ladders, for one place and one width.
    hopeless = 2 * math.log(1e4) / (len(z) - 4)

    def simulate_ratios(candidate: int, there: np.ndarray, noise: np.ndarray) -> np.ndarray:
        basis = np.vstack([errors.constant, shapes[candidate]])
        simulated = random_residuals(z @ basis.T @ basis, z, basis, noise)
        anywhere = errors.least_residuals(simulated, shapes)
        return np.asarray(np.log(errors.least_residuals(simulated, shapes[there]) / anywhere))

    def is_accepted(cell: int) -> bool:
        candidates = np.flatnonzero(changes.cell == cell)
        candidates = candidates[np.argsort(squares[candidates], kind="stable")]
        least = squares[candidates[0]]
        observed = math.log(least / squares.min())
        if observed > hopeless:
            return False
        # A sharp change is located more precisely than a gradual one. Each width that may be the
        # true one must therefore reject the place, and not only the likeliest width.
        likely = candidates[len(z) * np.log(squares[candidates] / least) <= _LIKELY]
        for candidate in likely:
            ratios = simulate_ratios(candidate, candidates, noise[:_FEW])
            if _is_decided(ratios, observed, 1 - level, above=False):
                continue
            ratios = np.append(ratios, simulate_ratios(candidate, candidates, noise[_FEW:]))
            if _share_above(ratios, observed) > 1 - level:
                return True
        return False

    cells = range(len(changes.cells))
    first = next(filter(is_accepted, cells))
    last = next(filter(is_accepted, reversed(cells)))
    return float(changes.cells[first][0]), float(changes.cells[last][2])


def _is_decided(simulated: np.ndarray, observed: float, level: float, *, above: bool) -> bool:
    """Return whether few simulations already show that the p-value is above (or below) a level."""
    hits = _count_above(simulated, observed)
    tail = bdtrc(hits - 1, len(simulated), level) if above else bdtr(hits, len(simulated), level)
    return bool(tail < _DOUBT)


def _share_above(simulated: np.ndarray, observed: float) -> float:
    """Compute a p-value from simulations; the observed ratio counts too, so it is never 0."""
    return (1 + _count_above(simulated, observed)) / (1 + len(simulated))


def _count_above(simulated: np.ndarray, observed: float) -> int:
    """Count the ratios that are at least the observed one, or differ from it by rounding."""
    return int((simulated >= observed - 1e-9 * max(1.0, abs(observed))).sum())
