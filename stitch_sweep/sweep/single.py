"""One pair, here and now, without Ray: for a first look and for finding out what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from stitch_sweep.config import Config, TrialSettings
from stitch_sweep.errors import InputError, nearest
from stitch_sweep.files import write_atomically
from stitch_sweep.stitches import build_stitch
from stitch_sweep.sweep.prepare import Prepared, prepare, provide_networks
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.sweep.resources import check_local
from stitch_sweep.sweep.workbench import Workbench


def run_pair(config: Config, pair: str, save: Path | None = None) -> dict[str, Any]:
    """Train the stitch of one pair with the configuration's own settings.

    Args:
        config: factors and searched settings of it play no part.
        pair: `sender:layer,receiver:layer`.
        save: where to write the stitch, if anywhere.

    Returns:
        The pair, the status, and the final metrics of `StitchTraining.finish`.

    Raises:
        InputError: the pair isn't one, or names a network or layer that doesn't exist.
    """
    check_local(config.resources)
    if save is not None and save.is_dir():
        raise InputError(f"--save {save}: is a folder, the name of a file is wanted")
    (sender, sender_layer), (receiver, receiver_layer) = _parse(pair, config)
    prepared = prepare(config)
    _check_cell(prepared, (sender, sender_layer), (receiver, receiver_layer), pair)
    with Reporter() as reporter:
        modules = provide_networks(prepared, reporter.network)
        bench = Workbench(
            config, prepared.data, {name: modules[name] for name in (sender, receiver)}
        )
        settings = TrialSettings.model_validate(config.settings)
        training = bench.training(sender, sender_layer, receiver, receiver_layer, settings)
        while not training.done:
            training.run_epoch()
            reporter.stitch(pair, training.epoch, settings.training.epochs)
        result = training.finish()
    if save is not None:
        write_atomically(save, training.pack_stitch({"pair": pair}))
    return {"pair": pair, "status": result.status, "seconds": result.seconds, **result.metrics}


def _check_cell(
    prepared: Prepared, sender: tuple[str, int], receiver: tuple[str, int], pair: str
) -> None:
    """See that the layers exist and the stitch can join them, before any network is trained."""
    stitch = prepared.config.stitch
    try:
        for name, layer in (sender, receiver):
            prepared.outlines[name].check_layers(name, [layer])
        shapes = [prepared.outlines[name].shape(layer) for name, layer in (sender, receiver)]
        with torch.device("meta"):
            build_stitch(stitch.name, *shapes, start=stitch.start, options=stitch.options)
    except InputError as error:
        raise InputError(*(f"--pair {pair}: {problem}" for problem in error.problems)) from None


def _parse(pair: str, config: Config) -> list[tuple[str, int]]:
    sides = []
    names = [network.name for network in config.networks]
    parts = pair.split(",")
    for part in parts:
        name, _, layer = part.strip().rpartition(":")
        if len(parts) != 2 or not re.fullmatch(r"-?\d{1,6}", layer):
            raise InputError(
                f"--pair {pair}: write it as sender:layer,receiver:layer, like a:2,b:3"
            )
        if name not in names:
            raise InputError(f"--pair {pair}: no network is named {name!r}: {nearest(name, names)}")
        sides.append((name, int(layer)))
    return sides
