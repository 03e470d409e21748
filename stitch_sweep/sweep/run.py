"""One sweep from start to end: prepare, train networks, run trials, write views."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.config.reading import to_yaml
from stitch_sweep.config.root import Config
from stitch_sweep.core.credentials import redact_uri
from stitch_sweep.core.errors import InputError, StoppedError, check_all
from stitch_sweep.plan.enqueue import check_enqueued
from stitch_sweep.plan.machine import check_local, check_training
from stitch_sweep.plan.objectives import check_objectives
from stitch_sweep.plan.prepare import Prepared, prepare
from stitch_sweep.plan.samplers import check_sampler, describe_startup
from stitch_sweep.plan.schedulers import check_scheduler
from stitch_sweep.plan.stopping import find_remainder
from stitch_sweep.storage import layout
from stitch_sweep.storage.files import (
    check_writable,
    explain_stop,
    is_storage_error,
    write_atomically,
)
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.retraining import begin_retraining, compare_retrained
from stitch_sweep.storage.status import stitch_notes
from stitch_sweep.sweep.description import check_unchanged, describe_sweep
from stitch_sweep.sweep.local_start import LocalStart
from stitch_sweep.sweep.openings import drop_borrowed_stitches, stitches_to_keep
from stitch_sweep.sweep.pace import Pace
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.sweep.views import check_views, write_views
from stitch_sweep.tracking.loggers import Loggers, check_loggers
from stitch_sweep.tracking.mirror import Mirror
from stitch_sweep.tracking.mirroring import Mirroring


@dataclass(frozen=True)
class Outcome:
    """The outcome of a sweep.

    Attributes:
        results: a row per ended trial.
        matrices: the stitching matrices.
        total: number of trials of the configuration.
        ended: trials that finished, failed or were stopped early, earlier runs included.
        failed: trials that ended without a result.
        copied: trials that were equal to earlier ones and got their results without a training.
        lost: trials whose workers died too often; `--resume` tries them again.
        interrupted: whether Ctrl-C or SIGTERM stopped the sweep before its end.
        tracked: whether MLflow and the other loggers have everything; None when tracking is off.
        mirrored: whether the copy of the folder is complete; None without one.
        tracking_problem: why MLflow or another logger refuses the runs, and the remedy; empty if they
            are accepted, and after an outage: a later `--resume` then sends the missing runs.
        is_out_of_time: whether `search.time_budget` ended the sweep before its last trial.
        left_out: number of trials that `search.stop` left out, by its key; empty unless the sweep ended.
    """

    results: pd.DataFrame
    matrices: list[Matrix]
    total: int
    ended: int
    failed: int
    copied: int
    lost: int
    interrupted: bool
    tracked: bool | None
    mirrored: bool | None
    tracking_problem: str = ""
    is_out_of_time: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def stopped_early(self) -> int:
        """Number of trials that the scheduler stopped before their end."""
        return int((self.results["status"] == "stopped").sum()) if len(self.results) else 0

    @property
    def exit_status(self) -> int:
        """Exit status: 0 success, also if MLflow was out of reach; 1 a failure; 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.lost or self.tracking_problem else 0


def run_sweep(
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    retrain_stitches: bool = False,
    address: str | None = None,
    workers: int | None = None,
    mirror: str | None = None,
    reporter: Reporter | None = None,
    report_seconds: float = 5.0,
    checkpoint_seconds: float = 60.0,
    start: LocalStart | None = None,
    on_tables: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run a sweep, or its missing trials.

    Args:
        config: the configuration.
        folder: the experiment folder, where everything is written.
        resume: whether to resume a sweep in the folder; without it such a folder is refused.
        retrain_stitches: with `resume`, run trials again whose kept stitches are missing or damaged.
        address: a running Ray cluster (`auto` or `host:port`); None starts a local Ray.
        workers: maximum number of workers at the same time, each of which trains a pack of trials; by
            default as many as fit.
        mirror: a URI where a copy of the folder is kept; with `resume`, the trials that the folder
            lacks are copied from there first.
        reporter: shows the progress.
        report_seconds: time between two reports of a long trial.
        checkpoint_seconds: time between two checkpoints of a long trial.
        start: of the local Ray, if the caller has begun it; it is closed at the end.
        on_tables: called when the tables and matrices of a sweep that wasn't interrupted are written,
            while MLflow receives the rest.

    Raises:
        InputError: the configuration, the folder or the machine can't be used; nothing was started.
        StoppedError: the experiment folder can no longer be written, a stitch from which a trial starts
            is missing, or the local Ray was killed; every ended trial is recorded.
    """
    pace = Pace(address, workers, report_seconds, checkpoint_seconds)
    with closing(start or LocalStart()) as start:
        ledger = Ledger(folder)
        local_checks: list[Callable[[], None]] = [
            lambda: check_local(config.resources),
            lambda: check_training(config),
        ]
        check_all(
            lambda: check_objectives(config),
            lambda: check_sampler(config),
            lambda: check_scheduler(config),
            lambda: check_enqueued(config),
            lambda: _check_folder(ledger, resume),
            lambda: _check_stitches_are_kept(config, retrain_stitches),
            lambda: check_loggers(config.tracking, config.places),
            *(local_checks if address is None else []),
        )
        copy = None if mirror is None else Mirror(folder, mirror)
        if copy is not None:
            copy.check(resume=resume)
        repair = partial(_repair_stitches, ledger, retrain=retrain_stitches)
        return _run_checked(
            config, ledger, resume, pace, reporter or Reporter(), copy, repair, start, on_tables
        )


def _run_checked(
    config: Config,
    ledger: Ledger,
    resume: bool,
    pace: Pace,
    reporter: Reporter,
    copy: Mirror | None,
    repair: Callable[[Reporter], None],
    start: LocalStart,
    on_tables: Callable[[], None],
) -> Outcome:
    """Start tracking and Ray, prepare the sweep, and run it."""
    folder = ledger.folder
    # Started first, because it takes seconds; it waits for the sweep to begin.
    loggers = Loggers(folder, config.tracking, config.places, reporter.say)
    try:
        # A sweep that is resumed may be complete, and then needs no Ray.
        if pace.address is None and not ledger.exists:
            start.begin()
        # Only the tracking process needs credentials; files, workers and messages get none.
        with _threads(config.resources.cpu), reporter.phase("data read and all cells checked"):
            prepared = prepare(_without_credentials(config))
        try:
            check_views(folder, prepared.studies, config, is_new=not ledger.exists)
            return _run_locked(
                prepared, ledger, resume, pace, reporter, loggers, copy, repair, start, on_tables
            )
        # These are errors of the experiment folder: `prepare` has read the user's files before.
        except OSError as error:
            if is_storage_error(error):
                raise StoppedError(explain_stop(str(error))) from error
            raise
    except BaseException:
        loggers.abandon()
        raise


def _run_locked(
    prepared: Prepared,
    ledger: Ledger,
    resume: bool,
    pace: Pace,
    reporter: Reporter,
    loggers: Loggers,
    copy: Mirror | None,
    repair: Callable[[Reporter], None],
    start: LocalStart,
    on_tables: Callable[[], None],
) -> Outcome:
    """Lock the ledger, fetch missing trials from the folder's copy, and run the sweep."""
    check_unchanged(ledger, prepared)
    notes = [describe_startup(prepared.config), *prepared.notes]
    for note in filter(None, notes):
        reporter.say(f"note: {note}")
    with ledger.lock(), reporter:
        # Once more: another process may have worked in the folder until now.
        _check_folder(ledger, resume)
        try:
            for error in ledger.set_aside_damaged():
                reporter.say(f"note: {error}")
            if copy is not None and copy.check(resume=resume):
                reporter.say("comparing the folder with its copy")
                if count := copy.fetch():
                    reporter.say(f"{count} trials fetched from the copy")
                for note in copy.notes:
                    reporter.say(f"note: {note}")
            check_unchanged(ledger, prepared)
            repair(reporter)
            with nullcontext() if copy is None else Mirroring(copy) as mirroring:
                return _run(prepared, ledger, pace, reporter, loggers, mirroring, start, on_tables)
        except InputError:
            if not ledger.exists and not ledger.trial_ids():
                ledger.discard()  # nothing was started, so leave nothing behind
            raise


def _run(
    prepared: Prepared,
    ledger: Ledger,
    pace: Pace,
    reporter: Reporter,
    loggers: Loggers,
    mirroring: Mirroring | None,
    start: LocalStart,
    on_tables: Callable[[], None],
) -> Outcome:
    """Run the missing trials, write tables and figures, and finish tracking and the mirror."""
    config, folder = prepared.config, ledger.folder
    total = prepared.trials
    loggers.start_callbacks()
    reporter.rank_by(config.search.mode)
    before = find_remainder(ledger, prepared.studies, config, reporter.count)
    interrupted, lost, is_out_of_time = False, 0, False
    if before.missing:
        # Ray takes seconds to load, and a complete sweep or a refused one doesn't need it.
        from stitch_sweep.sweep.tuning import run_missing_trials

        # Studies that their results have ended report their trials as left out once more.
        reporter.expect(total - before.left_out["trials"])
        end = run_missing_trials(prepared, ledger, pace, reporter, start)
        if end.stopped:
            raise StoppedError(end.stopped)
        interrupted, lost, is_out_of_time = end.interrupted, end.lost, end.is_out_of_time
    for difference in compare_retrained(ledger):
        reporter.say(f"note: {difference}")
    left_out: Mapping[str, int] = {}
    if not (interrupted or lost or is_out_of_time):
        drop_borrowed_stitches(config, ledger)
        left_out = _record_left_out(prepared, ledger)
    with reporter.phase("tables and figures written"):
        results, matrices = write_views(folder, prepared.studies, config)
    if len(results) and not interrupted:
        on_tables()
    failed = int((results["status"] == "failed").sum()) if len(results) else 0
    copied = int(results["copied_from"].notna().sum()) if len(results) else 0
    with (
        reporter.phase(f"{', '.join(loggers.titles)} finished") if loggers.titles else nullcontext()
    ):
        logged = loggers.finish()
    mirrored = None
    if mirroring is not None:
        mirrored = mirroring.finish()
        if not mirrored:
            reporter.say(
                f"the copy is not complete ({mirroring.error or 'no answer'}); "
                "nothing is lost: run the same command with --resume to send the rest"
            )
    return Outcome(
        results=results,
        matrices=matrices,
        total=total,
        ended=len(results),
        failed=failed,
        copied=copied,
        lost=lost,
        interrupted=interrupted,
        tracked=logged.complete,
        mirrored=mirrored,
        tracking_problem=logged.refusal,
        is_out_of_time=is_out_of_time and len(results) < total,
        left_out=left_out,
    )


def _record_left_out(prepared: Prepared, ledger: Ledger) -> Mapping[str, int]:
    """Record in the description of a sweep that has ended what `search.stop` left out; return it."""
    config = prepared.config
    left_out = (
        find_remainder(ledger, prepared.studies, config).left_out if config.search.stop else {}
    )
    before = ledger.description() or {}
    if dict(left_out) != before.get("left_out", {}):
        # Conditions may have changed without a trial to run, so the rest is written, too.
        ledger.start({**before, **describe_sweep(prepared), "left_out": left_out})
        write_atomically(
            ledger.folder / layout.RESOLVED_CONFIG, to_yaml(config, ledger.folder).encode()
        )
    return left_out


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use a trial's number of threads; more would compete with processes that start."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _repair_stitches(ledger: Ledger, reporter: Reporter, *, retrain: bool) -> None:
    """Report kept stitches that can't be used, or let their trials run again."""
    unusable: dict[str, list[dict[str, Any]]] = {"missing": [], "damaged": []}
    for record in ledger.records():
        if problem := ledger.check_stitch(record):
            unusable[problem].append(record)
    if retrain:
        for record in itertools.chain(*unusable.values()):
            begin_retraining(ledger, record)
        reporter.say(f"{sum(map(len, unusable.values()))} trials run again to store their stitches")
        return
    for note in stitch_notes({k: [r["trial"] for r in v] for k, v in unusable.items()}):
        reporter.say(f"note: {note}")


def _check_stitches_are_kept(config: Config, retrain: bool) -> None:
    if retrain and stitches_to_keep(config) == "none":
        raise InputError(
            "--retrain-stitches: keep_stitches is none, so no stitch would be kept; remove the "
            "option, or set keep_stitches to best or all"
        )


def _check_folder(ledger: Ledger, resume: bool) -> None:
    """Check that the sweep may write to the experiment folder.

    Raises:
        InputError: it is a file, can't be written, or contains a sweep and `resume` isn't given.
    """
    if ledger.folder.exists() and not ledger.folder.is_dir():
        raise InputError(f"{ledger.folder}: is a file, but must be a folder; name another folder")
    if ledger.exists and not resume:
        raise InputError(
            f"{ledger.folder}: already contains a sweep; add --resume to resume it or to show it "
            "again, or put the configuration into a separate folder"
        )
    ledger.check_place()
    check_writable(ledger.root, "the ledger")


def _without_credentials(config: Config) -> Config:
    """Return the configuration without credentials: it is stored, and sent to the tracking server."""
    uri = config.tracking.uri
    if uri is None or redact_uri(uri) == uri:
        return config
    tracking = config.tracking.model_copy(update={"uri": None})
    return config.model_copy(update={"tracking": tracking})
