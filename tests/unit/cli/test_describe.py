"""`describe` prints layers, shapes and places, and refuses names and images that do not fit."""

import json


def test_describe_prints_a_table_or_json(run):
    assert "21,276,992" in run("describe", "resnet34").out
    assert isinstance(json.loads(run("describe", "resnet1111", "--json").out), dict)


def test_describe_says_what_it_was_likely_to_mean(refused, tmp_path):
    (error,) = refused("describe", "torchvison:resnet18")
    assert error.startswith("did you mean 'torchvision:resnet18'? ")
    (tmp_path / "net.py").write_text("def small():\n    ...\n\n\ndef large():\n    ...\n")
    (error,) = refused("describe", "./net.py")
    assert error == "./net.py: name a function of the file: ./net.py:small or large"


def test_describe_of_a_place_says_when_the_image_does_not_fit(refused, tmp_path):
    make = "import torch\n\n\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), "
    make += "torch.nn.Linear(48, 8), torch.nn.Linear(8, 10))\n"
    (tmp_path / "net.py").write_text(make)
    for cut in ([], ["--cut", "1"]):
        (error,) = refused("describe", "./net.py:make", "--image-size", "8", *cut)
        assert "Sequential can't take an image of shape (3, 8, 8): " in error


def test_describe_has_the_shapes_that_a_stitch_gets(run, tmp_path):
    make = """import torch
from torch import nn


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.one, self.fc = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 5), nn.Linear(5, 10)

    def forward(self, x):
        return self.fc(self.one(self.patch(x).permute(0, 2, 3, 1)).mean((1, 2)))
"""
    (tmp_path / "net.py").write_text(make)
    options = ("./net.py:Last", "--image-size", "8", "--json")
    result = json.loads(run("describe", *options).out)
    assert result["layers"][1] == {"index": 1, "name": "one", "shape": [5, 4, 4]}
    (row,) = json.loads(run("describe", *options, "--cut", "one").out)
    assert row["shape"] == [5, 4, 4]


def test_describe_says_what_crosses_where_a_network_cannot_be_cut(run, refused):
    small = ("resnet1111", "--width", "2", "--image-size", "8")
    (row,) = json.loads(run("describe", *small, "--cut", "layer2", "--json").out)
    assert (row["name"], row["layer"], row["shape"]) == ("layer2.0", 2, [4, 4, 4])
    errors = refused("describe", *small, "--cut", "layer2.0.conv1", "--cut", "layr3")
    assert "'layer1.0' is used again after it" in errors[0]
    assert "did you mean 'layer3.0'" in errors[1]
