"""`stitch-sweep status`: print the progress of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from stitch_sweep.cli.options import AsJson
from stitch_sweep.cli.output import print_summary, stderr


def status(
    folder: Annotated[Path, typer.Argument(help="An experiment folder.")], as_json: AsJson = False
) -> None:
    """Print the progress of a sweep, also while it runs."""
    from stitch_sweep.storage.status import read_status

    summary = read_status(folder)
    if not as_json:
        stderr.print(Text(str(folder), style="bold"))
    print_summary(summary, as_json, indent="  ", width=14)
