"""`stitch-sweep stitch`: train one stitch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stitch_sweep.cli.options import AsJson, ConfigFile, Overrides, read_with_overrides
from stitch_sweep.cli.output import print_result


def stitch(
    config: ConfigFile,
    pair: Annotated[str, typer.Option(help="SENDER:LAYER,RECEIVER:LAYER, such as a:2,b:3.")],
    save: Annotated[
        Path | None, typer.Option(help="Write the trained stitch to this file.")
    ] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train one stitch in this process, without Ray."""
    from stitch_sweep.sweep.single import run_pair

    result = run_pair(read_with_overrides(config, set_), pair, save)
    print_result(result, as_json)
    raise typer.Exit(0 if result["status"] == "finished" else 1)
