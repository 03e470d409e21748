"""Figures that a notebook shows."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

_DPI = 100


def to_png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def shown_in_notebooks(figure: Figure) -> Figure:
    """Give a figure the method with which a notebook shows it; matplotlib adds it with pyplot only."""
    figure._repr_png_ = lambda: to_png(figure)  # type: ignore[attr-defined]
    return figure
