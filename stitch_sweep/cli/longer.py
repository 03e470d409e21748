"""`stitch-sweep longer`: train a sample of a sweep's trials for longer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stitch_sweep.cli.options import Allow, AsJson, Download, RunCode
from stitch_sweep.cli.output import print_json, stdout


def longer(
    folder: Annotated[Path, typer.Argument(help="An experiment folder.")],
    share: Annotated[
        float,
        typer.Option(
            help="Share of the finished trials of each loss to train; the number of trials is "
            "rounded up."
        ),
    ] = 0.1,
    times: Annotated[int, typer.Option(help="Factor on the number of epochs.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the random choice of trials.")] = 0,
    run_code: RunCode = False,
    allow: Allow = None,
    download: Download = None,
    as_json: AsJson = False,
) -> None:
    """Train a random tenth of the trials four times as long, and print their gains in accuracy."""
    from stitch_sweep.measuring.longer import GAIN, train_longer
    from stitch_sweep.report.terminal_tables import longer_table
    from stitch_sweep.sweep.progress import Reporter

    with Reporter() as reporter:
        result = train_longer(
            folder,
            share=share,
            times=times,
            seed=seed,
            on_epoch=reporter.step,
            run_code=run_code,
            allow=allow or (),
            download=download or (),
        )
    if as_json:
        print_json(
            {"losses": result.summary(), "notes": result.notes, "table": str(result.path)},
            allow_nan=False,
        )
        return
    stdout.print(longer_table(result.summary(), GAIN))
    for note in result.notes:
        stdout.print(f"note: {note}", soft_wrap=True)
    stdout.print(f"Written to {result.path}", soft_wrap=True)
