"""Cuts, first representations and short trainings of a network of every family."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from stitch_sweep.data.images import Data
from stitch_sweep.networks.cutting.traced import TracedNetwork
from tests.support.families import VARIANTS, every_variant, images, network
from tests.support.networks import check_every_cut, prepared_network

DEEP: dict[str, dict[str, Any]] = {
    "resnet": {"blocks": [3, 3, 3, 3]},
    "densenet": {"blocks": [6, 6, 6]},
    "vgg": {"blocks": [2, 2, 4, 4]},
    "cnn": {"depth": 12, "width": 16},
    "mlp": {"depth": 12, "width": 128},
    "vit": {"depth": 12},
}


@every_variant
def test_every_cut_is_exact_and_leaves_what_it_cut_alone(subtests, variant):
    for channels, size, classes in ((1, 8, 3), (3, 28, 10)):
        with subtests.test(f"{channels}, {size}, {classes}"):
            model = prepared_network(partial(network, variant, channels, size, classes))
            check_every_cut(model, images(channels, size, 2))
            assert model(images(channels, size, 2)).shape == (2, classes)


@every_variant
def test_representations_have_a_sensible_size_before_training(subtests, variant):
    for deep in (False, True):
        with subtests.test(str(deep)):
            options = DEEP[VARIANTS[variant][0]] if deep else {}
            model = network(variant, **options)
            traced = TracedNetwork(model)
            x = images(count=16)
            with torch.no_grad():
                for layer in traced.layers:
                    values = traced.sub_network(None, layer.index)(x)
                    # Within a factor of 10 of the images' size, and different for different images.
                    assert 0.1 < values.square().mean().sqrt() < 10, layer
                    assert (values - values.mean(dim=0)).square().mean().sqrt() > 0.01, layer


@every_variant
def test_a_few_steps_of_training_lower_the_loss(variant, digits: Data):
    model = network(variant, channels=1)
    x = (digits.train.images[:128].float() / 255 - digits.mean) / digits.std
    labels = digits.train.labels[:128]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
