"""`stitch-sweep zoo`: train and list the frozen networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from stitch_sweep.cli.options import AsJson, ConfigFile, Overrides, read_with_overrides
from stitch_sweep.cli.output import print_json, stdout
from stitch_sweep.core.errors import InputError

_SHOWN_DIGITS = 8
"""Digits of a folder's hash that the list shows."""

app = typer.Typer(no_args_is_help=True, help="Train and list the frozen networks.")


@app.command("train")
def train_networks(config: ConfigFile, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Train those networks of a configuration that are missing in the zoo; on CPUs, in parallel."""
    from stitch_sweep.config.networks import LOGITS_ONLY
    from stitch_sweep.core.cpus import usable_cpus
    from stitch_sweep.networks.side_by_side import ensure_side_by_side
    from stitch_sweep.networks.zoo import Zoo
    from stitch_sweep.plan.machine import check_local
    from stitch_sweep.plan.prepare import add_probes, make_local_trainer, prepare
    from stitch_sweep.sweep.progress import Reporter

    settings = read_with_overrides(config, set_)
    resources = settings.resources
    check_local(resources)
    prepared = prepare(settings, cells=False)
    zoo, recipes = Zoo(settings.zoo), prepared.recipes()
    missing = [recipe for recipe in recipes if zoo.find(recipe) is None]
    slots = min(len({recipe.folder for recipe in missing}), usable_cpus() // resources.cpu)
    with Reporter() as reporter:
        # Another process can't import a user's function, or a network family of a plugin.
        if (
            slots > 1
            and resources.device == "cpu"
            and not any(recipe.is_made_by_user for recipe in missing)
        ):
            ensure_side_by_side(
                zoo,
                missing,
                prepared.data,
                threads=resources.cpu,
                slots=slots,
                on_progress=reporter.network,
            )
        train = make_local_trainer(settings, prepared.data)
        entries = [(r.name, zoo.ensure(r, train, reporter.network)) for r in recipes]
        if any(network.kind == LOGITS_ONLY for network in settings.networks):
            add_probes(prepared, prepared.networks(dict(entries)), reporter.network)
    if as_json:
        print_json([{"name": n, "folder": str(e.folder), **e.accuracy} for n, e in entries])
        return
    for name, entry in entries:
        stdout.print(f"{name}: test accuracy {entry.accuracy['test']:.4f}  {entry.folder}")


@app.command("list")
def list_networks(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder of the zoo. Default: zoo in the current folder's project."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the networks of a zoo with their accuracies."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from stitch_sweep.config.places import Places
    from stitch_sweep.networks.zoo import Zoo
    from stitch_sweep.report.wording import format_duration

    folder = Places.of_folder(Path()).locate("zoo") if folder is None else folder.absolute()
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such zoo; `stitch-sweep zoo train` creates it")
    entries = Zoo(folder).entries()
    if as_json:
        print_json(
            [{"folder": str(e.folder), "recipe": e.recipe, "accuracy": e.accuracy} for e in entries]
        )
        return
    stdout.print(f"{len(entries)} networks in {folder}", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("network", overflow="fold")
    table.add_column("options", overflow="fold")
    for title in ("val", "test", "time"):
        table.add_column(title, justify="right", no_wrap=True)
    for entry in entries:
        name, _, digest = entry.folder.name.rpartition("-")
        scores = [f"{entry.accuracy[split]:.3f}" for split in ("validation", "test")]
        table.add_row(
            f"{name}-{digest[:_SHOWN_DIGITS]}",
            _describe_options(entry.options),
            *scores,
            format_duration(entry.seconds),
        )
    stdout.print(table)


def _describe_options(options: Mapping[str, Any]) -> str:
    """Write a family's options as short as they stay readable: `blocks=1,1,1,1 width=4`."""
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in options.items()
    }
    return " ".join(f"{name}={text}" for name, text in texts.items())
