"""The phase transition: whether a ladder's order parameter changes, and between which sizes.

docs/transition.md says how often this is wrong. Models, with t the logarithm of size:

    constant  y = a
    linear    y = a + b t
    step      y = a, and from a place on b
    logistic  y = a + (b - a) / (1 + exp(-(t - place) / width))

Example:
    >>> fit_ladder(ladder_points(verdicts, networks)).statement  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, gammaincinv

from stitch_sweep.analysis.ladder.covariance import EXACT, Errors, turned
from stitch_sweep.analysis.ladder.fit import (
    LEAST_POINTS,
    LEAST_SIZES,
    TENTHS,
    LadderFit,
    LadderModel,
    named,
    statement,
)
from stitch_sweep.analysis.ladder.points import check_points, merge_shared, shared_networks
from stitch_sweep.analysis.ladder.ranks import rank_correlation
from stitch_sweep.analysis.matrix.uncertainty import Interval
from stitch_sweep.core.errors import InputError

SIGNIFICANCE = 0.05
LEVEL = 0.9

_SIMULATIONS = 1999  # of the null; makes 0.05 a possible p-value
_PLACE_SIMULATIONS = 499
_PLACES = 40
_WIDER = 0.99  # level of the first look for the place
# Of twice a log-likelihood ratio for one parameter: the 0.99 quantile of chi squared.
_LIKELY = float(2 * gammaincinv(0.5, 0.99))
# From where a tenth of a logistic change is done to where nine tenths are, as a share of the
# ladder; 0 is a step. The widest that the ladder has room for is tried at each place too.
_WIDTHS = (0.0, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8)
# Share of the variance that is between networks. Not less than a half: with few points a freer
# choice of weights fits the noise, and makes intervals too short.
_BETWEEN = (0.5, 1.0)
_SHARED = (0.0, 0.4, 0.8, 0.97)  # of that, the share that pairs of the same networks share


def fit_ladders(
    points: pd.DataFrame, *, value: str = "order", seed: int = 0
) -> dict[str, LadderFit]:
    """Fit each series (loss, stitch, ...) of a table of points: series -> fit.

    Every fit has its own chance of a false positive; with many series, some will have one.

    Raises:
        InputError: as `fit_ladder`.
    """
    series = check_points(points, value)["series"]
    return {
        str(name): fit_ladder(points.loc[(series == name).to_numpy()], value=value, seed=seed)
        for name in sorted(set(series))
    }


def fit_ladder(points: pd.DataFrame, *, value: str = "order", seed: int = 0) -> LadderFit:
    """Read one ladder: a transition and where, none, only a trend, or nothing.

    Values are fitted by generalised least squares. The errors' covariance is, up to a scale,

        h (1 - r) I + h r U U^T + (1 - h) diag(s^2) / mean(s^2)

    with s the points' own errors (half their intervals; the median where one is missing) and U the
    networks that each pair uses. h (1/2 or 1) and r (0 to 0.97; 0 where no network is shared)
    maximise the likelihood.

    A transition is claimed when step or logistic fit better than a straight line, and better than
    they do on 95 % of ladders that are one: the line's residuals, turned in a random direction,
    are added to the line (which keeps everything the line can learn from a ladder: its
    coefficients and the size of its residuals; Engen and Lillegard, Biometrika 84, 1997). With
    independent normal errors of known relative size the test is exact. Both the line in log size
    and the line in size itself must be rejected, since either bends in the other's eyes. Of step
    and logistic the smaller BIC is taken. The place's interval holds the places that the likelihood
    ratio, compared with simulations of a transition at that place, doesn't reject, whatever the
    width (the grid bootstrap; Hansen, Review of Economics and Statistics 81, 1999).

    Args:
        points: a row per matrix, as `ladder_points` returns it; `size` and `value` are needed,
            `sender`, `receiver`, `measure`, `series` and intervals used where they are there.
        value: "order", "diagonal" or "triangle".
        seed: of the simulations.

    Returns:
        The fit; its `statement` is a sentence or two for a report.

    Raises:
        InputError: a wrong table, or points of more than one series.

    Example:
        >>> sizes = [4, 5, 6, 7, 8, 10, 12, 16] * 2
        >>> points = pd.DataFrame({"size": sizes, "order": [float(s < 7) for s in sizes]})
        >>> fit_ladder(points).selected
        'step'
    """
    table = check_points(points, value)
    series = sorted(set(table["series"]))
    if len(series) > 1:
        listed = ", ".join(map(repr, series))
        raise InputError(
            f"the points are of {len(series)} series ({listed}); fit_ladders fits each"
        )
    measure = str(table["measure"].iloc[0]) if len(table) else "size"
    usable = table["size"].notna() & table["y"].notna()
    undefined = [
        named(sender, receiver, size, measure)
        for sender, receiver, size in table.loc[~usable, ["sender", "receiver", "size"]].itertuples(
            index=False, name=None
        )
    ]
    # In one order, so that simulations don't depend on how the table is sorted.
    used = table[usable].sort_values(
        ["size", "y", "error", "sender", "receiver"], ignore_index=True
    )
    return _Reading(used, value, measure, undefined, seed).fit()


class _Changes:
    """Candidates of a transition: at the middles of some cells of places, over some widths.

    Only those whose middle 80 % lie within the ladder.

    Args:
        cells: low end, middle, high end of each, shape (C, 3), as shares of the ladder.
        widths: of the middle 80 % of a change, as shares of the ladder.
    """

    def __init__(self, cells: np.ndarray, widths: Collection[float]) -> None:
        self.cells = cells
        found: list[tuple[int, float, float]] = []
        for k, middle in enumerate(cells[:, 1]):
            room = 2 * min(middle, 1 - middle)
            found += [(k, middle, width) for width in widths if width < room]
            if room > _WIDTHS[1]:
                found.append((k, middle, room))
        table = np.array(found).reshape(-1, 3)
        self.cell, self.middles, self.widths = table[:, 0].astype(int), table[:, 1], table[:, 2]

    def shapes(self, t: np.ndarray) -> np.ndarray:
        """How much of each change is done at `t` [n]: shape (D, n)."""
        return _share(t, self.middles[:, None], self.widths[:, None])


class _Reading:
    """The fit of one ladder, step by step."""

    def __init__(
        self, used: pd.DataFrame, value: str, measure: str, undefined: list[str], seed: int
    ) -> None:
        self.used = used
        self.value, self.measure, self.undefined = value, measure, undefined
        self.random = np.random.default_rng(np.random.SeedSequence([seed, len(used)]))
        self.y = used["y"].to_numpy()
        self.sizes = np.unique(used["size"].to_numpy())
        networks = len(set(used["sender"]) | set(used["receiver"]))
        self.independent = min(len(used), networks)

    @cached_property
    def span(self) -> float:
        """Logarithm of the ratio of the largest size to the smallest."""
        return float(np.log(self.sizes[-1] / self.sizes[0]))

    def relative(self, sizes: np.ndarray) -> np.ndarray:
        """Where sizes stand on the ladder: 0 the smallest, 1 the largest, by logarithm."""
        return np.log(sizes / self.sizes[0]) / self.span

    def lines(self, sizes: np.ndarray) -> np.ndarray:
        """Regressors [2, n] of the straight lines: in the logarithm of size, and in size itself."""
        return np.stack([self.relative(sizes), (sizes / self.sizes[0] - 1)])

    def size_at(self, t: float) -> float:
        """The inverse of `relative`."""
        return float(self.sizes[0] * math.exp(t * self.span))

    # Candidates: what a transition may look like, and how errors may be distributed.

    def cells(self, lowest: float, highest: float) -> np.ndarray:
        """Cells of places [C, 3] from `lowest` to `highest`: low end, middle, high end.

        Each is within one gap between sizes that has at least two points on either side.
        """
        t = self.relative(self.used["size"].to_numpy())
        rungs = self.relative(self.sizes)
        length = (highest - lowest) / _PLACES
        cells: list[tuple[float, float, float]] = []
        for low, high in pairwise(rungs):
            if min((t <= low).sum(), (t >= high).sum()) < 2:
                continue
            low, high = max(low, lowest), min(high, highest)
            if low < high:
                edges = np.linspace(low, high, max(2, round((high - low) / length)) + 1)
                cells += zip(edges[:-1], (edges[:-1] + edges[1:]) / 2, edges[1:], strict=True)
        return np.array(cells).reshape(-1, 3)

    @cached_property
    def changes(self) -> _Changes:
        """Candidates all over the ladder."""
        return _Changes(self.cells(0.0, 1.0), _WIDTHS)

    def errors(self, used: pd.DataFrame, shapes: np.ndarray) -> list[Errors]:
        """Candidates for the errors' covariance."""
        n = len(used)
        own = used["error"].fillna(used["error"].median()).fillna(1.0).to_numpy() ** 2
        between = (1.0,) if np.ptp(own) <= EXACT * own.max() else _BETWEEN
        own = own / own.mean() if own.any() else np.ones(n)
        common = shared_networks(used) if "sender" in used else np.eye(n)
        shared = _SHARED if np.any(common - np.diag(np.diag(common)) > 0) else (0.0,)
        lines = self.lines(used["size"].to_numpy())
        return [
            Errors(h * ((1 - r) * np.eye(n) + r * common) + (1 - h) * np.diag(own), lines, shapes)
            for h in between
            for r in shared
        ]

    # The answer.

    def fit(self) -> LadderFit:
        n, rungs = len(self.y), len(self.sizes)
        if n < 3 or rungs < 2:
            return self._answer("undefined")
        if self.independent < LEAST_POINTS or rungs < LEAST_SIZES:
            return self._trend()
        return self._choice()

    def _null(self, y: np.ndarray, errors: list[Errors], line: int) -> Errors:
        """The covariance of the largest restricted likelihood around one of the lines."""

        def restricted(of: Errors) -> float:
            squares = of.residuals(of.whiten(y)[None], of.lines[[line]]).item()
            design = of.length * of.line_lengths[line]
            return float(
                -(len(y) - 2) / 2 * math.log(squares) - of.log_determinant / 2 - math.log(design)
            )

        return max(errors, key=restricted)

    def _line(self, used: pd.DataFrame, errors: list[Errors]) -> tuple[Errors, dict[str, Any]]:
        """The line in log size, and what is said of its slope."""
        from scipy import stats  # takes half a second, and every sweep imports this package

        y, n = used["y"].to_numpy(), len(used)
        best = self._null(y, errors, 0)
        per_span = float(best.coefficients(y, self.relative(used["size"].to_numpy()))[1])
        doublings = self.span / math.log(2)
        found: dict[str, Any] = {"per_doubling": per_span / doublings}
        if n > 2:
            squares = best.residuals(best.whiten(y)[None], best.lines[:1]).item()
            error = math.sqrt(squares / (n - 2)) / float(best.line_lengths[0])
            reach = float(stats.t.ppf((1 + LEVEL) / 2, n - 2)) * error
            found["slope"] = Interval(
                (per_span - reach) / doublings, (per_span + reach) / doublings, LEVEL, "t"
            )
            found["slope_p_value"] = float(2 * stats.t.sf(abs(per_span) / error, n - 2))
        return best, found

    def _trend(self) -> LadderFit:
        merged = merge_shared(self.used)
        no_shapes = np.zeros((0, len(merged)))
        best, found = self._line(merged, self.errors(merged, no_shapes))
        y, sizes = merged["y"].to_numpy(), merged["size"].to_numpy()
        tau, p = rank_correlation(sizes, y)
        if len(merged) < len(self.used):
            found["notes"] = [
                f"{len(self.used)} points were averaged to {len(merged)}: pairs of one size that "
                "share networks are not independent."
            ]
        elif np.any(np.triu(shared_networks(self.used), 1) > 0):
            found["notes"] = [
                "Pairs of different sizes share networks, so the points are not independent and "
                "the intervals and p-values are too small."
            ]
        line = best.coefficients(y, self.relative(sizes))
        z = best.whiten(y)
        middle = float(best.one @ z) / best.length
        nothing = np.zeros((1, len(z)))
        constant, linear = (best.residuals(z[None], x) for x in (nothing, best.lines[:1]))
        models = [
            self._model("constant", {"value": middle}, best.log_likelihood(constant)),
            self._model(
                "linear",
                {"at_smallest": float(line[0]), "per_doubling": found["per_doubling"]},
                best.log_likelihood(linear),
            ),
        ]
        return self._answer("trend", models, rank_correlation=tau, rank_p_value=p, **found)

    def _choice(self) -> LadderFit:
        t = self.relative(self.used["size"].to_numpy())
        errors = self.errors(self.used, self.changes.shapes(t))
        _, found = self._line(self.used, errors)
        models = self._models(t, errors)
        changing = [models[name] for name in ("step", "logistic") if name in models]
        shape = min(changing, key=lambda model: model.bic)
        if np.ptp(self.y) <= EXACT * np.abs(self.y).max():
            # All values are one number, and what is left after any fit is rounding.
            return self._answer(
                "no transition", models.values(), selected="constant", p_value=1.0, **found
            )
        p = max(self._p_value(errors, line) for line in (0, 1))
        found["p_value"] = p
        if p > SIGNIFICANCE:
            name = "linear" if found["slope_p_value"] <= SIGNIFICANCE else "constant"
            return self._answer("no transition", models.values(), selected=name, **found)
        place = shape.parameters["place"]
        ratio = models["logistic"].parameters["ratio"] if "logistic" in models else 1.0
        low, high, notes = self._interval(errors, math.log(ratio) / self.span)
        return self._answer(
            "transition",
            models.values(),
            selected=shape.name,
            place=place,
            transition=Interval(min(low, place), max(high, place), LEVEL, "grid bootstrap"),
            notes=notes,
            **found,
        )

    def _models(self, t: np.ndarray, errors: list[Errors]) -> dict[str, LadderModel]:
        """Each model at its best over places, widths and covariances of the errors."""
        nothing = np.zeros((1, len(t)))

        def best(directions: list[np.ndarray]) -> tuple[Errors, int, float]:
            likelihoods = [
                of.log_likelihood(of.residuals(of.whiten(self.y)[None], x)[0])
                for of, x in zip(errors, directions, strict=True)
            ]
            k = int(np.argmax([found.max() for found in likelihoods]))
            return errors[k], int(likelihoods[k].argmax()), float(likelihoods[k].max())

        steps = self.changes.widths == 0
        of, _, likelihood = best([nothing for _ in errors])
        middle = float(of.one @ of.whiten(self.y)) / of.length
        models = [self._model("constant", {"value": middle}, likelihood)]

        of, _, likelihood = best([of.lines[:1] for of in errors])
        start, slope = of.coefficients(self.y, t)
        per_doubling = float(slope) * math.log(2) / self.span
        line = {"at_smallest": float(start), "per_doubling": per_doubling}
        models.append(self._model("linear", line, likelihood))

        of, k, likelihood = best([of.shapes[steps] for of in errors])
        inside = self.changes.middles[steps][k]
        rungs = self.relative(self.sizes)
        above = int(np.searchsorted(rungs, inside))
        # Any place between two sizes fits equally well: the middle stands for them.
        place = float(rungs[above - 1] + rungs[above]) / 2
        before, jump = of.coefficients(self.y, (t > place).astype("float64"))
        parameters = {
            "before": float(before),
            "after": float(before + jump),
            "place": self.size_at(place),
        }
        models.append(self._model("step", parameters, likelihood))

        # Where all but one point stand together at one end, no gradual change fits in between.
        if not steps.all():
            of, k, likelihood = best([of.shapes[~steps] for of in errors])
            middle = float(self.changes.middles[~steps][k])
            width = float(self.changes.widths[~steps][k])
            middle, width, likelihood = self._refined(of, t, middle, width, likelihood)
            before, jump = of.coefficients(self.y, _share(t, middle, width))
            parameters = {
                "before": float(before),
                "after": float(before + jump),
                "place": self.size_at(middle),
                "ratio": math.exp(width * self.span),
            }
            models.append(self._model("logistic", parameters, likelihood))
        return {model.name: model for model in models}

    def _refined(
        self, of: Errors, t: np.ndarray, middle: float, width: float, likelihood: float
    ) -> tuple[float, float, float]:
        """Place and width of a logistic change, from the best of the grid to the best there is."""
        z = of.whiten(self.y)[None]
        lowest, highest = self.changes.cells[0, 0], self.changes.cells[-1, 2]

        def unpacked(free: np.ndarray) -> tuple[float, float]:
            # The width, and the place within what it leaves: all of the change is in the ladder.
            width = float(free[0])
            low, high = max(width / 2, lowest), min(1 - width / 2, highest)
            return low + float(free[1]) * (high - low), width

        def misfit(free: np.ndarray) -> float:
            change = of.direction(_share(t, *unpacked(free))[None])[0]
            return -float(of.log_likelihood(of.residuals(z, change)).item())

        low, high = max(width / 2, lowest), min(1 - width / 2, highest)
        inside = (middle - low) / (high - low) if high > low else 0.5
        bounds = [(_WIDTHS[1], 1.0), (0.0, 1.0)]
        start = np.clip([width, inside], 0, 1)
        found = minimize(misfit, start, method="Nelder-Mead", bounds=bounds)
        if -found.fun <= likelihood:
            return middle, width, likelihood
        return (*unpacked(found.x), -float(found.fun))

    def _p_value(self, errors: list[Errors], line: int) -> float:
        """How often points around a straight line look as much like a transition as these do."""

        def ratio(y: np.ndarray) -> np.ndarray:
            best = []
            for of in errors:
                z = of.whiten(y)
                squares = [of.residuals(z, x).min(axis=1) for x in (of.lines[[line]], of.shapes)]
                best.append([of.log_likelihood(found) for found in squares])
            straight, changing = np.max(best, axis=0)
            return changing - straight

        observed = float(ratio(self.y[None])[0])
        if observed <= 0:
            return 1.0  # the line fits better
        null = self._null(self.y, errors, line)
        z = null.whiten(self.y)
        basis = np.vstack([null.one, null.lines[line]])
        noise = self.random.standard_normal((_SIMULATIONS, len(z)))
        simulated = null.colour(turned(z @ basis.T @ basis, z, basis, noise))
        return _share_above(ratio(simulated), observed)

    def _interval(self, errors: list[Errors], width: float) -> tuple[float, float, list[str]]:
        """The places that simulations of a transition there don't reject, in units of size.

        First all over the ladder, roughly, so that the level of the second look is that of both;
        then closer, with widths around the best one.
        """
        of = max(
            errors,
            key=lambda e: e.log_likelihood(e.residuals(e.whiten(self.y)[None], e.shapes).min()),
        )
        noise = self.random.standard_normal((_PLACE_SIMULATIONS, len(self.y)))
        cells = self.changes.cells
        lowest, highest = cells[0, 0], cells[-1, 2]
        low, high = self._kept(of, self.changes, noise, _WIDER)
        margin = 1 / _PLACES
        around = np.clip(width * 1.12 ** np.arange(-4, 5), _WIDTHS[1], 1.0) if width else ()
        closer = self.cells(max(low - margin, lowest), min(high + margin, highest))
        low, high = self._kept(of, _Changes(closer, sorted({*_WIDTHS, *around})), noise, LEVEL)
        notes = [
            f"The interval reaches the {which}est sizes between which a transition can be seen: "
            f"{which}er networks are needed to bound it."
            for which, reached in (("small", low <= lowest), ("larg", high >= highest))
            if reached
        ]
        return self.size_at(low), self.size_at(high), notes

    def _kept(
        self, of: Errors, changes: _Changes, noise: np.ndarray, level: float
    ) -> tuple[float, float]:
        """Ends of the cells whose middles are not rejected; the best one never is."""
        z = of.whiten(self.y)
        shapes, _ = of.direction(changes.shapes(self.relative(self.used["size"].to_numpy())))
        squares = of.residuals(z[None], shapes)[0]
        kept = []
        for k, cell in enumerate(changes.cells):
            here = np.flatnonzero(changes.cell == k)
            least = squares[here].min()
            observed = math.log(least / squares.min())
            # A sharp change is found more exactly than a gradual one, so each width that may be
            # the true one has to reject the place, and not only the likeliest.
            for likely in here[len(z) * np.log(squares[here] / least) <= _LIKELY]:
                basis = np.vstack([of.one, shapes[likely]])
                found = of.residuals(turned(z @ basis.T @ basis, z, basis, noise), shapes)
                ratios = np.log(found[:, here].min(axis=1) / found.min(axis=1))
                if _share_above(ratios, observed) > 1 - level:
                    kept.append(cell)
                    break
        return float(kept[0][0]), float(kept[-1][2])

    def _model(self, name: str, parameters: dict[str, float], likelihood: Any) -> LadderModel:
        likelihood = float(np.squeeze(likelihood))
        free = len(parameters) + 1  # and the scale of the errors
        return LadderModel(
            name=name,
            parameters=parameters,
            log_likelihood=likelihood,
            bic=free * math.log(len(self.y)) - 2 * likelihood,
            smallest=float(self.sizes[0]),
        )

    def _answer(self, status: str, models: Iterable[LadderModel] = (), **found: Any) -> LadderFit:
        answer: dict[str, Any] = {
            "value": self.value,
            "measure": self.measure,
            "status": status,
            "models": {model.name: model for model in models},
            "selected": None,
            "points": len(self.y),
            "independent": self.independent,
            "sizes": len(self.sizes),
            "smallest": float(self.sizes[0]) if len(self.sizes) else math.nan,
            "largest": float(self.sizes[-1]) if len(self.sizes) else math.nan,
            "p_value": None,
            "place": math.nan,
            "transition": None,
            "per_doubling": math.nan,
            "slope": None,
            "slope_p_value": None,
            "rank_correlation": None,
            "rank_p_value": None,
            "undefined": self.undefined,
            "notes": [],
            **found,
        }
        return LadderFit(**answer, statement=statement(answer))


def _share(t: np.ndarray, middle: Any, width: Any) -> np.ndarray:
    """How much of the change is done at `t`: a step where `width` is 0, else logistic."""
    t, middle, width = np.broadcast_arrays(t, middle, width)
    sharp = width == 0
    slope = TENTHS / np.where(sharp, 1.0, width)
    return np.where(sharp, (t > middle).astype("float64"), expit((t - middle) * slope))


def _share_above(simulated: np.ndarray, observed: float) -> float:
    """A p-value of simulations; the observed one is among them, so it is never 0."""
    # Ratios that differ by rounding alone are equal.
    above = simulated >= observed - 1e-9 * max(1.0, abs(observed))
    return (1 + int(above.sum())) / (1 + len(simulated))
