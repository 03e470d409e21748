"""Descriptions of networks, and the names and options of ResNets."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import FAMILIES
from stitch_sweep.networks.cutting.points import CutError
from stitch_sweep.networks.describe import describe, describe_cut
from stitch_sweep.networks.external.naming import build_by_name
from stitch_sweep.networks.families.building import build, resolve
from stitch_sweep.networks.families.resnet import ResNet
from tests.support.paths import SHARED

SEED = SHARED / "seeds" / "001_d3dcd0ab02ebc2f1.txt"


def network(name: str, width: int = 64, channels: int = 3, classes: int = 10) -> ResNet:
    family, options = resolve(name)
    model = build(family, channels, classes, {**options, "width": width})
    assert isinstance(model, ResNet)
    return model


@pytest.fixture(scope="module")
def resnet34():
    return describe(network("resnet34"), (3, 32, 32))


def seed_table() -> list[str]:
    if not SEED.exists():
        pytest.skip(f"{SEED} is not here: the table it holds can't be compared")
    return [line for line in SEED.read_text().splitlines() if line.strip()]


def test_the_rows_are_those_of_the_seed(resnet34):
    pattern = re.compile(r"^[│├└─ ]*(\w+(?:: \d+-\d+)?) +(--|\[[\d, ]+\]) +(--|[\d,]+)$")
    expected = [match.groups() for line in seed_table() if (match := pattern.match(line))]
    found = [
        (
            row.label,
            "--" if row.shape is None else str(row.shape),
            "--" if row.params is None else f"{row.params:,}",
        )
        for row in resnet34.rows
        if not row.head
    ]
    assert len(expected) == 1 + 8 + 16 + 99
    assert found == expected


def test_the_printed_table_is_that_of_the_seed(resnet34):
    lines = seed_table()
    start = next(i for i, line in enumerate(lines) if line.startswith("Layer (type"))
    end = next(i for i, line in enumerate(lines) if line.startswith("Total params"))
    printed = str(resnet34).splitlines()
    table = [line.rstrip() for line in lines[start:end]]
    head = next(line for line in printed if "Linear" in line)
    assert printed[1 : 1 + len(table) + 1] == [*table[:-1], head, table[-1]]
    for line in lines[end:]:
        total = line.partition("Total params: ")[2]
        if total:
            assert f"Without the head: {total}" in printed
        elif line.startswith(("Total mult-adds", "Input size", "Forward/backward", "Non-train")):
            assert line in printed


def test_resnet34_counts(resnet34):
    # 3x3 stem; per block two 3x3 convolutions and two BatchNorms; 1x1 skips where the width doubles.
    expected = 3 * 64 * 9 + 2 * 64
    for blocks, width, previous in ((3, 64, 64), (4, 128, 64), (6, 256, 128), (3, 512, 256)):
        expected += previous * width * 9 + (2 * blocks - 1) * width * width * 9 + 4 * blocks * width
        expected += (previous * width + 2 * width) if previous != width else 0
    assert expected == 21_276_992
    assert resnet34.params_without_head == expected
    assert resnet34.total_params == resnet34.trainable_params == expected + 512 * 10 + 10
    assert f"{resnet34.mult_adds / 1e9:.2f}" == "1.16"
    assert [row.path for row in resnet34.rows if row.head] == ["fc"]
    shapes = [row.shape for row in resnet34.layers]
    stages = [(64, 32, 32)] * 4 + [(128, 16, 16)] * 4 + [(256, 8, 8)] * 6 + [(512, 4, 4)] * 3
    assert shapes == stages
    assert [row.index for row in resnet34.layers] == list(range(17))


def test_mult_adds_are_those_of_the_convolutions():
    found = describe(network("resnet1111", width=4, classes=7), (3, 16, 16))
    pairs = [(4, 4, 256), (4, 8, 64), (8, 16, 16), (16, 32, 4)]  # channels in, out, positions
    convolutions = 3 * 4 * 9 * 256 + sum((a * b + b * b) * 9 * n for a, b, n in pairs)
    skips = sum(a * b * n for a, b, n in pairs if a != b)
    assert found.mult_adds == convolutions + skips + 32 * 7


@pytest.mark.parametrize("name", ["resnet1111", "vit2"])
def test_the_total_is_what_lies_before_and_after_every_cut(name):
    """Attention's products belong to no module, but they count."""
    family, options = resolve(name)
    model = build(family, 3, 10, {**options, "width": 12}, image_size=16)
    found = describe(model, (3, 16, 16))
    totals = {row.mult_adds_before + row.mult_adds_after for row in found.cut_points}
    assert totals == {found.mult_adds}


def test_describe_leaves_the_network_and_the_generator_alone():
    model = network("resnet1122", width=2)
    model.layer2.eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    describe(model, (3, 16, 16))
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_description_is_json(resnet34):
    found = json.loads(json.dumps(resnet34.to_dict()))
    assert found["layers"][4] == {"index": 4, "name": "layer2.0", "shape": [128, 16, 16]}
    assert found["cut_points"][4]["name"] == "layer1.0"
    assert found["cut_points"][4]["layer"] == 1
    assert found["rows"][1]["label"] == "Conv2d: 1-1"
    assert found["rows"][1]["shape"] == [1, 64, 32, 32]


def test_describe_refuses_what_the_network_cannot_take():
    model = network("resnet1111", width=2)
    with pytest.raises(InputError, match="3 channels"):
        describe(model, (1, 16, 16))
    with pytest.raises(InputError, match=r"\(C, H, W\)"):
        describe(model, (16, 16))


def test_a_network_that_cannot_be_cut_is_still_described():
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1)) if x.sum() > -1 else x

    found = describe(Branch(), (3, 2, 2))
    assert found.layers == []
    assert "x.sum() > -1" in found.no_layers
    assert found.total_params == 65
    assert found.no_layers in str(found)


def test_every_cut_point_is_listed_with_what_lies_on_both_sides(resnet34):
    rows = resnet34.cut_points
    assert [row.index for row in rows] == list(range(len(rows)))
    assert {row.params_before + row.params_after for row in rows} == {resnet34.total_params}
    named = {row.name: row.layer for row in rows}
    assert [named[layer.name] for layer in resnet34.layers] == list(range(17))
    assert "layer3.5" in str(resnet34)
    assert describe_cut(network("resnet34"), "layer3.5.relu2", (3, 32, 32)) in rows
    with pytest.raises(CutError, match=r"'layer3\.4' is used again after it"):
        describe_cut(network("resnet34"), "layer3.5.conv1", (3, 32, 32))


def test_models_are_called_by_name_from_wherever_they_are(tmp_path):
    assert build_by_name("torchvision:resnet18", 3, 7).fc.out_features == 7
    assert build_by_name("resnet1111", 1, 7, width=3).conv1.weight.shape == (3, 1, 3, 3)
    assert (
        build_by_name("torch.nn:Linear", 3, 7, {"in_features": 2, "out_features": 5}).out_features
        == 5
    )
    (tmp_path / "mine.py").write_text("from torch import nn\nmake = nn.Identity\n")
    assert isinstance(build_by_name(f"{tmp_path}/mine.py:make", 3, 7), nn.Identity)
    for name, message in {
        "torchvision:resnet_18": "did you mean 'resnet18'",
        "torch.nn:Linaer": "did you mean 'Linear'",
        "no_such_package:make": "No module named",
    }.items():
        with pytest.raises(InputError, match=message):
            build_by_name(name, 3, 7)
    with pytest.raises(InputError, match="--width"):
        build_by_name("torchvision:resnet18", 3, 7, width=3)


def test_names_resolve(subtests):
    for name, blocks in (
        ("resnet10", [1, 1, 1, 1]),
        ("resnet18", [2, 2, 2, 2]),
        ("resnet34", [3, 4, 6, 3]),
        ("resnet1111", [1, 1, 1, 1]),
        ("resnet1293", [1, 2, 9, 3]),
    ):
        with subtests.test(f"{name}, {blocks}"):
            assert resolve(name) == ("resnet", {"blocks": blocks})
            assert len(network(name, width=1).layer_names) == 1 + sum(blocks)


def test_other_names_are_refused_with_the_allowed_forms(subtests):
    for name in ("resnet1110", "resnet11111", "resnet", "vgg", "", "ResNet34"):
        with subtests.test(str(name)), pytest.raises(InputError, match="resnetABCD"):
            resolve(name)


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(InputError, match="did you mean 'resnet34'"):
        resolve("resnet_34")


def test_wrong_options_are_refused(subtests):
    for options, where in (
        ({"blocks": [1, 1, 1]}, "blocks"),
        ({"blocks": [1, 1, 1, 0]}, r"blocks\.3"),
        ({"blocks": [1, 1, 1, 1], "width": 0}, "width"),
        ({"blocks": [1, 1, 1, 1.5]}, r"blocks\.3"),
        ({"blocks": [1, 1, 1, 1], "widht": 8}, "widht"),
        ({}, "blocks: Field required"),
    ):
        with subtests.test(f"{options}, {where}"), pytest.raises(InputError, match=where):
            build("resnet", 3, 10, options)


def test_an_unknown_family_is_refused():
    with pytest.raises(InputError, match="did you mean 'resnet'"):
        build("resnets", 3, 10)


def test_the_family_is_registered_with_its_options():
    options = FAMILIES.options("resnet")(blocks=[1, 1, 1, 1])
    assert options.model_dump() == {"blocks": [1, 1, 1, 1], "width": 64}


def test_widths_channels_and_sizes(subtests):
    for width, channels, size in ((1, 1, 8), (3, 3, 15), (8, 1, 28)):
        with subtests.test(f"{width}, {channels}, {size}"):
            found = describe(network("resnet1111", width, channels, 7), (channels, size, size))
            sizes = [size, size, -(-size // 2), -(-size // 4), -(-size // 8)]
            widths = [width, width, 2 * width, 4 * width, 8 * width]
            assert [row.shape for row in found.layers] == [
                (w, s, s) for w, s in zip(widths, sizes, strict=True)
            ]
            assert found.rows[-1].shape == [1, 7]


def test_nothing_works_in_place():
    model = network("resnet34", width=1)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_initial_weights_follow_the_seed_and_he():
    torch.manual_seed(5)
    first = network("resnet1111").state_dict()
    torch.manual_seed(5)
    again = network("resnet1111").state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    weight = first["layer4.0.conv2.weight"]
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert torch.equal(first["layer4.0.bn2.weight"], torch.ones(512))
    assert torch.equal(first["layer4.0.bn2.bias"], torch.zeros(512))
