"""The objects that the trials of one process share: images, frozen networks, representations."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.bounds import BatchSize
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.data.batches import CHUNK
from stitch_sweep.data.images import Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.controls import freeze
from stitch_sweep.networks.frozen import FrozenNetwork, FrozenSender
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.representations import ActivationCache, RepresentationShelf


class Workbench:
    """Trains the stitches of a configuration, one after the other, in one process.

    Args:
        config: the configuration; its seed, threads, cache and augmentation apply to every training.
        data: the images.
        modules: networks and controls by name; they are moved to the device and frozen in place.
        device: the device of the trainings; by default `config.resources.device`.
        shelf: representations shared with other processes that have the same configuration.

    Raises:
        InputError: the configuration selects FFCV, but it isn't installed.

    Attributes:
        senders: everything that can send, by name: the networks, and senders that know only the class.
        networks: the frozen networks by name.
        device: the device of the trainings.
        cache: representations that the trainings share.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        modules: Mapping[str, nn.Module],
        device: str | None = None,
        shelf: RepresentationShelf | None = None,
    ) -> None:
        # Seed before the GPU is used, because cuBLAS allocates its workspace at its first use.
        seed_everything(config.seed, config.resources.cpu)
        self.device = device or config.resources.device
        self._config = config
        self._data = data.to(self.device)
        layers = {network.name: network.cuts for network in config.networks}
        self.senders: dict[str, FrozenSender] = {
            name: freeze(module.to(self.device), f"network {name!r}", layers[name])
            for name, module in modules.items()
        }
        self.networks = {
            name: sender
            for name, sender in self.senders.items()
            if isinstance(sender, FrozenNetwork)
        }
        self.cache = ActivationCache(config.resources.cache_gb * 2**30, shelf)
        self._loaders: dict[BatchSize, dict[str, Loader]] = {}
        # A missing FFCV is reported here, before any trial, so that no trial fails because of it.
        self.loaders(config.training.batch_size)

    def loaders(self, batch_size: BatchSize = CHUNK) -> dict[str, Loader]:
        """Return a loader per split; they are made once per batch size.

        Args:
            batch_size: images per training batch; of no effect on a walk in stored order.
        """
        if batch_size not in self._loaders:
            self._loaders[batch_size] = make_loaders(
                self._data,
                batch_size,
                seed=self._config.seed,
                augment=self._config.data.augment,
                device=self.device,
            )
        return self._loaders[batch_size]

    def training(
        self,
        sender: str,
        sender_layer: int,
        receiver: str,
        receiver_layer: int,
        settings: TrialSettings,
        repeat: int = 0,
        pack_width: int = 1,
        start: bytes | None = None,
    ) -> StitchTraining:
        """Set up the training of one stitch.

        Args:
            sender: name of the sender.
            sender_layer: the layer after which it is cut.
            receiver: name of the receiver.
            receiver_layer: the layer after which it continues.
            settings: stitch, loss and training settings.
            repeat: number of the repeat.
            pack_width: number of places in a pass of the receiver's rest; see `plan.packing`.
            start: file of a stitch of the same type and shapes, whose weights are the initial ones;
                None to start as the settings say.

        Raises:
            InputError: the stitch can't join these layers, a layer doesn't exist, or a loss needs the
                predictions of a sender that makes none.
            FrozenError: a network has changed since it was frozen.
        """
        return StitchTraining(
            self.senders[sender],
            self.networks[receiver],
            sender_layer,
            receiver_layer,
            self.loaders(settings.training.batch_size),
            settings,
            seed=self._config.seed,
            repeat=repeat,
            threads=self._config.resources.cpu,
            cache=self.cache,
            pack_width=pack_width,
            start=start,
        )
