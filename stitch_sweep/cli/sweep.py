"""`stitch-sweep sweep`: run every trial of a configuration."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from stitch_sweep.cli.options import AsJson, ConfigFile, Overrides, read_with_overrides
from stitch_sweep.cli.output import print_json, print_summary, stderr, stdout
from stitch_sweep.core.errors import InputError
from stitch_sweep.storage import layout
from stitch_sweep.storage.status import describe_left_out

if TYPE_CHECKING:
    from stitch_sweep.config.root import Config
    from stitch_sweep.report.writing import Report
    from stitch_sweep.sweep.progress import Reporter
    from stitch_sweep.sweep.run import Outcome


def sweep(
    config: ConfigFile,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume the sweep in the folder; if it is finished, show its results again.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the number of trials, and estimates of the time (on this machine, or with "
            "--workers) and of the disk space; run no trial.",
        ),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of a running Ray cluster: auto or HOST:PORT. Default: start a local Ray."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of workers; each worker trains resources.pack trials together.",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Experiment folder. Default: the configuration's folder.")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Keep a copy of the folder at this address, such as s3://bucket/prefix.",
        ),
    ] = None,
    retrain_stitches: Annotated[
        bool,
        typer.Option(
            "--retrain-stitches",
            help="With --resume: run trials again whose stored stitches are missing or damaged.",
        ),
    ] = False,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run every trial of a configuration and draw the stitching matrices."""
    if retrain_stitches and not resume:
        raise InputError("--retrain-stitches: only with --resume; a new sweep has no stitches yet")
    target = folder or config.parent
    from stitch_sweep.sweep.local_start import LocalStart

    with closing(LocalStart()) as start:
        if address is None and not (resume or dry_run):
            # The workers' imports take as long as this process's, so they begin at the same time.
            start.begin_template()
        with stderr.status(f"reading {config}") if stderr.is_terminal else nullcontext():
            settings = read_with_overrides(config, set_)
            from stitch_sweep.sweep.progress import Reporter

            if not dry_run:  # these imports take seconds
                from stitch_sweep.sweep.jobs import check_job
                from stitch_sweep.sweep.run import run_sweep
        if dry_run:
            from stitch_sweep.plan.estimate import estimate

            plan = estimate(settings, address, Reporter().say, workers).to_dict()
            print_summary(plan, as_json, indent="", width=28)
            return
        check_job(target, Path(settings.zoo), address=address, database=local_store(settings))
        reporter = Reporter()
        reports: list[Report | None] = []
        outcome = run_sweep(
            settings,
            target,
            resume=resume,
            retrain_stitches=retrain_stitches,
            address=address,
            workers=workers,
            mirror=mirror,
            start=start,
            reporter=reporter,
            on_tables=lambda: reports.append(_write_report(settings, target, reporter)),
        )
    report = reports[0] if reports else None
    if as_json:
        print_json(_describe_outcome(outcome, target, report))
    else:
        _print_outcome(outcome, settings, config, target, report)
    raise typer.Exit(outcome.exit_status)


def local_store(config: Config) -> Path | None:
    """Return MLflow's database file of a sweep; None without tracking, or with a server."""
    from stitch_sweep.tracking.mlflow_address import local_database, resolve

    if not config.tracking.enabled:
        return None
    return local_database(resolve(config.tracking.uri, config.places))


def _write_report(config: Config, folder: Path, reporter: Reporter) -> Report | None:
    """Write the page; return None if it isn't written, which is no failure of the sweep."""
    if config.report == "never":
        return None
    from stitch_sweep.report.writing import write_page

    try:
        with reporter.phase("report written"):
            return write_page(folder)
    except InputError as error:
        stderr.print(f"no report was written: {error}", soft_wrap=True)
        return None


def _print_outcome(
    outcome: Outcome, config: Config, file: Path, folder: Path, report: Report | None
) -> None:
    if len(outcome.results):
        _print_tables(outcome, config)
    if report is not None:
        from stitch_sweep.report.terminal import show_verdicts

        show_verdicts(report, stdout)
        stdout.print()
    stdout.print(
        f"{outcome.ended} of {outcome.total} trials ended, {outcome.failed} failed. "
        f"Tables, matrices and figures: {folder}",
        soft_wrap=True,
    )
    if outcome.is_out_of_time:
        stdout.print(
            f"search.time_budget is over: {outcome.total - outcome.ended} trials were left out. Run the "
            "same command with --resume to go on for the same time",
            soft_wrap=True,
        )
    if outcome.left_out:
        stdout.print(describe_left_out(outcome.left_out, outcome.total), soft_wrap=True)
    if outcome.stopped_early:
        stdout.print(f"{outcome.stopped_early} of {outcome.ended} trials were stopped early.")
    if outcome.copied:
        stdout.print(
            f"{outcome.copied} of {outcome.ended} trials were equal to earlier trials and copied."
        )
    if outcome.lost:
        stderr.print(
            f"{outcome.lost} trials had too many attempts. "
            "Run the same command with --resume to try them again",
            soft_wrap=True,
        )
    if report is not None:
        _print_next("The report, one file for a browser", str(report.page))
    if local_store(config) is not None and not outcome.tracking_problem:
        _print_command("Compare the runs in MLflow", "ui", file)
    journal = folder / layout.OPTUNA_JOURNAL
    if config.search.distributions and journal.exists():
        words = ["optuna-dashboard", str(journal)]
        _print_next("Look at the search, also while it runs", shlex.join(words))
    if not (folder / layout.SANITY).exists():
        _print_command("Rule out bugs before you believe a matrix", "sanity", file)


def _print_command(purpose: str, *words: str | Path) -> None:
    program = Path(sys.executable).parent / "stitch-sweep"
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    _print_next(purpose, shlex.join(map(str, [program, *words])))


def _print_next(purpose: str, text: str) -> None:
    stdout.print(Text.assemble(f"{purpose}: ", (text, "bold")), soft_wrap=True)


def _print_tables(outcome: Outcome, config: Config) -> None:
    from stitch_sweep.analysis.matrix.knock_out import gap_matrices, is_knock_out
    from stitch_sweep.analysis.results import best_trials
    from stitch_sweep.report.terminal_tables import best_table, matrix_table

    best = best_trials(outcome.results, metric=config.search.metric, mode=config.search.mode)
    stdout.print(best_table(best))
    stdout.print()
    knocked_out = {part.network for part in config.knock_out}
    for matrix in outcome.matrices:
        gaps = list(gap_matrices([matrix], knocked_out))
        for printed in gaps if is_knock_out(matrix) else [matrix, *gaps]:
            stdout.print(matrix_table(printed))
            stdout.print()


def _describe_outcome(outcome: Outcome, folder: Path, report: Report | None) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "total": outcome.total,
        "ended": outcome.ended,
        "failed": outcome.failed,
        "stopped_early": outcome.stopped_early,
        "copied": outcome.copied,
        "lost": outcome.lost,
        "interrupted": outcome.interrupted,
        "out_of_time": outcome.is_out_of_time,
        "left_out": dict(outcome.left_out),
        "tracked": outcome.tracked,
        "tracking_problem": outcome.tracking_problem or None,
        "report": None if report is None else str(report.page),
        "matrices": [matrix.file_name for matrix in outcome.matrices],
    }
