"""Images and labels as arrays of any kind, turned into the 8-bit images that Stitch Sweep stores.

Images are stored with 8 bits per value, so that they need little memory and augmentation and fingerprints
are exact. Networks receive normalized images. Images that are given as floating-point numbers are what
networks receive: they are stored as 8-bit pixels together with the scale and the shift that restore them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Images
from stitch_sweep.data.sources.base import Source
from stitch_sweep.data.splits import cut_test

_LEVELS = 256
_TOLERANCE = 0.01
"""Largest distance from a level, in levels, that counts as rounding error of floating-point numbers."""
_SAMPLE = 2**20
"""Number of values in which the levels are searched."""


@dataclass(frozen=True)
class RawImages:
    """Images and labels of one split, as they were given.

    Args:
        images: [N, C, H, W], [N, H, W, C] or [N, H, W].
        labels: [N].
        classes: names of the classes, if the data set has them.
    """

    images: Any
    labels: Any
    classes: Any = None


class _Channel(NamedTuple):
    """The map between a channel's values and pixels: value = low + step * pixel."""

    low: float
    step: float
    rounding: float


def make_source(
    splits: Mapping[str, RawImages], classes: Any, *, can_resize: bool, place: str = "data"
) -> Source:
    """Make a data set of images that were given as objects.

    Args:
        splits: `train`, and `validation` and `test` where they exist. Without `test`, a stratified
            quarter of the training images becomes the test split, the same for equal labels.
        classes: names of the classes; None for those of the data set, else the labels.
        can_resize: whether images needn't be square, because they are resized.
        place: what contains the images, for messages.

    Raises:
        InputError: images or labels can't be used.
    """
    images = {
        name: _to_image_tensor(split.images, f"{place}, {name}") for name, split in splits.items()
    }
    shape = images["train"].shape[1:]
    for name, tensor in images.items():
        if tensor.shape[1:] != shape:
            raise InputError(
                f"{place}, {name}: the images have the shape {list(tensor.shape[1:])}, and those of "
                f"train {list(shape)}"
            )
        if tensor.dtype != images["train"].dtype:
            raise InputError(
                f"{place}, {name}: the images are {tensor.dtype}, and those of train "
                f"{images['train'].dtype}"
            )
    if shape[1] != shape[2] and not can_resize:
        raise InputError(
            f"{place}: images of {shape[1]} x {shape[2]} pixels are not square; set "
            "image_size to resize them"
        )
    labels, names = _read_labels(splits, classes, place)
    notes: tuple[str, ...] = ()
    normalization = None
    if images["train"].is_floating_point():
        images, normalization, rounding = _quantize(images)
        if rounding:
            notes = (
                f"{place}: the images have more than {_LEVELS} different values per channel and are "
                f"rounded to {_LEVELS} levels; the largest change is {rounding:.2g}",
            )
    for name, tensor in images.items():
        if len(tensor) != len(labels[name]):
            raise InputError(
                f"{place}, {name}: {len(tensor)} images have {len(labels[name])} labels"
            )
    made = {name: Images(tensor, labels[name]) for name, tensor in images.items()}
    if "test" not in made:
        if len(labels["train"]) and int(labels["train"].min()) < 0:
            raise InputError(
                f"{place}: labels begin at {int(labels['train'].min())}; allowed: 0 and above"
            )
        made["train"], made["test"] = cut_test(made["train"], "in memory")
    return Source(made["train"], made["test"], names, notes, made.get("validation"), normalization)


def _to_image_tensor(value: Any, place: str) -> Tensor:
    """Return images [N, C, H, W], uint8 or float32, on the CPU."""
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().clone()  # the caller may change it later
    else:
        try:
            tensor = torch.from_numpy(np.array(value))
        except (TypeError, ValueError):
            raise InputError(
                f"{place}: images are a {type(value).__name__}, but a tensor or an array [N, C, H, W] is "
                "required"
            ) from None
    if tensor.ndim == 3:
        tensor = tensor[:, None]
    if tensor.ndim != 4 or 0 in tensor.shape:
        raise InputError(
            f"{place}: images have the shape {list(tensor.shape)}, but [N, C, H, W], [N, H, W, C] or "
            "[N, H, W] is required"
        )
    if tensor.shape[1] not in (1, 3) and tensor.shape[3] in (1, 3):
        tensor = tensor.movedim(3, 1)
    if tensor.is_floating_point():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{place}: images contain NaN or infinite values")
        return tensor.float().contiguous()
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(
            f"{place}: images are {tensor.dtype}; allowed: whole numbers from 0 to 255, floats"
        )
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high > 255:
        raise InputError(
            f"{place}: images are whole numbers from {low} to {high}; allowed: 0 to 255, or floats"
        )
    return tensor.to(torch.uint8).contiguous()


def _read_labels(
    splits: Mapping[str, RawImages], classes: Any, place: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the labels of every split, int64, and the names of the classes."""
    arrays = {}
    for name, split in splits.items():
        value = split.labels
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.array(value)
        if array.ndim != 1:
            hint = "; for one-hot labels give labels.argmax(1)" if array.ndim == 2 else ""
            raise InputError(
                f"{place}, {name}: labels have the shape {list(array.shape)}, but [N] is required{hint}"
            )
        if array.dtype.kind not in "iuU":
            raise InputError(
                f"{place}, {name}: labels are {array.dtype}, but whole numbers or text are required"
            )
        arrays[name] = array
    train = arrays["train"]
    if any(array.dtype.kind != train.dtype.kind for array in arrays.values() if array.size):
        kinds = {name: str(array.dtype) for name, array in arrays.items()}
        raise InputError(f"{place}: labels of the splits have different types: {kinds}")
    if train.dtype.kind == "U":
        found = sorted(set(train.tolist()))
        names = _class_names(classes) or tuple(found)
        numbers = {text: k for k, text in enumerate(names)}
        if missing := sorted({*(v for a in arrays.values() for v in a.tolist())} - numbers.keys()):
            raise InputError(
                f"{place}: the label {missing[0]!r} is none of the classes {list(names)}"
            )
        coded = {k: np.array([numbers[text] for text in a.tolist()]) for k, a in arrays.items()}
    else:
        count = int(train.max()) + 1 if train.size else 0
        listed = _class_names(classes)
        own = _class_names(splits["train"].classes)
        names = listed or (own if len(own) == count else ()) or tuple(map(str, range(count)))
        coded = arrays
    return {k: torch.from_numpy(a.astype(np.int64)) for k, a in coded.items()}, names


def _class_names(classes: Any) -> tuple[str, ...]:
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        return tuple(map(str, classes))
    return ()


def _quantize(
    images: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor], float]:
    """Store floating-point images as pixels.

    Returns:
        The pixels of every split, uint8; the mean and standard deviation with which normalization
        restores the values; and the largest rounding, 0 if the values are restored exactly.
    """
    count = images["train"].shape[1]
    channels = [_find_levels([tensor[:, c] for tensor in images.values()]) for c in range(count)]
    low, step = (
        torch.tensor([getattr(channel, key) for channel in channels], dtype=torch.float64)
        for key in ("low", "step")
    )
    pixels = {
        name: ((tensor - low.float().view(-1, 1, 1)) / step.float().view(-1, 1, 1))
        .round()
        .clamp(0, _LEVELS - 1)
        .to(torch.uint8)
        for name, tensor in images.items()
    }
    std = 1 / ((_LEVELS - 1) * step)
    rounding = max(channel.rounding for channel in channels)
    return pixels, ((-low * std).float(), std.float()), rounding


def _find_levels(parts: Sequence[Tensor]) -> _Channel:
    """Find equally spaced levels on which all values of a channel lie, or choose the levels."""
    low, high = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
    if low == high:
        return _Channel(low, 1.0, 0.0)
    sample = torch.cat([part.flatten()[:_SAMPLE] for part in parts]).double().unique()
    if 1 < len(sample) <= _LEVELS:
        spacing = float(sample.diff().min())
        levels = round((high - low) / spacing)
        if levels < _LEVELS:
            step = (high - low) / levels
            if all(_is_on_levels(part, low, step) for part in parts):
                # The full range of pixels, because resizing rounds to whole pixels.
                return _Channel(low, step / ((_LEVELS - 1) // levels), 0.0)
    step = (high - low) / (_LEVELS - 1)
    return _Channel(low, step, step / 2)


def _is_on_levels(part: Tensor, low: float, step: float) -> bool:
    positions = (part.double() - low) / step
    return bool(((positions - positions.round()).abs() < _TOLERANCE).all())
