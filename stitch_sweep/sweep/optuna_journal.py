"""Optuna's journal of a sweep's studies, for optuna-dashboard: live, and rebuilt at the end."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import label
from stitch_sweep.plan.distributions import optuna_directions
from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.storage import layout, scratch
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.study import Study, format_cell

STUDY_ATTRIBUTE = "study"
"""User attribute of a study in the journal: its id, with which the ids of its trials begin."""


class JournalWriter:
    """Adds ended trials to a journal.

    Studies are named for people, as in `a:4 -> b:2, loss = mse`. Optuna numbers the trials of a study in
    the order in which they are added. No other process may write the journal.

    Args:
        path: of the journal; it is created with the first trial.
        studies: of the sweep.
        config: the configuration.
    """

    def __init__(self, path: Path, studies: Iterable[Study], config: Config) -> None:
        self._path = path
        self._studies = {study.id: study for study in studies}
        self._config = config
        self._titles = _titles(self._studies.values())
        self._storage: JournalStorage | None = None
        self._views: dict[str, optuna.Study] = {}

    def add(self, study: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Add ended trials of a study, given by its id.

        Raises:
            OSError: the file can't be written.
        """
        search = StudySearch(self._studies[study], self._config)
        for record in records:
            search.tell_record(record)
        self._view(self._studies[study]).add_trials(search.optuna.get_trials(deepcopy=False))

    def _view(self, study: Study) -> optuna.Study:
        if self._storage is None:
            # A killed sweep may have left Optuna's lock.
            Path(f"{self._path}.lock").unlink(missing_ok=True)
            self._storage = JournalStorage(JournalFileBackend(str(self._path)))
        if study.id not in self._views:
            view = optuna.create_study(
                study_name=self._titles[study.id],
                storage=self._storage,
                directions=optuna_directions(self._config),
                load_if_exists=True,
            )
            with warnings.catch_warnings():
                # Optuna calls the names of metrics experimental; the dashboard shows them.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                view.set_metric_names(list(self._config.search.goals))
            for key, value in {STUDY_ATTRIBUTE: study.id, **study.key}.items():
                view.set_user_attr(key, value)
            self._views[study.id] = view
        return self._views[study.id]


class LiveJournal:
    """The journal of a running sweep, which optuna-dashboard shows live.

    A journal that can't be written is no failure of the sweep, because it is rebuilt at its end.

    Args:
        path: of the journal; an earlier one is replaced.
        studies: of the sweep.
        records: of the trials that have ended before.
        config: the configuration.
        say: prints a line for the user.
    """

    def __init__(
        self,
        path: Path,
        studies: list[Study],
        records: Iterable[dict[str, Any]],
        config: Config,
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._writer: JournalWriter | None = None
        if has_journal(config):
            path.unlink(missing_ok=True)
            write_optuna_journal(path, studies, records, config)
            self._writer = JournalWriter(path, studies, config)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add an ended trial."""
        if self._writer is None:
            return
        try:
            self._writer.add(record["study"], [record])
        except OSError as error:
            self._say(f"note: optuna.log is not written until the end of the sweep: {error}")
            self._writer = None


def write_optuna_journal(
    path: Path, studies: list[Study], records: Iterable[dict[str, Any]], config: Config
) -> None:
    """Rebuild the journal in a temporary folder, and replace the old one.

    Args:
        path: of the journal. Without a search, or with `search.journal: false`, none is written.
        studies: of the sweep.
        records: of its ended trials.
        config: the configuration.
    """
    if not has_journal(config):
        return
    by_study: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_study.setdefault(record["study"], []).append(record)
    with scratch.folder() as temporary:
        file = temporary / layout.OPTUNA_JOURNAL
        writer = JournalWriter(file, studies, config)
        for study, ended in by_study.items():
            writer.add(study, ended)
        if file.exists():
            write_atomically(path, file.read_bytes())


def has_journal(config: Config) -> bool:
    """Return whether a sweep writes `optuna.log`."""
    return bool(config.search.distributions) and config.search.journal


def _titles(studies: Iterable[Study]) -> dict[str, str]:
    """Return a name for each study, by its id; equal names get the hash of the study."""
    names = {study.id: _title(study) for study in studies}
    counts = Counter(names.values())
    return {
        study: name if counts[name] == 1 else f"{name} ({study.rpartition('-')[2]})"
        for study, name in names.items()
    }


def _title(study: Study) -> str:
    factors = [f"{path} = {label(value)}" for path, value in sorted(study.factors.items())]
    repeat = [f"repeat {study.repeat}"] if study.repeat else []
    return ", ".join([format_cell(study.key), *factors, *repeat])
