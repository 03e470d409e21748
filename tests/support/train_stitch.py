"""Train one stitch of loaded data and modules, without a configuration."""

from __future__ import annotations

import torch
from torch import nn

from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.controls import freeze
from stitch_sweep.networks.frozen import FrozenNetwork, FrozenSender
from stitch_sweep.training.loop import StitchResult, StitchTraining


def train_stitch(
    sender: FrozenSender | nn.Module,
    receiver: FrozenNetwork | nn.Module,
    *,
    sender_layer: int,
    receiver_layer: int,
    data: Data,
    settings: TrialSettings | None = None,
    seed: int = 0,
    repeat: int = 0,
    threads: int = 1,
    device: str | torch.device = "cpu",
    augment: str = "none",
) -> StitchResult:
    """Train one stitch from start to end.

    Args:
        sender: classifies images [B, C, H, W] of `data`, or is a `ClassOnly`; it is frozen in place.
        receiver: classifies the same images; may be the sender itself.
        sender_layer: -1 (the image) or the index of one of `layers(sender)`.
        receiver_layer: -1 (the image) or the index of one of `layers(receiver)`.
        data: the images.
        settings: stitch, loss and training settings; the defaults of `TrialSettings` if not given.
        seed: seed of order, augmentation and initial weights.
        repeat: selects other initial weights under the same seed.
        threads: torch's intra-op threads, which influence the last bits of the result.
        device: the device of the training, such as `cpu` or `cuda`.
        augment: how training images are augmented: `none` or `crop_flip`.

    Raises:
        InputError: the stitch can't join these layers, a layer doesn't exist, or the receiver is not a
            network.
        FrozenError: a network changed during training.

    Example:
        >>> result = train_stitch(a, b, sender_layer=0, receiver_layer=1, data=load(...))
        >>> result.metrics["penalty"]
    """
    settings = settings or TrialSettings()
    frozen_receiver = _freeze(receiver, "receiver", device)
    if not isinstance(frozen_receiver, FrozenNetwork):
        name = frozen_receiver.name
        raise InputError(f"{name} can only send, not receive")
    training = StitchTraining(
        _freeze(sender, "sender", device),
        frozen_receiver,
        sender_layer,
        receiver_layer,
        make_loaders(data, settings.training.batch_size, seed=seed, augment=augment, device=device),
        settings,
        seed=seed,
        repeat=repeat,
        threads=threads,
    )
    while not training.done:
        training.run_epoch()
    return training.finish()


def _freeze(
    network: FrozenSender | nn.Module, name: str, device: str | torch.device
) -> FrozenSender:
    return network if isinstance(network, FrozenSender) else freeze(network.to(device), name)
