"""Layers after which a network is linear are found by what it computes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from stitch_sweep.networks.cutting.linear_rest import find_linear_rests, is_affine
from stitch_sweep.networks.cutting.opening import open_network
from stitch_sweep.networks.families.building import build

POOLED_HEAD = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (POOLED_HEAD, True),
        (nn.Sequential(nn.BatchNorm2d(6), nn.Dropout(), *POOLED_HEAD), True),
        (nn.Sequential(nn.Conv2d(6, 6, 3), *POOLED_HEAD), True),
        (nn.Sequential(nn.ReLU(), *POOLED_HEAD), False),
        (nn.Sequential(nn.AdaptiveMaxPool2d(1), *POOLED_HEAD[1:]), False),
        (nn.Sequential(*POOLED_HEAD, nn.Softmax(dim=1)), False),
        # A kink that representations of deviation 1 don't reach.
        (nn.Sequential(nn.Hardtanh(-12, 12), *POOLED_HEAD), False),
    ],
)
def test_a_rest_is_affine_if_it_is_made_of_affine_parts(rest, expected):
    torch.manual_seed(0)
    with torch.no_grad():
        assert is_affine(rest.eval(), (6, 4, 4)) is expected


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [
        ("resnet", {"blocks": [1, 1, 1, 1]}, [4]),  # pooling and a linear head end the network
        ("resnet", {"blocks": [1, 1, 1, 1], "skip": "none"}, [4]),
        ("vgg", {"blocks": [1, 1, 1]}, [2]),
        ("mlp", {"depth": 3}, [2]),
        ("densenet", {"blocks": [2, 2]}, []),  # the last normalization is followed by a ReLU
        ("vit", {"depth": 2, "heads": 2}, []),  # a layer normalization comes before the head
    ],
)
def test_families(family, options, expected):
    network = build(family, 3, 10, {"width": 8, **options}).eval()
    opened = open_network(network, image_shape=(3, 32, 32))
    shapes = opened.shapes((3, 32, 32))
    layers = [shapes[layer.name] for layer in opened.layers]
    assert find_linear_rests(partial(opened.sub_network, end=None), layers) == expected
