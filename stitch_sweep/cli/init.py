"""`stitch-sweep init`: write a configuration for two networks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stitch_sweep.cli.output import stdout
from stitch_sweep.core.errors import InputError

_TEMPLATE = """\
# stitch-sweep sweep {file} --dry-run    prints the number of trials, the time and the disk space
# stitch-sweep sweep {file}              runs them
# docs/reference/configuration.md explains every key. A key that is missing has its default.
{plugins}
# The images.
data: {data}

# Two frozen networks. They are trained once; all sweeps of this project share them.
networks:
  - {sender}
  - {receiver}
pretraining: {{recipe: fast}}

# One matrix: every layer of the sender is stitched to every layer of the receiver. Add {{sender: b,
# receiver: a}} for the other direction, and sender_layers: [0, 1] to choose layers.
pairs:
  - {{sender: a, receiver: b}}

# Comparisons that show what a matrix proves.
# controls: [untrained_sender, class_only]

# The trainable layer between sender and receiver, and its training.
stitch: {stitch}
training: {{recipe: fast}}

search:
  # Every value runs in every cell: one matrix for each loss.
  cross: {{loss: {losses}}}
  # Settings that Optuna chooses, and the number of choices that it tries in every cell.
  {mark}space:
  {mark}  training.optimizer.lr: {{type: float, low: 0.0003, high: 0.03, log: true}}
  {mark}samples: {samples}
"""


def init(
    file: Annotated[Path, typer.Argument(help="The new file.")] = Path("config.yml"),
    data: Annotated[
        str | None, typer.Option(help="Data set, such as digits or cifar10. Default: digits.")
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(help="Folder of the data set's files, if the data set is read from files."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images in pixels. Default: 16 for digits, else that of the data set."
        ),
    ] = None,
    sender: Annotated[
        str | None,
        typer.Option(
            help="Sender, such as resnet18, torchvision:resnet18, ./mine.py:make. Default: resnet1111."
        ),
    ] = None,
    receiver: Annotated[
        str | None,
        typer.Option(
            help="Receiver, in the same form. Default: the same as the sender, with another seed."
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Width of networks of built-in families. Default: 8.")
    ] = None,
    stitch: Annotated[str, typer.Option(help="Name of the stitch.")] = "conv1x1",
    loss: Annotated[
        list[str] | None,
        typer.Option(metavar="LOSS", help="Loss; repeatable. Default: task and mse."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of learning rates that Optuna tries in every study. Default: no search.",
        ),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Plugin to load and to list in the configuration, such as ./mine.py; repeatable.",
        ),
    ] = None,
) -> None:
    """Write a commented configuration for two networks. On a terminal, ask for missing values."""
    from stitch_sweep.core import plugins

    if file.exists() or file.is_symlink():
        raise InputError(f"{file}: exists already; name another file")
    if not file.parent.absolute().parent.is_dir():
        raise InputError(f"{file}: there is no folder {file.parent.parent}; create it first")
    for name in plugin or ():
        plugins.load(name)
    data = data or _ask("Data set", "digits")
    if path is None and _needs_path(data):
        path = _ask("Folder of its files", "data")
    sender = sender or _ask("Sender", "resnet1111")
    receiver = receiver or _ask("Receiver", sender)
    if image_size is None and data == "digits":
        image_size = 16
    beside = None if path is None else _relative(path, file)
    images = {"name": data, "path": beside, "image_size": image_size}
    text = _TEMPLATE.format(
        file=file,
        plugins=_plugin_section(plugin or [], file),
        data=_flow({key: value for key, value in images.items() if value is not None}),
        sender=_flow(_network("a", sender, 0, width, file)),
        receiver=_flow(_network("b", receiver, 1, width, file)),
        stitch=_flow(stitch),
        losses=_flow(loss or ["task", "mse"]),
        mark="# " if samples is None else "",
        samples=8 if samples is None else samples,
    )
    _write(file, text)
    stdout.print(f"{file} is written. Next: stitch-sweep sweep {file} --dry-run", soft_wrap=True)


def _ask(question: str, default: str) -> str:
    """Return an answer on a terminal, else the default."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return default
    answer: str = typer.prompt(question, default=default, err=True)
    return answer.strip()


def _needs_path(data: str) -> bool:
    from stitch_sweep.core.registry import DATASETS

    field = DATASETS.options(data).model_fields.get("path")
    return field is not None and field.is_required()


def _relative(path: str, file: Path) -> str:
    """Return a path of the command line as it must stand in the file."""
    return path if Path(path).is_absolute() else os.path.relpath(path, file.parent)


def _network(name: str, model: str, seed: int, width: int | None, file: Path) -> dict[str, Any]:
    """Return an entry of `networks` for the name of a model, as `stitch-sweep describe` takes it."""
    from stitch_sweep.config.networks import LIBRARIES, is_file

    source, colon, rest = model.partition(":")
    if not colon:
        return {
            "name": name,
            "family": model,
            "width": 8 if width is None else width,
            "seed": seed,
        }
    if source in LIBRARIES:
        return {"name": name, "source": source, "model": rest, "seed": seed}
    factory = f"{_relative(source, file)}:{rest}" if is_file(model) else model
    return {"name": name, "source": "python", "factory": factory, "seed": seed}


def _plugin_section(names: list[str], file: Path) -> str:
    """Return the key `plugins` with a comment; empty without plugins."""
    from stitch_sweep.core import plugins

    if not names:
        return ""
    written = [_relative(name, file) if plugins.is_file(name) else name for name in names]
    return f"\n# Files or modules that register parts of your own.\nplugins: {_flow(written)}\n"


def _flow(value: Any) -> str:
    from stitch_sweep.config.yaml_text import dump_flow

    return dump_flow(value)


def _write(file: Path, text: str) -> None:
    """Write a new configuration, and check that a sweep of it could start; otherwise remove it.

    Raises:
        InputError: it couldn't, or another process wrote the file.
    """
    from stitch_sweep.config.reading import read_config
    from stitch_sweep.plan.prepare import prepare

    is_new_folder = not file.parent.exists()
    file.parent.mkdir(exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise InputError(f"{file}: exists already; name another file") from None
    try:
        prepare(read_config(file))
    except BaseException:
        file.unlink()
        if is_new_folder:
            file.parent.rmdir()
        raise
