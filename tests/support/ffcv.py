"""The plain loader and FFCV's loader for the same images, and the comparison of their batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stitch_sweep.config.root import Config
from stitch_sweep.data.images import Data, Images
from stitch_sweep.data.loader import Loader
from tests.support.digits import DIGITS

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.25])


def with_ffcv(data: Data, folder: Path) -> Data:
    """Return the same data, read by FFCV from files in a folder."""
    return dataclasses.replace(data, beton_folder=str(folder))


def ffcv_config(**data: Any) -> Config:
    """A configuration of one tiny network on augmented digits; `data` are further keys of its data."""
    return Config.model_validate(
        {
            "data": {**DIGITS, "augment": "crop_flip", **data},
            "networks": [{"name": "n", "family": "resnet1111", "width": 2}],
            "pairs": [{"sender": "n", "receiver": "n"}],
            "pretraining": {"epochs": 2, "batch_size": 64},
        }
    )


def make_both(
    images: Images, folder: Path, batch_size: int = 5, augment: str = "crop_flip"
) -> tuple[Loader, Loader]:
    """Make the plain loader and FFCV's loader for a split."""
    from stitch_sweep.data.ffcv_loader import FfcvLoader

    channels = images.images.shape[1]
    options: Any = {"batch_size": batch_size, "seed": 0, "augment": augment}
    arguments = (images, MEAN[:channels], STD[:channels])
    return Loader(*arguments, **options), FfcvLoader(*arguments, folder=folder, **options)


def assert_equal(actual: Iterator[Any], expected: Iterator[Any]) -> None:
    """Check that both iterate over the same tuples of tensors and numbers, one by one."""
    for actual_tuple, expected_tuple in zip(actual, expected, strict=True):
        for a, b in zip(actual_tuple, expected_tuple, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def betons(folder: Path) -> list[Path]:
    """List FFCV's files in a folder."""
    return sorted(folder.glob("*.beton"))
