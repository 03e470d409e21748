"""The small data set and the tiny network that most tests use."""

from __future__ import annotations

from typing import Any

DIGITS: dict[str, Any] = {
    "name": "digits",
    "image_size": 16,
    "train_images": 300,
    "test_images": 120,
}
TINY: dict[str, Any] = {"blocks": [1, 1, 1, 1], "width": 4}
