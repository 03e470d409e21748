"""The widths of a sweep's packs, from the driver's networks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.plan.packing import pack_width
from stitch_sweep.plan.prepare import Prepared


class PackWidths:
    """The number of places of a pack, for each receiver, layer and batch size.

    Args:
        prepared: the configuration.
        networks: the networks and controls by name; receivers are frozen in place when they are needed.
    """

    def __init__(self, prepared: Prepared, networks: Mapping[str, nn.Module]) -> None:
        self._resources = prepared.config.resources
        self._image_shape = prepared.data.train.images.shape[1:]
        self._cuts = {network.name: network.cuts for network in prepared.config.networks}
        self._networks = networks
        self._frozen: dict[str, FrozenNetwork] = {}
        self._widths: dict[tuple[str, int, int], int] = {}

    def __call__(self, receiver: str, layer: int, batch_size: int) -> int:
        """Return the number of places of the packs with stitches into one layer of a receiver."""
        if self._resources.pack != "auto":
            return self._resources.pack
        key = receiver, layer, batch_size
        if key not in self._widths:
            if receiver not in self._frozen:
                self._frozen[receiver] = FrozenNetwork(
                    self._networks[receiver], f"network {receiver!r}", self._cuts[receiver]
                )
            network = self._frozen[receiver]
            self._widths[key] = pack_width(
                self._resources, network, layer, self._image_shape, batch_size
            )
        return self._widths[key]
