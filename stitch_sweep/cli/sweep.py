"""`stitch-sweep sweep`: run every trial of a configuration."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from stitch_sweep.cli.options import AsJson, ConfigFile, Overrides, read_with_overrides
from stitch_sweep.cli.output import print_json, print_summary, stderr, stdout
from stitch_sweep.core.errors import InputError

if TYPE_CHECKING:
    from stitch_sweep.config.root import Config
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
            help="Print the number of trials, the time on this machine or with --workers, and the "
            "disk space; run nothing.",
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
            help="Maximum number of workers, each of which trains resources.pack trials at a time.",
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
        settings = read_with_overrides(config, set_)
        if dry_run:
            from stitch_sweep.plan.estimate import estimate
            from stitch_sweep.sweep.progress import Reporter

            plan = estimate(settings, address, Reporter().say, workers).to_dict()
            print_summary(plan, as_json, indent="", width=28)
            return
        from stitch_sweep.sweep.jobs import check_job
        from stitch_sweep.sweep.run import run_sweep

        check_job(target, Path(settings.zoo), address=address, database=local_store(settings))
        outcome = run_sweep(
            settings,
            target,
            resume=resume,
            retrain_stitches=retrain_stitches,
            address=address,
            workers=workers,
            mirror=mirror,
            start=start,
        )
    if as_json:
        print_json(_describe_outcome(outcome, target))
    else:
        _print_outcome(outcome, settings, config, target)
    raise typer.Exit(outcome.exit_status)


def local_store(config: Config) -> Path | None:
    """Return MLflow's database file of a sweep; None without tracking, or with a server."""
    from stitch_sweep.tracking.mlflow_address import local_database, resolve

    if not config.tracking.enabled:
        return None
    return local_database(resolve(config.tracking.uri, config.places))


def _print_outcome(outcome: Outcome, config: Config, file: Path, folder: Path) -> None:
    if len(outcome.results):
        _print_tables(outcome, config)
    stdout.print(
        f"{outcome.ended} of {outcome.total} trials ended, {outcome.failed} failed. "
        f"Tables, matrices and figures: {folder}",
        soft_wrap=True,
    )
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
    if local_store(config) is not None and not outcome.tracking_problem:
        program = Path(sys.executable).parent / "stitch-sweep"
        if program.is_relative_to(Path.cwd()):
            program = program.relative_to(Path.cwd())
        words = [str(program), "ui", str(file)]
        stdout.print(
            Text.assemble("Compare the runs in the browser: ", (shlex.join(words), "bold")),
            soft_wrap=True,
        )


def _print_tables(outcome: Outcome, config: Config) -> None:
    from stitch_sweep.analysis.matrix.knock_out import gap_matrices, is_knock_out
    from stitch_sweep.analysis.results import best_trials
    from stitch_sweep.report.terminal_tables import best_table, matrix_table

    best = best_trials(outcome.results, metric=config.search.metric, mode=config.search.mode)
    stdout.print(best_table(best))
    knocked_out = {part.network for part in config.knock_out}
    for matrix in outcome.matrices:
        gaps = list(gap_matrices([matrix], knocked_out))
        for printed in gaps if is_knock_out(matrix) else [matrix, *gaps]:
            stdout.print(matrix_table(printed))
            stdout.print()


def _describe_outcome(outcome: Outcome, folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "total": outcome.total,
        "ended": outcome.ended,
        "failed": outcome.failed,
        "stopped_early": outcome.stopped_early,
        "copied": outcome.copied,
        "lost": outcome.lost,
        "interrupted": outcome.interrupted,
        "tracked": outcome.tracked,
        "tracking_problem": outcome.tracking_problem or None,
        "matrices": [matrix.file_name for matrix in outcome.matrices],
    }
