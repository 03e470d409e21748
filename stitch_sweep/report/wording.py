"""Numbers and durations as text."""

from __future__ import annotations

import math


def pluralize(number: int, noun: str, plural: str | None = None) -> str:
    """Put a number before its noun: `1 pair`, `2 pairs`, `12,000 trials`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def format_signed(value: float, digits: int = 2) -> str:
    """Format a number with fixed decimals and a minus sign (U+2212); zero has no sign."""
    return f"{value:z.{digits}f}".replace("-", "−")


def format_setting(value: object) -> str:
    """Format the value of a searched setting: three digits for a float."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours.

    Example:
        >>> format_duration(45), format_duration(300), format_duration(9000)
        ('45 s', '5.0 min', '2.5 h')
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def capitalize_sentence(text: str) -> str:
    """Capitalize the first letter, unless the text begins with a file name."""
    first = text.partition(" ")[0].rstrip(":,")
    return text[:1].upper() + text[1:] if first.isalpha() else text
