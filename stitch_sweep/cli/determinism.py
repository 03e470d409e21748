"""`stitch-sweep determinism`: record the start of a run, and compare two recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from stitch_sweep.cli.options import (
    AsJson,
    ConfigFile,
    Overrides,
    PairOption,
    read_with_overrides,
)
from stitch_sweep.cli.output import print_json, stdout

app = typer.Typer(
    no_args_is_help=True,
    help="Record the computations at the start of a run, and compare two recordings.",
)


@app.command("record")
def record_run(
    config: ConfigFile,
    output_dir: Annotated[Path, typer.Option(help="A new or empty folder to write to.")],
    pair: PairOption = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Record batches, weights, outputs, gradients and random states of the first training steps."""
    from rich.table import Table

    from stitch_sweep.checks.determinism.recorder import record
    from stitch_sweep.sweep.progress import Reporter

    with Reporter() as reporter:
        settings = read_with_overrides(config, set_)
        recording = record(settings, output_dir, pair, on_progress=reporter.network)
    limits = recording.environment["not_deterministic"]
    if as_json:
        print_json(
            {
                "folder": str(output_dir),
                "pair": recording.about["pair"],
                "sha256": recording.sha256,
                "not_deterministic": limits,
            }
        )
        return
    stdout.print(f"Recorded {recording.about['pair']} in {output_dir}", soft_wrap=True)
    stdout.print(f"SHA-256 of the recording: {recording.sha256}", soft_wrap=True)
    stdout.print("Seeds cannot guarantee equal results in these cases:")
    grid = Table.grid(padding=(0, 1))
    for limit in limits:
        grid.add_row("-", Text(limit))
    stdout.print(grid)


@app.command("compare")
def compare_recordings(
    first: Annotated[Path, typer.Argument(help="The reference recording.")],
    second: Annotated[Path, typer.Argument(help="Another recording.")],
    as_json: AsJson = False,
) -> None:
    """Print the first difference between two recordings, its size, and its usual cause."""
    from stitch_sweep.checks.determinism.comparison import compare
    from stitch_sweep.checks.determinism.table import comparison_table

    comparison = compare(first, second)
    if as_json:
        print_json(comparison.to_dict())
    else:
        stdout.print(comparison_table(comparison))
    raise typer.Exit(0 if comparison.agree else 1)
