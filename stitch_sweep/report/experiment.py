"""The data of an experiment, as a report uses it: tables, configuration, and notes on missing files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from stitch_sweep.analysis.results import Mode
from stitch_sweep.measuring.pictures import Picture, Pictures


@dataclass(frozen=True, eq=False)
class Part:
    """One folder of an experiment, without its tables and without credentials.

    Attributes:
        folder: the folder.
        config: the configuration as plain data; None if there is none.
        description: the ledger's description of the sweep; None if there is none.
        sanity: the content of `sanity.json`; None if there is none.
        ended: number of trials that have ended.
        planned: number of trials that the sweep has; None if unknown.
    """

    folder: Path
    config: dict[str, Any] | None = field(default=None, repr=False)
    description: dict[str, Any] | None = field(default=None, repr=False)
    sanity: dict[str, Any] | None = field(default=None, repr=False)
    ended: int = 0
    planned: int | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def search(self) -> dict[str, Any]:
        """The configuration's section `search`; empty if unknown."""
        search = (self.config or {}).get("search")
        return search if isinstance(search, dict) else {}

    def sections(self, name: str) -> list[Mapping[str, Any]]:
        """Return the sections in one of the configuration's lists, such as `networks`."""
        listed = (self.config or {}).get(name)
        return [m for m in listed if isinstance(m, Mapping)] if isinstance(listed, list) else []


@dataclass(frozen=True, eq=False)
class Experiment:
    """The data of one sweep, or of several that are parts of one study.

    Attributes:
        parts: the folders, at least one.
        results: a row per ended trial, as `analysis.results.load_results` returns it, plus `folder`,
            the path of the folder that a row comes from.
        predictions: a row per trial: `trial`, `predictions`; None if there are none.
        trajectories: a row per logged step: `trial`, `step`, `epoch`, `split`, `loss`, `accuracy`.
        measured: the existing tables of `measured/`, by name.
        pictures: images made by stitches into layer -1, one entry per folder that has any.
        folder_notes: missing or doubtful files of the folders, a sentence each.
        measured_notes: the same for the files of `measured/`.
    """

    parts: tuple[Part, ...]
    results: pd.DataFrame = field(repr=False)
    predictions: pd.DataFrame | None = field(default=None, repr=False)
    trajectories: pd.DataFrame | None = field(default=None, repr=False)
    measured: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    pictures: tuple[Pictures, ...] = field(default=(), repr=False)
    folder_notes: tuple[str, ...] = ()
    measured_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Missing or doubtful files, a sentence each."""
        return self.folder_notes + self.measured_notes

    @property
    def name(self) -> str:
        """The folders' names, joined."""
        return " + ".join(part.name for part in self.parts)

    @property
    def metric(self) -> str:
        """The column by which the best trials are chosen."""
        return str(self.parts[0].search.get("metric", "val_accuracy"))

    @property
    def mode(self) -> Mode:
        """Whether "max" or "min" of the metric is best."""
        return "min" if self.parts[0].search.get("mode") == "min" else "max"

    @property
    def objectives(self) -> dict[str, Mode]:
        """The objectives of a search with several objectives, from the first part; otherwise empty."""
        objectives = self.parts[0].search.get("objectives")
        return dict(objectives) if isinstance(objectives, dict) else {}

    @property
    def planned(self) -> int | None:
        """Number of trials of all folders; None if any folder's is unknown."""
        planned = [part.planned for part in self.parts]
        return None if None in planned else sum(count or 0 for count in planned)

    def table(self, name: str) -> pd.DataFrame | None:
        """Return a table of `measured/`, or None."""
        return self.measured.get(name)


def pictures_by_pair(pictures: Pictures) -> dict[tuple[str, str], list[Picture]]:
    """Group pictures by sender and receiver, ordered by sender layer, kind and loss."""
    by_pair: dict[tuple[str, str], list[Picture]] = {}
    for picture in pictures.pictures:
        pair = (str(picture.about["sender"]), str(picture.about["receiver"]))
        by_pair.setdefault(pair, []).append(picture)
    for members in by_pair.values():
        members.sort(key=lambda p: (p.about["sender_layer"], p.about["kind"], str(p.about["loss"])))
    return by_pair
