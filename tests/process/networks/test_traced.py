"""Every cut of large networks of torchvision."""

from __future__ import annotations

import pytest

from stitch_sweep.networks.cutting.traced import TracedNetwork
from stitch_sweep.networks.external.preprocessing import Imported
from tests.support.networks import (
    NETWORKS,
    SLOW_NETWORKS,
    check_every_cut,
    prepared_network,
    random_images,
)


@pytest.mark.parametrize("name", SLOW_NETWORKS)
def test_every_cut_is_exact_and_safe(name):
    factory, size, at_least = NETWORKS[name]
    names = check_every_cut(prepared_network(factory), random_images(size))
    assert len(names) >= at_least, names


def test_every_cut_of_swin_gives_channels_first():
    model = Imported(prepared_network(NETWORKS["swin_t"][0]), None, (3, 64, 64)).eval()
    check_every_cut(model, random_images(64))
    shapes = TracedNetwork(model).shapes((3, 64, 64))
    maps = {shape for shape in shapes.values() if len(shape) == 3}
    assert maps >= {(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)}
    assert all(c > h == w for c, h, w in maps)
