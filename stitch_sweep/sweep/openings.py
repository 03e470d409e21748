"""The beginning of studies: at once, or when the studies that they learn from have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from stitch_sweep.config.root import Config
from stitch_sweep.plan.neighbors import Neighbors, best_record
from stitch_sweep.plan.sizes import allot_trials
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.rounds import StudyRounds

Record = dict[str, Any]


class StudyOpenings:
    """Opens the studies of a sweep that have trials to run.

    Without `search.share`, all of them are open from the start. With `search.share: neighbors`, a study
    opens when its parents have ended, so that what it learns from them doesn't depend on timing.

    Args:
        studies: in the order in which they should run.
        config: the configuration.
        ledger: the sweep's records so far.
        layers: returns the number of layers of a network, by name; needed with `search.share` only.
        open_study: builds the rounds of a study from (study, total, records, records of its parents).
    """

    def __init__(
        self,
        studies: Iterable[Study],
        config: Config,
        ledger: Ledger,
        layers: Callable[[str], int] | None,
        open_study: Callable[[Study, int, list[Record | None], list[list[Record]]], StudyRounds],
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._open_study = open_study
        self._studies = list(studies)
        self._neighbors: Neighbors | None = None
        if config.search.share == "neighbors":
            assert layers is not None
            self._neighbors = Neighbors(self._studies, layers)
            self._studies = self._neighbors.order()
        totals = allot_trials(config, self._studies)
        self._totals = dict(zip((s.id for s in self._studies), totals, strict=True))
        self._started = ledger.trial_ids()
        self._incomplete: set[str] = set()
        self._waiting: set[str] = set()
        self._children: dict[str, list[Study]] = {}

    def begin(self) -> Iterator[StudyRounds]:
        """Open every incomplete study that doesn't have to wait. Called once."""
        incomplete = []
        for study in self._studies:
            records = self._read(study)
            if not all(record and record["status"] != "running" for record in records):
                self._incomplete.add(study.id)
                incomplete.append((study, records))
        for study, records in incomplete:
            if self._must_wait(study):
                self._waiting.add(study.id)
                for parent in self._parents(study):
                    self._children.setdefault(parent.id, []).append(study)
            else:
                yield self._open(study, records)

    def complete(self, study: Study) -> Iterator[StudyRounds]:
        """Note that all trials of a study have ended; open the studies that waited for it."""
        self._incomplete.discard(study.id)
        for child in self._children.pop(study.id, ()):
            if child.id in self._waiting and not self._must_wait(child):
                self._waiting.remove(child.id)
                yield self._open(child, self._read(child))

    def _must_wait(self, study: Study) -> bool:
        return any(parent.id in self._incomplete for parent in self._parents(study))

    def _parents(self, study: Study) -> list[Study]:
        return [] if self._neighbors is None else self._neighbors.parents(study)

    def _open(self, study: Study, records: list[Record | None]) -> StudyRounds:
        parents = []
        for parent in self._parents(study):
            ended = [record for record in self._read(parent, was_started=True) if record]
            best = best_record(ended, self._config)
            parents.append([] if best is None else [dict(best)])  # only the best one is of use
        return self._open_study(study, self._totals[study.id], records, parents)

    def _read(self, study: Study, was_started: bool = False) -> list[Record | None]:
        """Read the records of a study's trials.

        Args:
            study: the study.
            was_started: whether the study may have records that it didn't have at the beginning.
        """
        trials = (study.trial(number) for number in range(self._totals[study.id]))
        return [
            self._ledger.read(trial) if was_started or trial in self._started else None
            for trial in trials
        ]


def stitches_to_keep(config: Config) -> Literal["all", "best", "none"]:
    """Return which stitches a sweep keeps while it runs; other trials may start from the best ones."""
    if config.search.share == "neighbors" and config.keep_stitches == "none":
        return "best"
    return config.keep_stitches


def drop_borrowed_stitches(config: Config, ledger: Ledger) -> None:
    """Remove the stitches that were kept only because other trials started from them.

    Args:
        config: the configuration.
        ledger: of a sweep whose trials have all ended.
    """
    if stitches_to_keep(config) != config.keep_stitches:
        for trial in ledger.trial_ids():
            ledger.drop_stitch(trial)
