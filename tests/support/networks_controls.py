"""Configurations with controls."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from stitch_sweep.config.reading import read_config
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError

ALL = [
    *("untrained_sender", "untrained_receiver", "untrained_both", "class_only", "logits_only"),
    *("image", "linear_probe"),
]
BASE: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 16, "train_images": 200, "test_images": 100},
    "networks": [
        {"name": "a", "family": "resnet1111", "width": 4},
        {"name": "b", "family": "resnet1111", "width": 4, "seed": 1},
    ],
    "pairs": [{"sender": "a", "receiver": "b"}],
}


# Layers of a resnet1111 of width 4 on images of 16 x 16.
SHAPES = [(4, 16, 16), (4, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2)]


def config(**changes: Any) -> Config:
    """Return BASE with changed sections."""
    return Config.model_validate({**copy.deepcopy(BASE), **changes})


def problems(folder: Path, **changes: Any) -> list[str]:
    """Return the problems of BASE with changed sections, without the file's name."""
    file = folder / "config.yml"
    file.write_text(yaml.safe_dump({**copy.deepcopy(BASE), **changes}))
    try:
        read_config(file)
    except InputError as error:
        return [problem.removeprefix(f"{file}: ") for problem in error.problems]
    return []
