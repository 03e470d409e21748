"""The phase transition: whether a ladder's order parameter changes, and between which sizes.

`docs/evidence/transition.md` reports the error rates. Models, with t the logarithm of size:

    constant  y = a
    linear    y = a + b t
    power     y = a + b size^c
    step      y = a below a place, b above it
    logistic  y = a + (b - a) / (1 + exp(-(t - place) / width))

Example:
    >>> fit_ladder(ladder_points(verdicts, networks)).statement  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from stitch_sweep.analysis.ladder.candidates import (
    WIDTHS,
    Changes,
    error_candidates,
    place_cells,
)
from stitch_sweep.analysis.ladder.covariance import EXACT, Errors
from stitch_sweep.analysis.ladder.fit import LEAST_POINTS, LEAST_SIZES, LadderFit, LadderModel
from stitch_sweep.analysis.ladder.goodness import goodness_of_fit, monotone_lack_of_fit
from stitch_sweep.analysis.ladder.models import LEVEL, fit_line, fit_models, make_model
from stitch_sweep.analysis.ladder.points import check_points, merge_shared, shared_networks
from stitch_sweep.analysis.ladder.ranks import rank_correlation
from stitch_sweep.analysis.ladder.scale import SizeScale
from stitch_sweep.analysis.ladder.simulation import (
    SIGNIFICANCE,
    place_interval,
    transition_p_value,
)
from stitch_sweep.analysis.ladder.statement import point_name, statement
from stitch_sweep.analysis.matrix.uncertainty import Interval
from stitch_sweep.core.errors import InputError

LACK = 0.01
"""Largest p-value at which a model's lack of fit is claimed."""


def fit_ladders(
    points: pd.DataFrame, *, value: str = "order", seed: int = 0
) -> dict[str, LadderFit]:
    """Fit each series (loss, stitch, ...) of a table of points: series -> fit.

    Each fit has its own probability of a false positive; with many series, expect some.

    Raises:
        InputError: as `fit_ladder`.
    """
    series = check_points(points, value)["series"]
    return {
        str(name): fit_ladder(points.loc[(series == name).to_numpy()], value=value, seed=seed)
        for name in sorted(set(series))
    }


def fit_ladder(points: pd.DataFrame, *, value: str = "order", seed: int = 0) -> LadderFit:
    """Fit one ladder: find a transition and its place, no transition, a trend only, or nothing.

    Values are fitted by generalized least squares. The errors' covariance is, up to a scale,

        h (1 - r) I + h r U U^T + (1 - h) diag(s^2) / mean(s^2)

    with s the points' own errors (half their intervals; the median where one is missing) and U the
    networks that each pair uses. h (1/2 or 1) and r (0 to 0.97; 0 where no network is shared)
    maximize the likelihood.

    A transition is claimed when step or logistic fit better than any power law a + b size^c, and by more
    than they do on 95 % of ladders that follow a power law. The logarithm stands for c = 0. To simulate
    power laws, the residuals of the fit are turned into a random direction and added to it. This keeps
    the sufficient statistics: the coefficients and the size of the residuals (Engen and Lillegard,
    Biometrika 84, 1997). With independent normal errors of known relative size the simulation of each
    exponent is exact; `transition_p_value` says which exponents are simulated.

    The claim also needs a curve that fits: neither the F test of lack of fit (where sizes repeat) nor a
    test for a pattern in the residuals may reject it, see `goodness_of_fit`. Values that rise and
    fall are therefore no transition. Step or logistic is selected, in the order of their BIC, as the
    first that fits. Without a transition this is, in the same way, the constant if the slope isn't
    significant, then line and power law. If none fits, the status is "no model fits".

    The interval of the place contains the places that the likelihood ratio, compared with simulations
    of a transition there, does not reject for every width (the grid bootstrap; Hansen, Review of
    Economics and Statistics 81, 1999).

    Args:
        points: a row per matrix, as `ladder_points` returns it; `size` and `value` are required,
            `sender`, `receiver`, `measure`, `series` and intervals are used where present.
        value: "order", "diagonal" or "triangle".
        seed: of the simulations.

    Returns:
        The fit; its `statement` is a sentence or two for a report.

    Raises:
        InputError: an invalid table, or points of more than one series.

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
        point_name(sender, receiver, size, measure)
        for sender, receiver, size in table.loc[~usable, ["sender", "receiver", "size"]].itertuples(
            index=False, name=None
        )
    ]
    # Sort, so that simulations don't depend on the order of the rows.
    used = table[usable].sort_values(
        ["size", "y", "error", "sender", "receiver"], ignore_index=True
    )
    return _LadderFitter(used, value, measure, undefined, seed).fit()


class _LadderFitter:
    """The decisions of a fit: whether the points suffice for a model, and which one is selected.

    Args:
        points: the points with a size and a value, sorted.
        value: "order", "diagonal" or "triangle".
        measure: the measure of size.
        undefined: names of the points without a size or a value.
        seed: of the simulations.
    """

    def __init__(
        self, points: pd.DataFrame, value: str, measure: str, undefined: list[str], seed: int
    ) -> None:
        self.points = points
        self.value, self.measure, self.undefined = value, measure, undefined
        self.random = np.random.default_rng(np.random.SeedSequence([seed, len(points)]))
        self.y = points["y"].to_numpy()
        self.scale = SizeScale(points["size"].to_numpy())
        networks = len(set(points["sender"]) | set(points["receiver"]))
        self.independent = min(len(points), networks)

    def fit(self) -> LadderFit:
        n, sizes = len(self.y), len(self.scale.sizes)
        if n < 3 or sizes < 2:
            return self._answer("undefined")
        if self.independent < LEAST_POINTS or sizes < LEAST_SIZES:
            return self._fit_trend()
        return self._select_model()

    def _fit_trend(self) -> LadderFit:
        """Fit a line and a rank correlation only."""
        scale = self.scale
        merged = merge_shared(self.points)
        no_shapes = np.zeros((0, len(merged)))
        errors, attributes = fit_line(scale, merged, error_candidates(scale, merged, no_shapes))
        y, sizes = merged["y"].to_numpy(), merged["size"].to_numpy()
        tau, p = rank_correlation(sizes, y)
        if len(merged) < len(self.points):
            attributes["notes"] = [
                f"{len(self.points)} points were averaged to {len(merged)}: pairs of one size that "
                "share networks are not independent."
            ]
        elif np.any(np.triu(shared_networks(self.points), 1) > 0):
            attributes["notes"] = [
                "Pairs of different sizes share networks, so the points are not independent and "
                "the intervals and p-values are too small."
            ]
        line = errors.coefficients(y, scale.relative(sizes))
        z = errors.whiten(y)
        nothing = np.zeros((1, len(z)))
        constant, linear = (errors.residuals(z[None], x) for x in (nothing, errors.lines[:1]))
        models = [
            self._model(
                "constant",
                {"value": float(errors.constant @ z) / errors.constant_length},
                errors.log_likelihood(constant),
            ),
            self._model(
                "linear",
                {"at_smallest": float(line[0]), "per_doubling": attributes["per_doubling"]},
                errors.log_likelihood(linear),
            ),
        ]
        return self._answer("trend", models, rank_correlation=tau, rank_p_value=p, **attributes)

    def _select_model(self) -> LadderFit:
        """Fit all models, and test whether there is a transition."""
        scale, y = self.scale, self.y
        t = scale.relative(self.points["size"].to_numpy())
        changes = Changes(place_cells(scale, t, 0.0, 1.0), WIDTHS)
        errors = error_candidates(scale, self.points, changes.shapes(t))
        _, attributes = fit_line(scale, self.points, errors)
        models = fit_models(y, t, scale, changes, errors)
        if np.ptp(y) <= EXACT * np.abs(y).max():
            # All values are equal, and the residuals of any fit are rounding errors.
            return self._answer(
                "no transition", models.values(), selected="constant", p_value=1.0, **attributes
            )
        p = transition_p_value(y, errors, self.random)
        attributes["p_value"] = p
        if p > SIGNIFICANCE:
            names = self._by_bic(models, "linear", "power")
            if attributes["slope_p_value"] > SIGNIFICANCE:
                names = ["constant", *names]
        else:
            names = self._by_bic(models, "step", "logistic")
        selected = self._first_that_fits([models[name] for name in names], errors, attributes)
        if selected is None:
            return self._answer("no model fits", models.values(), **attributes)
        if p > SIGNIFICANCE:
            return self._answer(
                "no transition", models.values(), selected=selected.name, **attributes
            )
        place = selected.parameters["place"]
        ratio = models["logistic"].parameters["ratio"] if "logistic" in models else 1.0
        width = math.log(ratio) / scale.span
        low, high, notes = place_interval(y, t, scale, changes, errors, width, self.random)
        return self._answer(
            "transition",
            models.values(),
            selected=selected.name,
            place=place,
            transition=Interval(min(low, place), max(high, place), LEVEL, "grid bootstrap"),
            notes=notes,
            **attributes,
        )

    @staticmethod
    def _by_bic(models: dict[str, LadderModel], *names: str) -> list[str]:
        return sorted((name for name in names if name in models), key=lambda name: models[name].bic)

    def _first_that_fits(
        self, models: list[LadderModel], errors: list[Errors], attributes: dict[str, Any]
    ) -> LadderModel | None:
        """Return the first model that describes the points; add its p-value, and a note if none does."""
        sizes = self.points["size"].to_numpy()
        p_values = []
        for model in models:
            p = goodness_of_fit(
                self.y, sizes, errors, model.predict(sizes), len(model.parameters), self.random
            )
            if p > LACK:
                attributes["fit_p_value"] = p
                return model
            p_values.append(p)
        attributes["fit_p_value"] = max(p_values)
        monotone = monotone_lack_of_fit(self.y, sizes, errors)
        attributes["notes"] = [
            "No curve that only rises or only falls describes these points."
            if monotone is not None and monotone <= LACK
            else "The residuals of the best model still depend on size."
        ]
        return None

    def _model(self, name: str, parameters: dict[str, float], likelihood: Any) -> LadderModel:
        return make_model(
            name, parameters, likelihood, points=len(self.y), smallest=self.scale.smallest
        )

    def _answer(
        self, status: str, models: Iterable[LadderModel] = (), **attributes: Any
    ) -> LadderFit:
        """Make the fit and its statement, with defaults for attributes that are not given."""
        answer: dict[str, Any] = {
            "value": self.value,
            "measure": self.measure,
            "status": status,
            "models": {model.name: model for model in models},
            "selected": None,
            "points": len(self.y),
            "independent": self.independent,
            "sizes": len(self.scale.sizes),
            "smallest": self.scale.smallest,
            "largest": self.scale.largest,
            "p_value": None,
            "fit_p_value": None,
            "place": math.nan,
            "transition": None,
            "per_doubling": math.nan,
            "slope": None,
            "slope_p_value": None,
            "rank_correlation": None,
            "rank_p_value": None,
            "undefined": self.undefined,
            "notes": [],
            **attributes,
        }
        return LadderFit(**answer, statement=statement(answer))
