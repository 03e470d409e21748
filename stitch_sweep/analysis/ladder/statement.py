"""Describe the result of a fit in words."""

from __future__ import annotations

import math
from typing import Any

from stitch_sweep.analysis.ladder.fit import LEAST_POINTS, LEAST_SIZES, LadderModel
from stitch_sweep.analysis.matrix.uncertainty import Interval

_NOUNS = {
    "order": "order parameter",
    "diagonal": "diagonal index",
    "triangle": "triangle index",
}
_UNITS = {"depth": "blocks", "width": "base channels", "parameters": "parameters"}


def _format_size(size: float) -> str:
    """Format a size for a sentence: three digits, with letters for thousands and millions."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{size / (1e3 if letter == 'k' else unit):.3g}{letter}"
    return f"{size:.3g}" if size < 1000 else f"{size:.0f}"


def _format_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def statement(fit: dict[str, Any]) -> str:
    """Describe a fit in words.

    Args:
        fit: the attributes of `LadderFit` except the statement.
    """
    noun, unit = _NOUNS[fit["value"]], _UNITS.get(fit["measure"], "")
    models: dict[str, LadderModel] = fit["models"]
    unit = f" {unit}" if unit else ""
    points = f"{_count(fit['points'], 'point')} at {_count(fit['sizes'], 'size')}"
    ends = f"{_format_size(fit['smallest'])} to {_format_size(fit['largest'])}{unit}"
    if fit["status"] == "undefined":
        text = (
            f"Undefined: {points} have a defined {noun}, and even a trend needs three points and "
            "two sizes."
        )
    elif fit["status"] == "trend":
        requirement = (
            f"{LEAST_SIZES} sizes are needed"
            if fit["sizes"] < LEAST_SIZES
            else f"{LEAST_POINTS} of different networks are needed"
        )
        text = (
            f"Trend only ({points}; {requirement} to choose a model): {_describe_trend(fit, noun)}"
        )
    elif fit["status"] == "no transition":
        text = f"No transition between these sizes ({ends}; {points}): "
        if fit["selected"] == "constant":
            value = models["constant"].parameters["value"]
            text += f"the {noun} is {value:z.2f} on average and shows no dependence on size: it"
        elif fit["selected"] == "power":
            exponent = models["power"].parameters["exponent"]
            text += f"the {noun} follows a power law of exponent {exponent:.2g}: it"
        else:
            text += f"the {noun}"
        text += f" {_describe_slope(fit)}"
        text += f"; a step or logistic change is no better supported ({_format_p(fit['p_value'])})."
    elif fit["status"] == "no model fits":
        text = (
            f"No model fits these sizes ({ends}; {points}; lack of fit, "
            f"{_format_p(fit['fit_p_value'])}): the {noun} {_describe_slope(fit)}."
        )
    else:
        shape = models[fit["selected"]]
        before, after = shape.parameters["before"], shape.parameters["after"]
        interval: Interval = fit["transition"]
        text = (
            f"Transition at {_format_size(fit['place'])}{unit} ({interval.level:.0%} interval "
            f"{_format_size(interval.low)} to {_format_size(interval.high)}): the {noun} "
            f"{'falls' if after < before else 'rises'} from {before:z.2f} to {after:z.2f} in a "
            f"{shape.name} change; {points}, {ends}; power laws are rejected "
            f"({_format_p(fit['p_value'])})."
        )
    if fit["undefined"]:
        text += f" Without a defined {noun} or size: {', '.join(fit['undefined'])}."
    return " ".join([text, *fit["notes"]])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _describe_slope(fit: dict[str, Any]) -> str:
    words = f"changes by {fit['per_doubling']:+z.2f} per doubling of {fit['measure']}"
    slope: Interval | None = fit["slope"]
    if slope is None:
        return words
    return f"{words} ({slope.level:.0%} interval {slope.low:+z.2f} to {slope.high:+z.2f})"


def _describe_trend(fit: dict[str, Any], noun: str) -> str:
    ranks = ""
    if not math.isnan(fit["rank_correlation"]):
        tau, p = fit["rank_correlation"], fit["rank_p_value"]
        ranks = f"; rank correlation with size {tau:+z.2f}, {_format_p(p)}"
    return f"the {noun} {_describe_slope(fit)}{ranks}."


def point_name(sender: str, receiver: str, size: float, measure: str) -> str:
    """Name a point for notes: its networks and its size."""
    size_text = f"{measure} unknown" if math.isnan(size) else f"{measure} {_format_size(size)}"
    return (
        f"{sender} ({size_text})" if sender == receiver else f"{sender} → {receiver} ({size_text})"
    )
