"""The result of fitting a ladder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit

from stitch_sweep.analysis.matrix.uncertainty import Interval

LEAST_POINTS = 12
"""Smallest number of independent points with which a model is selected."""

LEAST_SIZES = 4
"""Smallest number of sizes that can show a plateau, a change and another plateau."""

TENTHS = 2 * math.log(9)
"""Width of a logistic change from one tenth to nine tenths, in units of the function's argument."""


@dataclass(frozen=True)
class LadderModel:
    """One fitted model of a ladder.

    Attributes:
        name: "constant", "linear", "power", "step" or "logistic".
        parameters: `value` of the constant; `at_smallest` (value at the smallest size) and
            `per_doubling` of the line; `offset`, `factor` and `exponent` of the power law
            offset + factor (size / smallest)^exponent; `before` and `after` (the plateaus) and `place`
            (a size) of a change, and of a logistic change also `ratio` (of the sizes at nine tenths and
            at one tenth of it).
        log_likelihood: at the fit, up to a constant that all models of one ladder share.
        bic: -2 log L + k log n, with k the number of parameters and of the errors' scale, which is 1.
        smallest: the smallest size of the ladder.
    """

    name: str
    parameters: dict[str, float]
    log_likelihood: float
    bic: float
    smallest: float = field(repr=False)

    def predict(self, sizes: Any) -> np.ndarray:
        """Compute the model's values at `sizes`, of any shape."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.log(np.asarray(sizes, dtype="float64"))
        p = self.parameters
        if self.name == "constant":
            return np.where(np.isnan(t), math.nan, p["value"])
        if self.name == "linear":
            doublings = (t - math.log(self.smallest)) / math.log(2)
            return p["at_smallest"] + p["per_doubling"] * doublings
        if self.name == "power":
            ratio = np.exp(t - math.log(self.smallest))
            return p["offset"] + p["factor"] * ratio ** p["exponent"]
        from_place = t - math.log(p["place"])
        if self.name == "step":
            share = np.where(np.isnan(t), math.nan, from_place > 0)
        else:
            share = expit(from_place * TENTHS / math.log(p["ratio"]))
        return p["before"] + (p["after"] - p["before"]) * share


@dataclass(frozen=True)
class LadderFit:
    """The result of fitting a ladder.

    Attributes:
        value: the fitted value: "order", "diagonal" or "triangle".
        measure: the measure of size: "depth", "width", "parameters", or "size" if unknown.
        status: "transition", "no transition" (between these sizes), "no model fits", "trend" (too few
            points to select a model) or "undefined" (too few points with a value for a trend).
        models: the fitted models by name; for a trend, constant and linear only.
        selected: the selected model's name, None if none is selected.
        points: number of points with a size and a value.
        independent: number of independent points: at most the number of different networks.
        sizes: number of different sizes.
        smallest, largest: the ends of the ladder, in units of size.
        p_value: of step and logistic against power laws, by simulation; 1 where a power law fits
            better, None where not tested.
        fit_p_value: of the selected model's goodness of fit, or the largest one if no model fits;
            None where not tested.
        place: the place of the transition, in units of size; NaN without a transition.
        transition: interval of the place, None without a transition.
        per_doubling: the line's slope per doubling of size.
        slope: interval of that slope, None under three points.
        slope_p_value: of the slope against 0 (t test), None under three points.
        rank_correlation: Kendall's tau-b with size if the status is "trend"; else None.
        rank_p_value: its two-sided permutation p-value, see `rank_correlation`.
        undefined: names of the pairs whose value is undefined, with their sizes, and of those
            without a size.
        notes: sentences that help to interpret the statement.
        statement: the result in words, notes included.
    """

    value: str
    measure: str
    status: str
    models: dict[str, LadderModel]
    selected: str | None
    points: int
    independent: int
    sizes: int
    smallest: float
    largest: float
    p_value: float | None
    fit_p_value: float | None
    place: float
    transition: Interval | None
    per_doubling: float
    slope: Interval | None
    slope_p_value: float | None
    rank_correlation: float | None
    rank_p_value: float | None
    undefined: list[str]
    notes: list[str]
    statement: str

    def curve(self, sizes: Any) -> np.ndarray:
        """Compute the curve to draw at `sizes`: the selected model, else the line, else NaN."""
        name = self.selected or "linear"
        if name not in self.models:
            return np.full(np.shape(sizes), math.nan)
        return self.models[name].predict(sizes)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data for JSON; None where a number is undefined."""

        def plain(value: Any) -> Any:
            if isinstance(value, Interval):
                return {
                    "low": plain(value.low),
                    "high": plain(value.high),
                    "level": value.level,
                    "method": value.method,
                }
            if isinstance(value, LadderModel):
                return {
                    "parameters": {k: plain(v) for k, v in value.parameters.items()},
                    "log_likelihood": plain(value.log_likelihood),
                    "bic": plain(value.bic),
                }
            if isinstance(value, dict):
                return {k: plain(v) for k, v in value.items()}
            if isinstance(value, float) and not math.isfinite(value):
                return None
            return list(value) if isinstance(value, list) else value

        return {name: plain(value) for name, value in vars(self).items()}
