"""Compiled copies of frozen networks: the same function, whatever shapes the process saw before."""

from __future__ import annotations

import pytest
import torch

from stitch_sweep.networks.fast.comparison import output_and_gradient
from stitch_sweep.networks.fast.copies import FastSettings, training_network
from tests.support.fast import normed_network, rows

pytestmark = pytest.mark.usefixtures("compiler")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_copy_passes_the_comparison(precision):
    network = normed_network("resnet")
    made = training_network(network, FastSettings("compiled", precision))
    made.compare(4, rows(network, 4), stepwise=True)
    assert made.has_compared(4, stepwise=True)
    network.verify()


def test_bits_do_not_depend_on_the_shapes_that_came_before():
    results = []
    for counts in ([8], [3, 5, 8]):
        network = normed_network("vgg")
        value = rows(network, 4)
        rest = training_network(network, FastSettings("compiled")).suffix(4)
        for count in counts:
            result = output_and_gradient(rest, value[:count])
        results.append(result)
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def test_more_shapes_than_the_compiler_usually_allows_stay_compiled():
    """torch.compile gives up after eight shapes; then bits would depend on which came first."""
    network = normed_network("mlp")
    rest = training_network(network, FastSettings("compiled")).suffix(2)
    value = rows(network, 2)
    for count in range(1, 9):
        output_and_gradient(rest, value[:count])
        with torch.no_grad():
            rest(value[:count])
    assert len(rest.body._compiled) == 16
