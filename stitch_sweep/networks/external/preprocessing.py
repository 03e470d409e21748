"""Conversion of the data's images for a network that was trained on other images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.core.errors import InputError


class Preprocessing(nn.Module):
    """Convert images of the data set to images that a network expects.

        y = scale * (R x R^T) + shift,   scale = s_data / s,   shift = (m_data - m) / s

    for x normalized with mean m_data and standard deviation s_data, and y with m and s. R interpolates
    linearly between pixels, with antialiasing if the image becomes smaller (each row sums to 1). All
    values are buffers, so they are part of a network's fingerprint. R is a matrix because, unlike
    torch's interpolation, matrix products have a deterministic gradient on a GPU too.

    Args:
        size: pixels on a side of the data's images.
        image_size: pixels on a side that the network expects; None for `size`.
        scale: one number per channel; None to leave values unchanged.
        shift: one number per channel, given together with `scale`.
        grey_to: number of channels to which a grayscale image is repeated first; None for no change.
    """

    traced_as_one: ClassVar[bool] = True
    """Makes the module a single value of a traced network, instead of several operations."""

    resize: Tensor | None
    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        size: int,
        image_size: int | None = None,
        scale: Sequence[float] | None = None,
        shift: Sequence[float] | None = None,
        grey_to: int | None = None,
    ) -> None:
        super().__init__()
        self.grey_to = grey_to
        resize = None if image_size in (None, size) else _interpolation(size, image_size or size)
        self.register_buffer("resize", resize)
        for name, values in (("scale", scale), ("shift", shift)):
            per_channel = None if values is None else torch.tensor(list(values)).view(-1, 1, 1)
            self.register_buffer(name, per_channel)

    def forward(self, image: Tensor) -> Tensor:
        """Convert `[B, C, H, W]` of the data to `[B, C', H', W']` of the network, float32."""
        if self.grey_to is not None:
            image = image.expand(-1, self.grey_to, -1, -1)
        if self.resize is not None:
            image = self.resize @ image @ self.resize.T
        if self.scale is not None and self.shift is not None:
            image = image * self.scale + self.shift
        return image


def _interpolation(size: int, image_size: int) -> Tensor:
    """Return the matrix [image_size, size] of linear interpolation along one side."""
    rows = functional.interpolate(
        torch.eye(size, dtype=torch.float64)[None, None],
        size=(image_size, size),
        mode="bilinear",
        antialias=image_size < size,
    )
    return rows[0, 0].float()


class Imported(nn.Module):
    """An external network that takes the data's images; its cut points keep their names.

    Args:
        network: any module from images to logits.
        preprocessing: conversion of the images; None if the network takes them unchanged.
        image_shape: `(C, H, W)` of the data's images.

    Attributes:
        layer_names: the layers of stitching; None until they are chosen.
        classifies: whether its logits are for the data's classes; True until it is checked.

    Raises:
        InputError: the network has a part with the name of a part of this class.
    """

    inner_prefix: ClassVar[str] = "network."
    """Prefix that is removed from the names of cut points, so that they are the network's names."""

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing | None,
        image_shape: Sequence[int],
    ) -> None:
        super().__init__()
        if hasattr(network, "expected_image"):
            raise InputError(
                f"{type(network).__name__} has a part named 'expected_image', a reserved name: rename it"
            )
        self.expected_image = preprocessing
        self.network = network
        self.image_shape = tuple(image_shape)
        self.layer_names: list[str] | None = None
        self.classifies = True

    def forward(self, image: Tensor) -> Any:
        """Map images `[B, C, H, W]` of the data to logits `[B, K]`."""
        if self.expected_image is not None:
            image = self.expected_image(image)
        return self.network(image)
