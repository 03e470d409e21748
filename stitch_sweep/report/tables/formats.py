"""Number formats and common columns of the report's tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from stitch_sweep.analysis.results import FACTOR
from stitch_sweep.report.tables.table import Column
from stitch_sweep.report.wording import format_signed

MINUS = "−"


def fixed(digits: int) -> Callable[[Any], str]:
    """Return a format with fixed decimals and no minus before a zero."""
    return lambda value: format_signed(float(value), digits)


def format_whole(value: Any) -> str:
    """Format a whole number with commas."""
    return f"{int(value):,}"


def format_p_value(value: Any) -> str:
    """Format a p-value with three decimals; `< 0.001` below."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_interval(low: float, high: float) -> str | None:
    """Format an interval as `0.10 to 0.20`; None where it is undefined."""
    if math.isnan(low) or math.isnan(high):
        return None
    return f"{format_signed(low)} to {format_signed(high)}"


def format_significant(value: Any) -> str:
    """Format three digits, with an exponent only for very small or large numbers."""
    number = float(value)
    if number != 0 and not 1e-3 <= abs(number) < 1e4:
        return f"{number:.2e}".replace("-", MINUS)
    return format_signed(number, 3) if abs(number) < 10 else f"{number:.3g}".replace("-", MINUS)


def factor_columns(frame: pd.DataFrame) -> list[Column]:
    """Return a column for every crossed factor, titled by its path."""
    return [
        Column(str(name), str(name).removeprefix(FACTOR))
        for name in frame.columns
        if str(name).startswith(FACTOR) and frame[name].notna().any()
    ]


def pair_columns(frame: pd.DataFrame) -> list[Column]:
    """Return the columns of sender, receiver and factors."""
    return [Column("sender", "sender"), Column("receiver", "receiver"), *factor_columns(frame)]
