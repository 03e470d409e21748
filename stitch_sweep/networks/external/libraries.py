"""The libraries of networks: their common interface, and the import of a library at its first use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

from torch import nn

COLOR_CHANNELS = 3
"""Channels of the images that a library's networks take by default."""


class Expectation(NamedTuple):
    """The images that named weights were trained with.

    Attributes:
        mean: the normalization's mean of each channel.
        std: its standard deviation of each channel.
        image_size: pixels on a side.
    """

    mean: list[float]
    std: list[float]
    image_size: int


class Library(Protocol):
    """A module of this package that makes a library's networks by name."""

    def build(self, model: str, arguments: Mapping[str, Any]) -> nn.Module:
        """Make an untrained network; its weights come from torch's global generator."""

    def load(self, model: str, weights: str, arguments: Mapping[str, Any]) -> nn.Module:
        """Make a network with named weights, downloaded or from a cache."""

    def channels(self, arguments: Mapping[str, Any]) -> int:
        """Return the number of channels of the images that a network takes."""

    def expectation(self, model: str, weights: str) -> Expectation:
        """Return the images that named weights were trained with."""


def find_library(source: str) -> Library:
    """Return the module for a network's `source`.

    Args:
        source: `torchvision` or `timm`. The library is imported only now, because the import takes
            seconds and other networks don't need it.
    """
    return cast(Library, import_module(f"stitch_sweep.networks.external.{source}"))
