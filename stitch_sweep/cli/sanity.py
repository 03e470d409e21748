"""`stitch-sweep sanity`: run the checks that rule out bugs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stitch_sweep.cli.options import (
    AsJson,
    ConfigFile,
    Overrides,
    PairOption,
    read_with_overrides,
)
from stitch_sweep.cli.output import print_json, stdout
from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.layout import SANITY


def sanity(
    config: ConfigFile,
    pair: PairOption = None,
    images: Annotated[
        int,
        typer.Option(
            help="Number of training images, and of test images, for checks that don't use all images."
        ),
    ] = 1000,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="Run only this check, such as order; repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Output file. Default: sanity.json in the configuration's folder."),
    ] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check for bugs in storage, evaluation, image order, schedule, frozen networks and precision."""
    from stitch_sweep.checks.sanity.suite import run_sanity
    from stitch_sweep.checks.sanity.table import details, findings_table

    settings = read_with_overrides(config, set_)
    target = output or config.parent / SANITY
    if target.resolve() == config.resolve():
        raise InputError(f"--output {target}: is the configuration itself; name another file")
    report = run_sanity(settings, pair=pair, images=images, only=only or (), output=target)
    if as_json:
        print_json(report.to_dict())
    else:
        stdout.print(findings_table(report))
        for detail in details(report):
            stdout.print(detail)
        stdout.print(f"Written to {target}", soft_wrap=True)
    raise typer.Exit(0 if report.passed else 1)
