"""Checkpoints of a stitch's training: the identity of the training, and the reading of its state."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core import plugins
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.frozen import FrozenSender
from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.checkpoints import FORMAT, unpack
from stitch_sweep.storage.digests import digest


def training_identity(
    sender: tuple[FrozenSender, int],
    receiver: tuple[FrozenSender, int],
    loaders: Mapping[str, Loader],
    settings: TrialSettings,
    *,
    seed: int,
    repeat: int,
    threads: int,
    pack_width: int,
    start: bytes | None,
) -> dict[str, Any]:
    """Describe everything that determines the bits of a training's result.

    A checkpoint fits a training only if their identities are equal.

    Args:
        sender: the network and the layer after which it is cut.
        receiver: likewise.
        loaders: `train`, `validation` and `test`.
        settings: stitch, loss and training settings.
        seed: the sweep's seed.
        repeat: number of the repeat.
        threads: torch's intra-op threads, which influence the last bits of results.
        pack_width: number of places in a pass of the frozen rest, which influences them, too.
        start: file of the stitch that the training starts from; None if the settings determine it.
    """
    train = loaders["train"]
    identity = {
        "format": FORMAT,
        "sender": [sender[0].fingerprint, sender[1]],
        "receiver": [receiver[0].fingerprint, receiver[1]],
        "settings": settings.model_dump(mode="json"),
        "seed": [seed, repeat],
        "augment": train.augment,
        "labels": digest({k: loader.images.labels for k, loader in loaders.items()}),
        "threads": threads,
        "device": train.device.type,
    }
    # Checkpoints of older versions, which had neither packs nor such starts, stay valid.
    if pack_width > 1:
        identity["pack"] = pack_width
    if start is not None:
        identity["start"] = hashlib.sha256(start).hexdigest()
    if content := plugins.contents(set(plugins.texts(identity["settings"]))):
        identity["plugins"] = content
    return identity


def read_checkpoint(checkpoint: bytes, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read the state of a training from its checkpoint.

    Args:
        checkpoint: as `StitchTraining.checkpoint` returns it.
        identity: of the training that is to be resumed, as in `training_identity`.

    Raises:
        CheckpointError: the bytes are damaged, or aren't a checkpoint of this training.
    """
    state = unpack(checkpoint)
    checkpoint_identity = state.get("of")
    if not isinstance(checkpoint_identity, Mapping):
        raise CheckpointError("foreign: not a checkpoint of a stitch's training")
    if checkpoint_identity != identity:
        keys = {**identity, **checkpoint_identity}
        parts = [key for key in keys if checkpoint_identity.get(key) != identity.get(key)]
        raise CheckpointError(f"a checkpoint of another training ({', '.join(parts)} not the same)")
    return state
