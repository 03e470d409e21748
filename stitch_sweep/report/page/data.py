"""The data that the page's script draws from: figures, matrices, trials and trajectories."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from stitch_sweep.charts.colors import color_map, color_scale
from stitch_sweep.charts.plotly_renderer import base_layout
from stitch_sweep.report.tables.table import Table


@dataclass(frozen=True)
class Panel:
    """A figure with its title and note, and the table of its numbers if there is one.

    Attributes:
        id: key of the figure in the page's data.
        title: the heading.
        note: how to read the figure.
        alt: description for readers who don't see the figure.
        table: the numbers; None for none.
    """

    id: str
    title: str
    note: str
    alt: str
    table: Table | None = None


@dataclass
class PageData:
    """Everything that the script needs, keyed as `report.js` reads it."""

    figures: dict[str, Any] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    trials: dict[str, Any] = field(default_factory=dict)
    trajectories: dict[str, Any] = field(default_factory=dict)
    steps: list[list[float]] = field(default_factory=list)
    scales: dict[str, list[tuple[float, str]]] = field(default_factory=dict)

    def add_figure(
        self, title: str, note: str, alt: str, figure: go.Figure, table: Table | None = None
    ) -> Panel:
        """Add a figure under a new id."""
        name = f"f{len(self.figures)}"
        self.figures[name] = json.loads(figure.to_json(remove_uids=True))
        return Panel(name, title, note, alt, table)

    def add_scale(self, limits: tuple[float, float]) -> str:
        """Add the colors between two values, which many matrices share, and return their name."""
        name = color_map(*limits).name
        self.scales[name] = color_scale(*limits)
        return name

    def add_trajectories(
        self,
        prefix: str,
        trials: dict[str, Any],
        trajectories: dict[str, Any],
        steps: list[list[float]],
    ) -> None:
        """Add the trials and trajectories of a chapter.

        Args:
            prefix: text before each trial's id, because trials of several chapters may share an id.
            trials: as `cells.describe_trials` returns them.
            trajectories: as `cells.thin_trajectories` returns them.
            steps: likewise.
        """
        first = len(self.steps)
        self.steps += steps
        self.trials |= {prefix + trial: value for trial, value in trials.items()}
        self.trajectories |= {
            prefix + trial: path | {"xv": path["xv"] + first, "xt": path["xt"] + first}
            for trial, path in trajectories.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the data as `report.js` reads it."""
        return {
            "figures": self.figures,
            "groups": self.groups,
            "trials": self.trials,
            "trajectories": self.trajectories,
            "steps": self.steps,
            "scales": self.scales,
            "chart": base_layout(height=250, margin={"l": 52, "r": 8, "t": 10, "b": 40}),
        }
