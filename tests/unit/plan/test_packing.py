"""The width of a pack: configured, or chosen from the multiply-adds of the receiver's rest."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from torch import nn

from stitch_sweep.config.resources import ResourcesConfig
from stitch_sweep.config.root import Config
from stitch_sweep.plan.packing import (
    PASS_MULTIPLY_ADDS,
    WIDEST,
    PackWidths,
    choose_width,
    count_multiply_adds,
)
from stitch_sweep.plan.prepare import prepare
from tests.support.digits import DIGITS

CONFIG = {
    "data": DIGITS,
    "networks": [{"name": "a", "family": "resnet1111", "width": 4}],
    "pairs": [{"sender": "a", "receiver": "a"}],
}


def test_the_default_leaves_descriptions_as_they_were():
    assert "pack" not in ResourcesConfig().model_dump()
    assert "pack" not in Config.model_validate(CONFIG).model_dump()["resources"]
    for width in (2, "auto"):
        assert ResourcesConfig(pack=width).model_dump()["pack"] == width


@pytest.mark.parametrize("value", [0, -1, 257, 1.5, True, "wide", None])
def test_other_widths_are_refused(value):
    with pytest.raises(ValidationError, match="'auto' or a whole number from 1 to 256"):
        ResourcesConfig(pack=value)


def test_multiply_adds_are_those_of_the_formulas():
    convolution = nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2)
    assert count_multiply_adds(convolution, (6, 8, 8)) == 4 * 4 * 4 * (3 * 3 * 3)
    network = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    assert count_multiply_adds(network.eval(), (6, 8, 8)) == 4 * 4 * 4 * 27 + 64 * 5
    assert count_multiply_adds(nn.Linear(7, 3), (10, 7)) == 10 * 7 * 3
    assert not any(part._forward_hooks for part in network)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_pass_stays_below_its_limit_and_could_not_be_twice_as_wide(device):
    limit, widest = PASS_MULTIPLY_ADDS[device], WIDEST[device]
    for multiply_adds in (0, 1, 1000, 123_456, 10**7, 10**8, 10**9, 10**12):
        width = choose_width(device, multiply_adds)
        assert width in {2**k for k in range(10)}, multiply_adds
        assert width == 1 or width * multiply_adds <= limit, multiply_adds
        assert width == widest or 2 * width * multiply_adds > limit, multiply_adds


def test_batches_of_auto_count_in_the_width():
    """All 1,213 digits give batches of 16, whose passes have more places than those of 512 images."""
    prepared = prepare(Config.model_validate({**CONFIG, "resources": {"pack": "auto"}}))
    packs = PackWidths(prepared)
    widths = [packs.width("a", 0, batch_size=size) for size in ("auto", 16, 512)]
    assert widths[0] == widths[1] > widths[2]


def test_later_layers_have_wider_packs():
    prepared = prepare(Config.model_validate({**CONFIG, "resources": {"pack": "auto"}}))
    packs = PackWidths(prepared)
    widths = [packs.width("a", layer, batch_size=512) for layer in range(-1, 5)]
    assert widths == sorted(widths)
    assert widths[-1] == packs.widest == WIDEST["cpu"]
    fixed = prepare(Config.model_validate({**CONFIG, "resources": {"pack": 6}}))
    packs = PackWidths(fixed)
    assert packs.width("a", 0, batch_size=512) == packs.widest == 6
