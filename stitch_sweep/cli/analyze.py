"""`stitch-sweep analyze`: judge matrices and write the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from stitch_sweep.cli.options import Allow, AsJson, Download, RunCode
from stitch_sweep.cli.output import print_json, stdout
from stitch_sweep.core.errors import InputError


def analyze(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Experiment folders. Parts of the same experiment are merged; other folders are "
            "compared."
        ),
    ] = None,
    matrix: Annotated[
        Path | None, typer.Option(help="Judge this matrix of accuracies (CSV) instead of folders.")
    ] = None,
    chance: Annotated[
        float | None,
        typer.Option(
            help="Accuracy of guessing. Default: 1 / number of classes; 0.1 with --matrix."
        ),
    ] = None,
    sender_accuracy: Annotated[
        float | None, typer.Option(help="With --matrix: the sender's own test accuracy.")
    ] = None,
    receiver_accuracy: Annotated[
        float | None, typer.Option(help="With --matrix: the receiver's own test accuracy.")
    ] = None,
    test_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            help="With --matrix: number of test images on which the accuracies were measured.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Output folder. Default: the first folder; none with --matrix."),
    ] = None,
    no_measure: Annotated[
        bool,
        typer.Option(
            "--no-measure",
            help="Skip results that are computed from networks, images and stitches.",
        ),
    ] = False,
    run_code: RunCode = False,
    allow: Allow = None,
    download: Download = None,
    track: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="MLflow server or store with the runs: link trials to their runs, and upload the "
            "report. Default: contact no server.",
        ),
    ] = None,
    # Accepted because older scripts pass it: contacting no server has become the default.
    no_track: Annotated[bool, typer.Option("--no-track", hidden=True)] = False,
    as_json: AsJson = False,
) -> None:
    """Judge the matrices, and write report.html with its figures and tables."""
    matrix_options = {
        "--sender-accuracy": sender_accuracy,
        "--receiver-accuracy": receiver_accuracy,
        "--test-images": test_images,
    }
    if bool(folders) == (matrix is not None):
        raise InputError("analyze needs either experiment folders or --matrix FILE.csv, not both")
    if no_track and track is not None:
        raise InputError("--no-track and --track contradict each other")
    options_given = [name for name, value in matrix_options.items() if value is not None]
    if matrix is None and options_given:
        raise InputError(
            f"{', '.join(options_given)}: only with --matrix; the results of a folder contain it"
        )
    from stitch_sweep.report import terminal, writing
    from stitch_sweep.sweep.progress import Reporter

    if matrix is not None:
        report = writing.analyze_matrix(
            matrix,
            output=output,
            chance=0.1 if chance is None else chance,
            sender_accuracy=math.nan if sender_accuracy is None else sender_accuracy,
            receiver_accuracy=math.nan if receiver_accuracy is None else receiver_accuracy,
            test_images=test_images,
        )
    else:
        with Reporter() as reporter:
            report = writing.analyze(
                folders or [],
                output=output,
                measured=not no_measure,
                run_code=run_code,
                allow=allow or (),
                download=download or (),
                track=track,
                chance=chance,
                on_progress=reporter.step,
            )
    if as_json:
        print_json(report.to_dict(), allow_nan=False)
    else:
        terminal.show(report, stdout)
