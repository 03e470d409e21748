"""A network written by hand in a user's file, and configurations that use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stitch_sweep.config.reading import read_config
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.prepare import prepare

MINE = '''
"""A network written by hand, which knows nothing of Stitch Sweep."""
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


class Mine(nn.Module):
    def __init__(self, channels, colours=1, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(colours, channels, 3, padding=1)
        self.blocks = nn.Sequential(Block(channels), Block(channels))
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(x.mean((2, 3)))


class Noisy(Mine):
    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(torch.nn.functional.dropout(x.mean((2, 3))))


class DropsAlways(nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5, training=True)


class NoisyInside(Mine):
    def __init__(self, channels):
        super().__init__(channels)
        self.blocks.append(DropsAlways())


class Branches(Mine):
    def forward(self, x):
        if x.sum() > 1e9:
            return self.head(x.mean((2, 3)))
        return super().forward(x)


class Remembers(Mine):
    def forward(self, x):
        a_digit = 0.1 < float(x.diff().abs().mean()) < 0.9
        x = torch.relu(self.stem(x))
        x = self.blocks(x * 2 if a_digit else x)
        return self.head(x.mean((2, 3)))


class Counts(Mine):
    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, x):
        x = torch.nn.functional.batch_norm(self.stem(x), self.mean, self.var, training=True)
        return self.head(self.blocks(x).mean((2, 3)))


class Pair(Mine):
    def forward(self, x):
        return super().forward(x), x


def make(channels=4, **options):
    return Mine(channels, **options)


def branches():
    return Branches(4)


def remembers():
    return Remembers(4)


def counts():
    return Counts(4)


def exits():
    raise SystemExit(2)


def noisy():
    return Noisy(4)


def noisy_inside():
    return NoisyInside(4)


def pair():
    return Pair(4)


def nothing():
    return {"not": "a module"}


def fails():
    raise RuntimeError("no such luck")
'''


DATA = {"name": "digits", "image_size": 8, "train_images": 200, "test_images": 50}


def config(folder: Path, *networks: dict[str, Any], **sections: Any) -> Config:
    """Write a configuration that stitches the first network to the last one, and read it."""
    names = [network["name"] for network in networks]
    content = {
        "data": DATA,
        "networks": list(networks),
        "pairs": [{"sender": names[0], "receiver": names[-1]}],
        "pretraining": {"epochs": 1, "batch_size": 32},
        "training": {"epochs": 1, "batch_size": 32},
        "tracking": {"enabled": False},
        "zoo": str(folder / "zoo"),
        **sections,
    }
    file = folder / "config.yml"
    file.write_text(yaml.safe_dump(content))
    return read_config(file)


def python(factory: str, **keys: Any) -> dict[str, Any]:
    """Return the configuration of a network with the weights that its factory gives it."""
    return {"name": "n", "source": "python", "factory": factory, "weights": "factory", **keys}


def refused(folder: Path, *networks: dict[str, Any], **sections: Any) -> str:
    """Return the message with which a configuration is refused."""
    with pytest.raises(InputError) as caught:
        prepare(config(folder, *networks, **sections))
    return str(caught.value)


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))
