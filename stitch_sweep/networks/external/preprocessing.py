"""What lies between the data's images and a network that was trained on others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.core.errors import InputError


class Preprocessing(nn.Module):
    """From images as the data set has them to images as a network expects them.

        y = scale * (R x R^T) + shift,   scale = s_data / s,   shift = (m_data - m) / s

    for x normalised with mean m_data and standard deviation s_data, y with m and s; R interpolates
    linearly between pixels, with antialiasing where the image becomes smaller (each row sums to 1). All
    of it lies in buffers, so it is part of a network's fingerprint. Two products of matrices have, unlike
    torch's interpolation, a gradient that is deterministic on a GPU too.

    Args:
        size: pixels on a side of the data's images.
        image_size: what the network expects; None for `size`.
        scale: one number per channel; None to leave values as they are.
        shift: likewise, given together with `scale`.
        grey_to: repeat a grey image's channel so often first; None to leave channels as they are.
    """

    traced_as_one: ClassVar[bool] = True
    """One value of a traced network, not the operations it is made of."""

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
            of = None if values is None else torch.tensor(list(values)).view(-1, 1, 1)
            self.register_buffer(name, of)

    def forward(self, image: Tensor) -> Tensor:
        """`[B, C, H, W]` of the data to `[B, C', H', W']` of the network, float32."""
        if self.grey_to is not None:
            image = image.expand(-1, self.grey_to, -1, -1)
        if self.resize is not None:
            image = self.resize @ image @ self.resize.T
        if self.scale is not None and self.shift is not None:
            image = image * self.scale + self.shift
        return image


def _interpolation(size: int, image_size: int) -> Tensor:
    """The matrix [image_size, size] of linear interpolation along one side."""
    along = functional.interpolate(
        torch.eye(size, dtype=torch.float64)[None, None],
        size=(image_size, size),
        mode="bilinear",
        antialias=image_size < size,
    )
    return along[0, 0].float()


class Imported(nn.Module):
    """A network from elsewhere, which takes the data's images and keeps the names of its places.

    Args:
        network: any module from images to logits.
        preprocessing: what it needs before it; None if it takes the images as they are.
        image_shape: `(C, H, W)` of the data's images.

    Attributes:
        layer_names: the layers of stitching; set by whoever chooses them.
        classifies: whether its logits are those of the data's classes; set when it is known.

    Raises:
        InputError: the network has a part that is called as ours are.
    """

    inner_prefix: ClassVar[str] = "network."
    """Left out of the names of places: they are those of the network itself."""

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing | None,
        image_shape: Sequence[int],
    ) -> None:
        super().__init__()
        if hasattr(network, "expected_image"):
            raise InputError(
                f"{type(network).__name__} has a part named 'expected_image': rename it"
            )
        self.expected_image = preprocessing
        self.network = network
        self.image_shape = tuple(image_shape)
        self.layer_names: list[str] | None = None
        self.classifies = True

    def forward(self, image: Tensor) -> Any:
        """Images `[B, C, H, W]` of the data to logits `[B, K]`."""
        if self.expected_image is not None:
            image = self.expected_image(image)
        return self.network(image)
