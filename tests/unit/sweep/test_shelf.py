"""The cache of representations offers its results to a shelf, and reads from it."""

from __future__ import annotations

import pytest
import torch

from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.evaluation import evaluate
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.representations import ActivationCache
from tests.support.training import settings


class Recording:
    """A shelf in this process."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}
        self.taken: list[str] = []

    def take(self, key: str) -> torch.Tensor | None:
        if key in self.kept:
            self.taken.append(key)
        return self.kept.get(key)

    def offer(self, key: str, representation: torch.Tensor) -> torch.Tensor:
        self.kept[key] = representation
        return representation


def test_what_is_taken_from_a_shelf_is_not_computed(a, digits, monkeypatch):
    """The shared representation equals a computed one, bit for bit."""
    loaders = make_loaders(digits, 32, seed=0)
    network, common = FrozenNetwork(a, "a"), Recording()
    computed = ActivationCache(2**30).get("sender train", network, 1, loaders["train"])
    ActivationCache(2**30, common).get("sender train", network, 1, loaders["train"])
    monkeypatch.setattr(network, "represent", lambda *_: pytest.fail("was computed again"))
    found = ActivationCache(2**30, common).get("expected train", network, 1, loaders["train"])
    assert torch.equal(found, computed)
    assert common.taken == ["a 1 train"]
    with pytest.raises(pytest.fail.Exception):
        ActivationCache(2**30, common).get("sender train", network, 2, loaders["train"])


def test_a_receiver_is_evaluated_once_per_shelf(a, b, digits, monkeypatch):
    """Its own accuracy, in a second process too, is the share of right predictions on the test images."""
    loaders, common = make_loaders(digits, 64, seed=0), Recording()
    accuracies = []
    for _ in range(2):
        receiver, cache = FrozenNetwork(b, "b"), ActivationCache(2**30, common)
        training = StitchTraining(
            FrozenNetwork(a, "a"), receiver, 2, 3, loaders, settings(epochs=0), cache=cache
        )
        represent = receiver.represent
        monkeypatch.setattr(
            receiver,
            "represent",
            lambda layer, batch, represent=represent: (
                pytest.fail("was evaluated again")
                if layer is None and accuracies
                else represent(layer, batch)
            ),
        )
        accuracies.append(training.finish().metrics["receiver_accuracy"])
    assert accuracies == [evaluate(b, loaders["test"]).accuracy] * 2


def test_what_is_too_large_for_a_process_does_not_go_on_the_shelf(a, digits):
    common = Recording()
    loader = make_loaders(digits, 32, seed=0)["train"]
    assert (
        ActivationCache(10.0, common).get("sender train", FrozenNetwork(a, "a"), 1, loader) is None
    )
    assert common.kept == {}
