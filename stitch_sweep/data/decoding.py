"""Decode image files into uint8 tensors of one shape."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import UnreadableFileError, printable, read_file

_GRAYSCALE_MODES = ("1", "L", "LA", "La")
_IMAGES_PER_TASK = 32  # a task per image would cost more than decoding a small image
_SMALL_IMAGE = 3 * 64 * 64  # values of the largest image that is decoded without threads
LARGEST_FILE = 2**30  # bytes; the largest image that Pillow accepts is smaller, even uncompressed


def readable_suffixes() -> set[str]:
    """Return the suffixes of the image files that Pillow reads, such as `.png`."""
    extensions = Image.registered_extensions().items()
    return {suffix for suffix, kind in extensions if kind in Image.OPEN}


def resize(images: Tensor, size: int | None) -> Tensor:
    """Resize to `size x size`, bilinear with antialiasing; the aspect ratio isn't kept.

    Args:
        images: `N x C x H x W`, uint8.
        size: new height and width in pixels; None keeps the images as they are.

    Returns:
        `N x C x size x size`, uint8.
    """
    if size is None or images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def decode(encoded: Sequence[tuple[str, Path | bytes]], size: int | None) -> list[Tensor]:
    """Decode images of any format that Pillow reads, in parallel.

    Grayscale images have 1 channel, all others are converted to RGB. Transparency is dropped; 16 bits
    per value are reduced to 8.

    Args:
        encoded: one or more pairs of (name for messages, file or file content).
        size: see `resize`.

    Returns:
        for each image `C x H x W`, uint8.

    Raises:
        InputError: an image can't be decoded; the message names it.
    """

    def decode_task(first: int) -> list[Tensor]:
        return [_decode_one(*pair, size) for pair in encoded[first : first + _IMAGES_PER_TASK]]

    with warnings.catch_warnings():
        # Pillow warns from half of its limit on the number of pixels; such images are decoded.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Decoding small images holds Python's interpreter lock most of the time, so threads would only
        # wait.
        is_small = _decode_one(*encoded[0], None).numel() <= _SMALL_IMAGE
        with ThreadPoolExecutor(1 if is_small else os.cpu_count()) as pool:
            parts = pool.map(decode_task, range(0, len(encoded), _IMAGES_PER_TASK))
            return list(chain.from_iterable(parts))


def _decode_one(name: str, content: Path | bytes, size: int | None) -> Tensor:
    data = b""
    try:
        data = content if isinstance(content, bytes) else read_file(content, LARGEST_FILE)
        with Image.open(BytesIO(data)) as image:
            return resize(to_tensor(image)[None], size)[0]
    except UnreadableFileError as error:
        reason = f"it {error.reason}"
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow refuses twice the size it warns about
        reason = f"it has more than {limit:,} pixels, the largest size that is read"
    except UnidentifiedImageError:
        reason = "Pillow does not read its format" if data else "it is empty"
    except Exception as error:  # Pillow's plugins raise any type of exception for broken files
        reason = printable(error) or type(error).__name__
    raise InputError(f"{printable(name)} is not an image that can be read: {reason}")


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as `C x H x W`, uint8; see `decode` for the number of channels."""
    if image.mode.startswith("I;16"):
        return torch.from_numpy((np.asarray(image) >> 8).astype(np.uint8))[None]
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no fixed range")
    if image.mode in _GRAYSCALE_MODES:
        return torch.from_numpy(np.array(image.convert("L")))[None]
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def stack_splits(splits: Mapping[str, list[Tensor]], name: str) -> dict[str, Tensor]:
    """Stack the decoded images of all splits; if any image is RGB, grayscale images become RGB.

    Args:
        splits: for each image `C x H x W`, uint8, by split.
        name: the data set and its path, for messages.

    Returns:
        The images of each split, `N x C x H x W`, uint8, H = W.

    Raises:
        InputError: the images have different sizes, or aren't square.
    """
    sizes = sorted({tuple(image.shape[1:]) for image in chain(*splits.values())})
    if len(sizes) > 1:
        raise InputError(
            f"{name}: images have {len(sizes)} different sizes (height x width), from "
            f"{'x'.join(map(str, sizes[0]))} to {'x'.join(map(str, sizes[-1]))}; set "
            "data.image_size to resize all of them to one size"
        )
    height, width = sizes[0]
    if height != width:
        raise InputError(
            f"{name}: images are {height}x{width} (height x width), which is not square; set "
            "data.image_size to resize them to squares"
        )
    channels = max(len(image) for image in chain(*splits.values()))
    return {
        split: torch.stack([image.expand(channels, -1, -1) for image in images])
        for split, images in splits.items()
    }
