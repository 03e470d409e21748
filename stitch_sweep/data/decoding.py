"""Encoded image files to uint8 tensors of one shape."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
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

GREY_MODES = ("1", "L", "LA", "La")
IMAGES_PER_TASK = 32  # a task per image would cost more than decoding a small one
SMALL = 3 * 64 * 64  # values per image
LARGEST_FILE = 2**30  # bytes: more than the largest image that Pillow reads takes uncompressed


def resize(images: Tensor, size: int | None) -> Tensor:
    """Resize to `size x size`, bilinear with antialiasing; the aspect ratio isn't kept.

    Args:
        images: `N x C x H x W`, uint8.
        size: new height and width in pixels; None leaves the images as they are.

    Returns:
        `N x C x size x size`, uint8.
    """
    if size is None or images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def decode(encoded: Sequence[tuple[str, Path | bytes]], size: int | None) -> list[Tensor]:
    """Decode images in parallel, whatever PIL opens.

    Grey images give 1 channel, all others RGB; transparency is dropped, 16 bits become 8.

    Args:
        encoded: one or more pairs of (where it comes from, for messages; a file or its content).
        size: see `resize`.

    Returns:
        for each image `C x H x W`, uint8.

    Raises:
        InputError: an image can't be decoded; the message says which.
    """

    def decode_some(first: int) -> list[Tensor]:
        return [_decode_one(*pair, size) for pair in encoded[first : first + IMAGES_PER_TASK]]

    # Small images keep the interpreter busier than the decoder: threads would wait for each other.
    with warnings.catch_warnings():
        # Of images that have over half the pixels that Pillow refuses: they are read all the same.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        small = _decode_one(*encoded[0], None).numel() <= SMALL
        with ThreadPoolExecutor(1 if small else os.cpu_count()) as pool:
            parts = pool.map(decode_some, range(0, len(encoded), IMAGES_PER_TASK))
            return list(chain.from_iterable(parts))


def _decode_one(where: str, content: Path | bytes, size: int | None) -> Tensor:
    data = b""
    try:
        data = content if isinstance(content, bytes) else read_file(content, LARGEST_FILE)
        return resize(_to_tensor(data)[None], size)[0]
    except UnreadableFileError as error:
        reason = f"it {error.reason}"
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow refuses twice what it warns of
        reason = f"it has more than {most:,} pixels, the most that is read"
    except UnidentifiedImageError:
        reason = "it is in no format that Pillow reads" if data else "it is empty"
    except Exception as error:  # PIL's plugins answer a broken file with any exception there is
        reason = printable(error) or type(error).__name__
    raise InputError(f"{printable(where)} is not an image that can be read: {reason}")


def _to_tensor(data: bytes) -> Tensor:
    with Image.open(BytesIO(data)) as image:
        if image.mode.startswith("I;16"):
            return torch.from_numpy((np.asarray(image) >> 8).astype(np.uint8))[None]
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode} have no fixed range")
        if image.mode in GREY_MODES:
            return torch.from_numpy(np.array(image.convert("L")))[None]
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def stack(train: list[Tensor], test: list[Tensor], where: str) -> tuple[Tensor, Tensor]:
    """Stack decoded images of both splits; grey ones among RGB ones become RGB.

    Args:
        train: for each image `C x H x W`, uint8.
        test: likewise.
        where: the data set and its path, for messages.

    Returns:
        training and test images, each `N x C x H x W`, uint8, H = W.

    Raises:
        InputError: sizes differ, or the images aren't square.
    """
    sizes = sorted({tuple(image.shape[1:]) for image in chain(train, test)})
    if len(sizes) > 1:
        raise InputError(
            f"{where}: images have {len(sizes)} different sizes (height x width), from "
            f"{'x'.join(map(str, sizes[0]))} to {'x'.join(map(str, sizes[-1]))}; set "
            "data.image_size to bring them to one"
        )
    height, width = sizes[0]
    if height != width:
        raise InputError(
            f"{where}: images are {height}x{width} (height x width), which is not square; set "
            "data.image_size to make them so"
        )
    channels = max(len(image) for image in chain(train, test))
    stacked_train, stacked_test = (
        torch.stack([image.expand(channels, -1, -1) for image in split]) for split in (train, test)
    )
    return stacked_train, stacked_test
