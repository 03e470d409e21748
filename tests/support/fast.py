"""Networks with BatchNorm statistics for tests of fast copies, and batches at their layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.networks.frozen import FrozenNetwork
from tests.support import families


def normed_network(variant: str) -> FrozenNetwork:
    """Make a small frozen network whose BatchNorm is far from the identity."""
    module = families.network(variant)
    generator = torch.Generator().manual_seed(3)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.2, 2.0, generator=generator)
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(norm.bias, 0, 0.3, generator=generator)
    return FrozenNetwork(module, f"network {variant!r}")


def rows(network: FrozenNetwork, layer: int) -> Tensor:
    """Return a layer's representation of eight images of noise."""
    with torch.no_grad():
        representation: Tensor = network.prefix(layer)(families.images(count=8))
    return representation
