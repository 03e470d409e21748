"""Longer trainings on all digits: a network stitched to itself keeps its accuracy."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from stitch_sweep.config.data import DataConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load, make_loaders
from stitch_sweep.networks.families.building import build
from tests.support.digits import TINY
from tests.support.train_stitch import train_stitch
from tests.support.training import settings

ALL = range(5)


@pytest.mark.long
@pytest.mark.parametrize("layer", ALL)
@pytest.mark.parametrize("epochs", [TrialSettings().training.epochs, 20])
def test_a_network_stitched_to_itself_by_mse_keeps_its_accuracy(digits_and_a, layer, epochs):
    data, network = digits_and_a
    result = train_stitch(
        network,
        network,
        sender_layer=layer,
        receiver_layer=layer,
        data=data,
        settings=settings("mse", epochs=epochs),
    )
    assert abs(result.metrics["penalty"]) <= 0.01
    assert result.metrics["converged"] or epochs < 20


@pytest.fixture(scope="module")
def digits_and_a() -> tuple[Data, nn.Module]:
    """All digits and a network trained on them for ten epochs."""
    data = load(DataConfig.model_validate({"name": "digits", "image_size": 16}))
    seed_everything(0, threads=1)
    network = build("resnet", 1, 10, TINY)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    loader = make_loaders(data, 64, seed=0)["train"]
    for epoch in range(10):
        for batch in loader.batches(epoch):
            optimizer.zero_grad()
            functional.cross_entropy(network(batch.images), batch.labels).backward()
            optimizer.step()
    return data, network
