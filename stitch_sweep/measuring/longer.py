"""Train a sample of a sweep's trials for longer, to measure what their length cost them."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from stitch_sweep.analysis.tables import csv_text
from stitch_sweep.config.loss import recorded_label
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import derive
from stitch_sweep.measuring.about import TableOrigin, open_measured, write_origins
from stitch_sweep.measuring.permissions import Permissions
from stitch_sweep.measuring.source import NotMeasurableError, SweepSource
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.layout import LONGER, MEASURED
from stitch_sweep.training.loop import StitchTraining

GAIN = 0.02
"""Gain in test accuracy above which a trial was too short."""
TABLE = "longer"
"""Name of the table in `about.json`."""
_IDENTITY = ("trial", "sender", "sender_layer", "receiver", "receiver_layer", "repeat")
_COMPARED = ("val_loss", "val_accuracy", "test_accuracy", "accuracy_calibrated")

OnEpoch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Longer:
    """What a sample of a sweep's trials gained from a longer training.

    Attributes:
        path: the table's file.
        table: a row per trial: its identity, `loss`, `converged` (the sweep's answer; missing if there is
            none), `epochs` and `longer_epochs`, `longer_status`, `val_loss`, `val_accuracy`,
            `test_accuracy` and `accuracy_calibrated` of the sweep and, after `longer_`, of the longer
            training, `gain` (of the calibrated accuracy, in [-1, 1]), `longer_converged`, and `seconds`.
        notes: sentences on trials that could not be trained.
    """

    path: Path
    table: pd.DataFrame
    notes: list[str]

    def summary(self) -> list[dict[str, Any]]:
        """Return a row per loss.

        Returns:
            `loss`, `trials`, `failed` (longer trainings that diverged), `median_gain`, `largest_gain`,
            and for each answer of `converged` (`yes`, `no`, `unknown`) the number of trials, and after
            it with `_gained` how many of them gained more than `GAIN`.
        """
        rows = []
        for loss, group in self.table.groupby("loss", sort=True):
            finished = group[group["longer_status"] == "finished"]
            gain = finished["gain"]
            row: dict[str, Any] = {
                "loss": loss,
                "trials": len(group),
                "failed": len(group) - len(finished),
                "median_gain": float(gain.median()) if len(gain) else None,
                "largest_gain": float(gain.max()) if len(gain) else None,
            }
            converged = finished["converged"].astype("boolean")
            for name, is_answer in (
                ("yes", converged.eq(True).fillna(False)),
                ("no", converged.eq(False).fillna(False)),
                ("unknown", converged.isna()),
            ):
                row[name] = int(is_answer.sum())
                row[f"{name}_gained"] = int((gain[is_answer] > GAIN).sum())
            rows.append(row)
        return rows


def train_longer(
    folder: Path | str,
    *,
    share: float = 0.1,
    times: int = 4,
    seed: int = 0,
    on_epoch: OnEpoch = lambda task, done, total: None,
    run_code: bool = False,
    allow: Iterable[Path | str] = (),
    download: Iterable[str] = (),
) -> Longer:
    """Train a random sample of a sweep's finished trials with more epochs, in this process.

    A trial is trained from the start with its own settings, but `times` as many epochs and without
    `training.patience`; its schedule is stretched with it. Trials that took no step, because their
    stitch is solved or has no parameters, and copies of other trials are left out. Writes
    `measured/longer.csv` after each trial. A second call with the same sweep, `times` and trials
    continues; the sweep's own results don't change.

    Args:
        folder: an experiment folder that `stitch-sweep sweep` wrote.
        share: share of the trials of each loss, above 0 and at most 1; at least one trial of each.
        times: factor on the number of epochs, 2 or more.
        seed: decides which trials are chosen.
        on_epoch: called with (task, completed epochs, all epochs) of all chosen trials together.
        run_code: see `measure`, as for `allow` and `download`.
        allow: further folders whose files are read.
        download: libraries whose published weights are loaded.

    Raises:
        InputError: the folder contains no sweep or no trial that can be trained longer, an argument is
            out of its range, or `measured` contains files that may not be Stitch Sweep's.
        FrozenError: a network changed.

    Example:
        >>> train_longer("experiments/quickstart/digits").summary()  # doctest: +SKIP
    """
    if not 0 < share <= 1 or times < 2:
        raise InputError(
            f"share must be above 0 and at most 1, and times at least 2; got {share} and {times}"
        )
    folder = Path(folder)
    permissions = Permissions(folder, allow=allow, download=download, run_code=run_code)
    source = SweepSource(folder, permissions)
    path = folder / MEASURED / LONGER
    origins = open_measured(folder / MEASURED, source.general, [path])
    try:
        records = _trainable(source)
        chosen = choose_trials(records, share, seed)
        done = _read_rows(path, origins.get(TABLE), _key(source, times))
        notes = [*source.damaged, *source.available.notes, *source.device_notes]
        lengths = {trial: _longer_settings(records[trial], times) for trial in chosen}
        task = f"{len(chosen)} of {len(records)} trials, {times} times as long"
        total = sum(settings.training.epochs for settings in lengths.values())
        completed = 0
        rows: dict[str, dict[str, Any]] = {}
        for trial, settings in lengths.items():
            progress = partial(_tell, on_epoch, task, completed, total)
            progress(0)
            completed += settings.training.epochs
            try:
                row = done.get(trial) or _train(source, records[trial], settings, progress)
            except OSError as error:
                notes.append(f"trial {trial} is left out: {error}")
                continue
            rows[trial] = row
            # After each trial, so that an interrupted call loses one trial at most.
            write_atomically(path, csv_text(_to_table(rows)).encode())
            origins[TABLE] = TableOrigin(_key(source, times), len(rows), notes)
            write_origins(path.parent, source.general, origins)
        on_epoch(task, total, total)
        source.verify()
    except NotMeasurableError as error:
        raise InputError(*error.notes) from None
    if not rows:
        raise InputError(f"{folder}: no trial could be trained longer", *notes)
    return Longer(path, _to_table(rows), notes)


def choose_trials(records: Mapping[str, Mapping[str, Any]], share: float, seed: int) -> list[str]:
    """Choose a share of the trials of each loss at random, sorted by cell.

    Whether a trial comes before another one depends on the seed and their ids alone, so that a larger
    share contains a smaller one.

    Args:
        records: the trials' records, by id.
        share: rounded up to whole trials.
        seed: of the random choice.
    """
    by_loss: dict[str | None, list[str]] = defaultdict(list)
    for trial, record in records.items():
        by_loss[recorded_label(record["settings"]["loss"])].append(trial)
    chosen: list[str] = []
    for trials in by_loss.values():
        trials.sort(key=lambda trial: derive(seed, TABLE, trial))
        # Decimal shares have no exact float: 0.1 * 30 is above 3.
        chosen += trials[: math.ceil(share * len(trials) - 1e-9)]
    # One sender layer after the other, because its representations are cached.
    return sorted(chosen, key=lambda trial: [str(records[trial][name]) for name in _IDENTITY[1:]])


def _tell(on_epoch: OnEpoch, task: str, before: int, total: int, epoch: int) -> None:
    on_epoch(task, before + epoch, total)


def _trainable(source: SweepSource) -> dict[str, dict[str, Any]]:
    """Return the records of the finished trials that took steps and whose networks are loaded.

    Raises:
        NotMeasurableError: there are none.
    """
    records = {
        trial: record
        for trial, record in source.records.items()
        if record["status"] == "finished"
        and not record.get("copied_from")
        and any(row["step"] > 0 for row in record["trajectory"])
        and record["sender"] in source.bench.senders
        and record["receiver"] in source.bench.networks
    }
    if not records:
        notes = [*source.damaged, *source.available.notes]
        missing = f"{source.ledger.folder}: has no finished trial that can be trained longer"
        raise NotMeasurableError([missing, *notes], [], again=False)
    return records


def _longer_settings(record: Mapping[str, Any], times: int) -> TrialSettings:
    settings = TrialSettings.model_validate(record["settings"])
    training = settings.training
    longer = training.model_copy(update={"epochs": times * training.epochs, "patience": None})
    return settings.model_copy(update={"training": longer})


def _train(
    source: SweepSource,
    record: Mapping[str, Any],
    settings: TrialSettings,
    on_epoch: Callable[[int], None],
) -> dict[str, Any]:
    """Train a trial; return its row.

    Raises:
        OSError: it starts from another trial's stitch, which is missing or isn't the recorded one.
    """
    training: StitchTraining = source.bench.training(
        record["sender"],
        record["sender_layer"],
        record["receiver"],
        record["receiver_layer"],
        settings,
        record["repeat"],
        start=source.ledger.read_start(record.get("start")),
    )
    while not training.done:
        training.run_epoch()
        on_epoch(training.epoch)
    result = training.finish()
    former, longer = record["metrics"], result.metrics
    gain = None
    if result.status == "finished":
        gain = longer["accuracy_calibrated"] - former["accuracy_calibrated"]
    return {
        **{name: record[name] for name in _IDENTITY},
        "loss": recorded_label(record["settings"]["loss"]),
        "converged": former.get("converged"),
        "epochs": record["settings"]["training"]["epochs"],
        "longer_epochs": settings.training.epochs,
        "longer_status": result.status,
        **{name: former.get(name) for name in _COMPARED},
        **{f"longer_{name}": longer.get(name) for name in _COMPARED},
        "gain": gain,
        "longer_converged": longer.get("converged"),
        "seconds": result.seconds,
    }


def _to_table(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows.values()))
    return table.astype({"converged": "boolean", "longer_converged": "boolean"})


def _key(source: SweepSource, times: int) -> str:
    """Return the digest of what decides a row: the sweep and its length."""
    content = json.dumps([source.general["ledger"], source.general["version"], times])
    return hashlib.sha256(content.encode()).hexdigest()


def _read_rows(path: Path, origin: TableOrigin | None, key: str) -> dict[str, dict[str, Any]]:
    """Read the rows of an earlier call, by trial; none if they are of something else."""
    if origin is None or origin.key != key or not path.is_file():
        return {}
    table = pd.read_csv(path)
    plain = table.astype(object).where(table.notna(), None)
    return {row["trial"]: {str(k): v for k, v in row.items()} for row in plain.to_dict("records")}
