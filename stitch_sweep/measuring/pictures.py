"""Outputs of stitches into layer -1: images.

A stitch that is trained to match the image gives a *reconstruction*: the part of the image that the
sender's layer retains. A stitch that is trained for the task gives an image that the receiver is *shown*,
which need not look like the original.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import describe_problems
from stitch_sweep.core.untrusted import MIB, UnreadableFileError, parse_json, size
from stitch_sweep.storage.files import write_atomically

COUNT = 8
"""Number of test images."""

_KEY = "pictures"


@dataclass(frozen=True, eq=False)
class Picture:
    """The output of one stitch for the chosen test images.

    Attributes:
        about: plain data: `trial`, `sender`, `sender_layer`, `receiver`, `repeat`, `factors` (column of
            results.parquet -> value, without the loss), `loss`, `kind` (`reconstruction` or `shown`),
            `calibrated` (whether a fitted map follows the stitch, which restores the properties that
            the loss ignores), `minimum`, `maximum` and `clipped` (over these images, before clipping,
            in units where the original's range is [0, 1]; the last is the share of values outside this
            range), and `predicted`, the receiver's class for each unclipped image.
        images: uint8 [COUNT, C, H, W], clipped to the displayable range.
    """

    about: dict[str, Any]
    images: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class Pictures:
    """The chosen test images, and the outputs of every stored stitch into layer -1 for them.

    Attributes:
        numbers: indices of the test images, in stored order.
        labels: the class of each.
        classes: the names of all classes.
        predicted: the classes that each network predicts for the originals, by network.
        originals: uint8 [COUNT, C, H, W].
        pictures: one per stitch.
    """

    numbers: list[int]
    labels: list[int]
    classes: list[str]
    predicted: dict[str, list[int]]
    originals: np.ndarray = field(repr=False)
    pictures: list[Picture]


def choose(labels: Sequence[int], count: int = COUNT) -> list[int]:
    """Choose the images to show: the first of every class, then the second of every class, and so on.

    Args:
        labels: class of each image.
        count: number of images; all images if there are fewer.

    Returns:
        Indices into `labels`.

    Example:
        >>> choose([1, 1, 0, 1, 0], count=3)
        [2, 0, 4]
    """
    counts: dict[int, int] = {}
    ranked = []
    for position, label in enumerate(labels):
        counts[label] = counts.get(label, -1) + 1
        ranked.append((counts[label], label, position))
    return [position for _, _, position in sorted(ranked)[:count]]


def displayable(normalized: Tensor, mean: Tensor, std: Tensor) -> tuple[np.ndarray, dict[str, Any]]:
    """Convert a network's inputs to displayable images, and measure how far they leave that range.

    Args:
        normalized: float [B, C, H, W], in the form that networks receive.
        mean: [C], as in `Data.mean`.
        std: [C], as in `Data.std`.

    Returns:
        uint8 [B, C, H, W]; and `minimum`, `maximum`, `clipped` as in `Picture.about`, None where a
        value is NaN or infinite.
    """
    shape = (-1, 1, 1)
    values = normalized.double() * std.to(normalized).double().view(shape)
    values = values + mean.to(normalized).double().view(shape)
    finite = bool(values.isfinite().all())
    # A pixel of 255 comes back as 1 with an error in the last bits of float32.
    outside = (values < -1e-5) | (values > 1 + 1e-5)
    about = {
        "minimum": values.min().item() if finite else None,
        "maximum": values.max().item() if finite else None,
        "clipped": outside.double().mean().item() if finite else None,
    }
    shown = values.nan_to_num(nan=0.0).clamp(0, 1).mul(255).round()
    return shown.to(torch.uint8).cpu().numpy(), about


def write_pictures(path: Path, pictures: Pictures) -> None:
    """Write a safetensors file: `originals`, and a tensor per picture, named `0`, `1`, ...

    Everything else is JSON in its metadata, under the key `pictures`.
    """
    tensors = {"originals": pictures.originals}
    tensors |= {str(k): picture.images for k, picture in enumerate(pictures.pictures)}
    content = {
        "numbers": pictures.numbers,
        "labels": pictures.labels,
        "classes": pictures.classes,
        "predicted": pictures.predicted,
        "pictures": [picture.about for picture in pictures.pictures],
    }
    # JSON has no NaN: another program could not read it.
    metadata = {_KEY: json.dumps(content, allow_nan=False)}
    write_atomically(path, save(tensors, metadata=metadata))


def read_pictures(path: Path | str) -> Pictures:
    """Read a file that `write_pictures` wrote.

    Raises:
        InputError: the file is missing, damaged, or of another kind.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(f"{path}: there is no such file")
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise ValueError(f"not a file of at most {size(_LARGEST)}")
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {})[_KEY]
            content = _FileMetadata.model_validate(parse_json(text, path))
            originals = file.get_tensor("originals")
            images = [file.get_tensor(str(k)) for k in range(len(content.pictures))]
        if not all(_are_images(stack, originals.shape) for stack in (originals, *images)):
            raise ValueError("its tensors are not images of one shape")
        if originals.shape[0] != len(content.labels):
            raise ValueError(f"{originals.shape[0]} images with {len(content.labels)} labels")
    except UnreadableFileError as error:
        raise InputError(f"{path}: contains no images of `measure` ({error.reason})") from None
    except ValidationError as error:
        problem = describe_problems(error, _FileMetadata)[0]
        raise InputError(f"{path}: contains no images of `measure` ({problem})") from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: contains no images of `measure` ({reason})") from None
    pictures = [
        Picture(about.model_dump(), stack)
        for about, stack in zip(content.pictures, images, strict=True)
    ]
    return Pictures(
        content.numbers, content.labels, content.classes, content.predicted, originals, pictures
    )


_LARGEST = 1024 * MIB
"""Maximum size of a file."""


class _PictureMetadata(BaseModel):
    """The metadata of one picture; see `Picture.about`."""

    model_config = ConfigDict(extra="allow")

    trial: str
    sender: str
    sender_layer: int
    receiver: str
    factors: dict[str, str | int | float | bool | None]
    loss: str
    kind: Literal["reconstruction", "shown"]
    predicted: list[int]


class _FileMetadata(BaseModel):
    """The metadata of the file; see `Pictures`."""

    numbers: list[int]
    labels: list[int]
    classes: list[str]
    predicted: dict[str, list[int]]
    pictures: list[_PictureMetadata]

    @model_validator(mode="after")
    def _check_counts(self) -> _FileMetadata:
        if any(len(about.predicted) > len(self.labels) for about in self.pictures):
            raise PydanticCustomError("count", "has more predicted classes than images")
        return self


def _are_images(stack: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether an array contains displayable images [N, C, H, W] of the originals' shape."""
    return stack.dtype == np.uint8 and stack.ndim == 4 and stack.shape == shape and 0 not in shape
