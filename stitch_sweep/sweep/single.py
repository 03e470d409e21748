"""One pair, here and now, without Ray: for a first look and for finding out what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stitch_sweep.checkpoints import pack
from stitch_sweep.config import Config, TrialSettings
from stitch_sweep.errors import InputError, nearest
from stitch_sweep.files import write_atomically
from stitch_sweep.frozen import FrozenNetwork
from stitch_sweep.sweep.prepare import prepare, provide_networks
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.sweep.resources import check_local
from stitch_sweep.training import train_stitch


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
    (sender, sender_layer), (receiver, receiver_layer) = _parse(pair, config)
    prepared = prepare(config)
    with Reporter() as reporter:
        modules = provide_networks(prepared, reporter.network)
        device = config.resources.device
        layers = {network.name: network.layers for network in config.networks}
        frozen = {
            name: FrozenNetwork(modules[name].to(device), name, layers[name])
            for name in {sender, receiver}
        }
        settings = TrialSettings.model_validate(config.settings)
        result = train_stitch(
            frozen[sender],
            frozen[receiver],
            sender_layer=sender_layer,
            receiver_layer=receiver_layer,
            data=prepared.data,
            settings=settings,
            seed=config.seed,
            threads=config.resources.cpu,
            device=device,
            augment=config.data.augment,
        )
    if save is not None:
        state = {"stitch": dict(result.stitch.state_dict()), "trial": {"pair": pair}}
        write_atomically(save, pack(state))
    return {"pair": pair, "status": result.status, "seconds": result.seconds, **result.metrics}


def _parse(pair: str, config: Config) -> list[tuple[str, int]]:
    sides = []
    names = [network.name for network in config.networks]
    parts = pair.split(",")
    for part in parts:
        name, _, layer = part.strip().rpartition(":")
        if len(parts) != 2 or not layer.lstrip("-").isdigit():
            raise InputError(
                f"--pair {pair}: write it as sender:layer,receiver:layer, like a:2,b:3"
            )
        if name not in names:
            raise InputError(f"--pair {pair}: no network is named {name!r}: {nearest(name, names)}")
        sides.append((name, int(layer)))
    return sides
