"""`stitch-sweep describe`: print a network's layers and the places where it can be cut."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from stitch_sweep.cli.options import AsJson, parse_assignments
from stitch_sweep.cli.output import print_unwrapped


def describe(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of the network, such as resnet34, vit_tiny, torchvision:resnet18, "
            "timm:resnet18, ./mine.py:make."
        ),
    ],
    width: Annotated[
        int | None,
        typer.Option(
            min=1, max=2**16, help="Base width of a built-in family. Default: the family's width."
        ),
    ] = None,
    image_size: Annotated[
        int, typer.Option(min=1, max=1024, help="Width and height of the image.")
    ] = 32,
    channels: Annotated[int, typer.Option(min=1, max=64, help="Color channels of the image.")] = 3,
    classes: Annotated[int, typer.Option(min=2, max=100_000, help="Number of classes.")] = 10,
    argument: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An argument of the model; repeatable."),
    ] = None,
    cut: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Show only this place: its shape, or the reason why the network can't be cut there; "
            "repeatable.",
        ),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Run a plugin that registers the network's family, such as ./mine.py; repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a network's modules, its cut points, and the layers that stitching uses."""
    from stitch_sweep.core import plugins
    from stitch_sweep.core.errors import check_all
    from stitch_sweep.networks.describe import cut_table, describe_cut
    from stitch_sweep.networks.describe import describe as describe_network
    from stitch_sweep.networks.external.naming import build_by_name

    for name in plugin or ():
        plugins.load(name)
    arguments = parse_assignments(argument, "--argument")
    network = build_by_name(model, channels, classes, arguments, width=width, image_size=image_size)
    shape = (channels, image_size, image_size)
    if not cut:
        description = describe_network(network, shape)
        print_unwrapped(json.dumps(description.to_dict()) if as_json else description.table())
        return
    rows = []
    check_all(*(lambda name=name: rows.append(describe_cut(network, name, shape)) for name in cut))
    print_unwrapped(
        json.dumps([row.to_dict() for row in rows]) if as_json else "\n".join(cut_table(rows))
    )
