"""What a ladder says, as numbers and in plain words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit

from stitch_sweep.analysis.matrix.uncertainty import Interval

LEAST_POINTS = 12  # (size, seed) points that it takes to choose among models
LEAST_SIZES = 4  # fewer can't show a plateau, a change and a plateau

# From a tenth to nine tenths of a logistic change, in units of the logistic function's argument.
TENTHS = 2 * math.log(9)

_NOUNS = {
    "order": "order parameter",
    "diagonal": "diagonal index",
    "triangle": "triangle index",
}
_UNITS = {"depth": "blocks", "width": "base channels", "parameters": "parameters"}


@dataclass(frozen=True)
class LadderModel:
    """One model of a ladder, fitted.

    Attributes:
        name: "constant", "linear", "step" or "logistic".
        parameters: `value` of the constant; `at_smallest` (value at the smallest size) and
            `per_doubling` of the line; `before`, `after` (the plateaus), `place` (a size) and, of
            the logistic one, `ratio` (of the sizes at nine tenths and at one tenth of the change).
        log_likelihood: at the fit, up to a constant that all models of one ladder share.
        bic: -2 log L + k log n, with k the parameters and the scale of the errors.
    """

    name: str
    parameters: dict[str, float]
    log_likelihood: float
    bic: float
    smallest: float = field(repr=False)

    def predict(self, sizes: Any) -> np.ndarray:
        """The model's values at `sizes`, of any shape."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.log(np.asarray(sizes, dtype="float64"))
        p = self.parameters
        if self.name == "constant":
            return np.where(np.isnan(t), math.nan, p["value"])
        if self.name == "linear":
            doublings = (t - math.log(self.smallest)) / math.log(2)
            return p["at_smallest"] + p["per_doubling"] * doublings
        from_place = t - math.log(p["place"])
        if self.name == "step":
            share = np.where(np.isnan(t), math.nan, from_place > 0)
        else:
            share = expit(from_place * TENTHS / math.log(p["ratio"]))
        return p["before"] + (p["after"] - p["before"]) * share


@dataclass(frozen=True)
class LadderFit:
    """What a ladder says.

    Attributes:
        value: what was fitted: "order", "diagonal" or "triangle".
        measure: what size is: "depth", "width", "parameters", or "size" where unknown.
        status: "transition", "no transition" (between these sizes), "trend" (too few points to
            choose a model) or "undefined" (too few points with a value for anything).
        models: by name, those that were fitted; without step and logistic where none is chosen.
        selected: the chosen model's name, None where none is chosen.
        points: points with a size and a value.
        independent: those of them that count: at most as many as there are different networks.
        sizes: how many different sizes the points have.
        smallest, largest: the ends of the ladder, in units of size.
        p_value: of step and logistic against straight lines (in size and in its logarithm, the
            larger of the two), by simulation; 1 where a line fits better, None where not tested.
        place: where the transition is, in units of size; NaN where there is none.
        transition: interval of the place, None where there is none.
        per_doubling: the line's slope per doubling of size.
        slope: interval of that slope, None under three points.
        slope_p_value: of the slope against 0 (t test), None likewise.
        rank_correlation: Kendall's tau-b with size, where the status is "trend"; else None.
        rank_p_value: its two-sided permutation p-value, see `rank_correlation`.
        undefined: the pairs whose value is not defined, with their sizes, and those without size.
        notes: what a reader must know besides.
        statement: all of it in plain words.
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
        """Values to draw at `sizes`: of the chosen model, else of the line, else NaN."""
        name = self.selected or "linear"
        if name not in self.models:
            return np.full(np.shape(sizes), math.nan)
        return self.models[name].predict(sizes)

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON; None where a number is not defined."""

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


def _amount(size: float) -> str:
    """A size for a sentence: three digits, with thousands and millions as letters."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{size / (1e3 if letter == 'k' else unit):.3g}{letter}"
    return f"{size:.3g}" if size < 1000 else f"{size:.0f}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def statement(found: dict[str, Any]) -> str:
    """What a fit's attributes say, in plain words."""
    noun, unit = _NOUNS[found["value"]], _UNITS.get(found["measure"], "")
    models: dict[str, LadderModel] = found["models"]
    unit = f" {unit}" if unit else ""
    points = f"{_count(found['points'], 'point')} at {_count(found['sizes'], 'size')}"
    ends = f"{_amount(found['smallest'])} to {_amount(found['largest'])}{unit}"
    if found["status"] == "undefined":
        text = (
            f"Undefined: {points} have a defined {noun}, and even a trend takes three points and "
            "two sizes."
        )
    elif found["status"] == "trend":
        why = (
            f"{LEAST_SIZES} sizes are needed"
            if found["sizes"] < LEAST_SIZES
            else f"{LEAST_POINTS} of different networks are needed"
        )
        text = f"Trend only ({points}; {why} to choose a model): {_trend_words(found, noun)}"
    elif found["status"] == "no transition":
        text = f"No transition between these sizes ({ends}; {points}): "
        if found["selected"] == "constant":
            value = models["constant"].parameters["value"]
            text += f"the {noun} is {value:z.2f} on average and not seen to depend on size: it"
        else:
            text += f"the {noun}"
        text += f" {_slope_words(found)}"
        text += f"; a step or logistic change is no better supported ({_p(found['p_value'])})."
    else:
        shape = models[found["selected"]]
        before, after = shape.parameters["before"], shape.parameters["after"]
        interval: Interval = found["transition"]
        text = (
            f"Transition at {_amount(found['place'])}{unit} ({interval.level:.0%} interval "
            f"{_amount(interval.low)} to {_amount(interval.high)}): the {noun} "
            f"{'falls' if after < before else 'rises'} from {before:z.2f} to {after:z.2f} in a "
            f"{shape.name} change; {points}, {ends}; straight lines are rejected "
            f"({_p(found['p_value'])})."
        )
    if found["undefined"]:
        text += f" Without a defined {noun} or size: {', '.join(found['undefined'])}."
    return " ".join([text, *found["notes"]])


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _slope_words(found: dict[str, Any]) -> str:
    words = f"changes by {found['per_doubling']:+z.2f} per doubling of {found['measure']}"
    slope: Interval | None = found["slope"]
    if slope is None:
        return words
    return f"{words} ({slope.level:.0%} interval {slope.low:+z.2f} to {slope.high:+z.2f})"


def _trend_words(found: dict[str, Any], noun: str) -> str:
    ranks = ""
    if not math.isnan(found["rank_correlation"]):
        tau, p = found["rank_correlation"], found["rank_p_value"]
        ranks = f"; rank correlation with size {tau:+z.2f}, {_p(p)}"
    return f"the {noun} {_slope_words(found)}{ranks}."


def named(sender: str, receiver: str, size: float, measure: str) -> str:
    """A point as notes call it."""
    where = f"{measure} unknown" if math.isnan(size) else f"{measure} {_amount(size)}"
    return f"{sender} ({where})" if sender == receiver else f"{sender} → {receiver} ({where})"
