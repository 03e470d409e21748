"""`stitch-sweep status`: print the progress of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stitch_sweep.cli.options import AsJson
from stitch_sweep.cli.output import print_summary


def status(
    folder: Annotated[Path, typer.Argument(help="An experiment folder.")], as_json: AsJson = False
) -> None:
    """Print the progress of a sweep, also while it runs."""
    from stitch_sweep.storage.status import read_status

    summary = {"folder": str(folder.absolute()), **read_status(folder)}
    print_summary(summary, as_json, indent="", width=14)
