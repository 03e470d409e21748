"""`stitch-sweep assemble`: build a network from parts of others, and train its stitches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stitch_sweep.cli.options import AsJson, ConfigFile, Overrides, read_with_overrides
from stitch_sweep.cli.output import print_result, stdout


def assemble(
    config: ConfigFile,
    folder: Annotated[
        Path | None, typer.Option(help="Output folder. Default: the configuration's folder.")
    ] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Build a network from stitches and pieces of others, and train it in this process, without Ray."""
    from stitch_sweep.sweep.assemble import run_assembly

    target = folder or config.parent
    result = run_assembly(read_with_overrides(config, set_), target)
    print_result(result, as_json)
    if not as_json:
        stdout.print(f"Trajectory and trained parts: {target}", soft_wrap=True)
    raise typer.Exit(0 if result["status"] == "finished" else 1)
