"""The images that are chosen and shown, and files of pictures of another shape.

tests/process/measuring/test_pictures.py compares those of a sweep with images computed by hand.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from stitch_sweep.core.errors import InputError
from stitch_sweep.measuring.pictures import choose, displayable, read_pictures

DEEP = '{"a":' * 900 + "1" + "}" * 900


def test_a_picture_of_an_image_is_that_image(digits):
    pixels = digits.test.images[:5]
    values = (pixels.float() / 255 - digits.mean.view(-1, 1, 1)) / digits.std.view(-1, 1, 1)
    shown, about = displayable(values, digits.mean, digits.std)
    assert np.array_equal(shown, pixels.numpy())
    assert about["clipped"] == 0
    assert about["minimum"] == pytest.approx(0, abs=1e-5)
    assert about["maximum"] == pytest.approx(pixels.max().item() / 255, abs=1e-5)
    shown, about = displayable(values * math.nan, digits.mean, digits.std)
    assert about == {"minimum": None, "maximum": None, "clipped": None}


def test_images_of_every_class_are_chosen_first():
    assert choose([0, 0, 0, 1, 1, 2], count=4) == [0, 3, 5, 1]
    assert choose([1], count=4) == [0]


@pytest.mark.parametrize(
    "fault", ["labels", "predicted", "factors", "shape", "kind", "deep", "list", "pipe"]
)
def test_pictures_of_another_shape_are_named(tmp_path, fault):
    about = {"trial": "t", "sender": "a", "sender_layer": 1, "receiver": "b", "factors": {},
             "loss": "mse", "kind": "shown", "predicted": [0, 1]}  # fmt: skip
    content: dict[str, Any] = {"numbers": [0, 1], "labels": [0, 1], "classes": ["x", "y"],
                               "predicted": {}, "pictures": [about]}  # fmt: skip
    stack = np.zeros((2, 1, 4, 4), np.uint8)
    images = stack[:, :, :2] if fault == "shape" else stack
    text = json.dumps(content)
    path = tmp_path / "images.safetensors"
    save_file({"originals": stack, "0": stack}, path, {"pictures": text})
    assert len(read_pictures(path).pictures) == 1
    changed = {"labels": {"labels": ["a", "b"]},
               "predicted": {"pictures": [{**about, "predicted": [0, 1, 2]}]},
               "factors": {"pictures": [{**about, "factors": 5}]},
               "kind": {"pictures": [{**about, "kind": []}]}}.get(fault, {})  # fmt: skip
    text = {"deep": DEEP, "list": "[]"}.get(fault) or json.dumps({**content, **changed})
    path.unlink()
    if fault == "pipe":
        os.mkfifo(path)
    else:
        save_file({"originals": stack, "0": images}, path, {"pictures": text})
    with pytest.raises(InputError, match=r"images\.safetensors"):
        read_pictures(path)
