"""Packs whose frozen rest is compiled: a member's result is the same as alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.networks.fast.copies import FastSettings, training_network
from stitch_sweep.training import places
from stitch_sweep.training.pack import Pack
from tests.support.fast import normed_network, rows
from tests.support.training import finished, frozen, outcome, settings, training

WIDTH = 4


pytestmark = pytest.mark.usefixtures("compiler")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_member_of_a_compiled_pass_has_its_result_alone(a, b, digits, precision):
    networks = frozen(a, b)
    members = {
        "task": (2, settings(frozen="compiled", precision=precision)),
        "sum": (4, settings({"task": 1, "mse": 0.5}, frozen="compiled", precision=precision)),
    }

    def start(name):
        layer, chosen = members[name]
        return training(*networks, layer, 3, digits, chosen, threads=1, pack_width=WIDTH)

    alone = {name: outcome(finished(start(name))) for name in members}
    assert {result["status"] for result in alone.values()} == {"finished"}
    for names in (list(members), list(members)[::-1]):
        pack, trainings = Pack(WIDTH), {name: start(name) for name in names}
        for running in trainings.values():
            pack.add(running)
        while pack.members:
            assert not pack.run_epoch()
        for name, running in trainings.items():
            assert outcome(running.finish()) == alone[name], (names, name)


def test_compiled_linear_layers_run_place_by_place_at_every_width(monkeypatch):
    """With a stand-in that shows by how many places a linear layer was run."""

    def add_width(layer: nn.Linear, width: int, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, layer.weight, layer.bias) + width

    monkeypatch.setattr(places, "_apply_by_place", add_width)
    network = normed_network("resnet")
    rest = training_network(network, FastSettings("compiled")).suffix(4)
    value = rows(network, 4)
    with torch.no_grad():
        plain = rest(value)
        for width in (4, 2, 4):
            added = places.run_places(rest, value, width) - plain
            torch.testing.assert_close(added, torch.full_like(added, width), rtol=0, atol=1e-4)
        torch.testing.assert_close(rest(value), plain)
