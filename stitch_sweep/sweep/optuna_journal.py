"""Optuna's journal of a sweep's studies, for optuna-dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from stitch_sweep.config.root import Config
from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.storage import layout, scratch
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.study import Study


def write_optuna_journal(
    path: Path, studies: list[Study], records: list[dict[str, Any]], config: Config
) -> None:
    """Rebuild the journal in a temporary folder, and replace the old one.

    Args:
        path: of the journal. Without a search, none is written.
        studies: of the sweep.
        records: of its ended trials.
        config: the configuration.
    """
    if not config.search.distributions:
        return
    by_study: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_study.setdefault(record["study"], []).append(record)
    with scratch.folder() as temporary:
        file = temporary / layout.OPTUNA_JOURNAL
        storage = JournalStorage(JournalFileBackend(str(file)))
        for study in studies:
            if study.id not in by_study:
                continue
            search = StudySearch(study, config)
            for record in by_study[study.id]:
                search.tell_record(record)
            view = optuna.create_study(
                study_name=study.id, storage=storage, directions=search.optuna.directions
            )
            for key, value in study.key.items():
                view.set_user_attr(key, value)
            view.add_trials(search.optuna.get_trials(deepcopy=False))
        if file.exists():
            write_atomically(path, file.read_bytes())
