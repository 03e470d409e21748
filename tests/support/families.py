"""A small network of every family, in every form that its options can give it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stitch_sweep.networks.families.building import build

# Small networks: family and options, with every value of every option that is a word.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet", {"blocks": [1, 2, 1, 1], "width": 4}),
    "resnet plain": ("resnet", {"blocks": [1, 2, 1, 1], "width": 4, "skip": "none"}),
    "densenet": ("densenet", {"blocks": [2, 3, 1], "width": 4}),
    "densenet last": ("densenet", {"blocks": [2, 3, 1], "width": 4, "skips": "last"}),
    "densenet none": ("densenet", {"blocks": [2, 3, 1], "width": 4, "skips": "none"}),
    "vgg": ("vgg", {"blocks": [1, 2, 2], "width": 4}),
    "cnn": ("cnn", {"depth": 5, "width": 4}),
    "mlp": ("mlp", {"depth": 3, "width": 24}),
    "vit": ("vit", {"depth": 2, "width": 12, "heads": 3, "patch": 4}),
    "vit mean": (
        "vit",
        {"depth": 2, "width": 12, "heads": 3, "patch": 4, "class_token": False},
    ),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def network(variant: str, channels: int = 3, size: int = 16, classes: int = 10, **options: Any):
    family, usual = VARIANTS[variant]
    torch.manual_seed(0)
    return build(family, channels, classes, {**usual, **options}, image_size=size)


def images(channels: int = 3, size: int = 16, count: int = 4, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, size, size, generator=generator)
