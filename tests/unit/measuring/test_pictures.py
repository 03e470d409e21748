"""Outputs of stitches into layer -1, against images that are computed by hand."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from stitch_sweep.core.errors import InputError
from stitch_sweep.measuring.pictures import choose, displayable, read_pictures
from stitch_sweep.networks.cutting.traced import create_sub_network
from stitch_sweep.stitches.storage import load_stitch
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.predictions import decode_predictions
from tests.support.measured_sweep import networks, normalised

DEEP = '{"a":' * 900 + "1" + "}" * 900


def test_pictures_are_what_stitches_make_of_test_images(measured):
    folder = measured.folder.parent
    data, modules, _ = networks(folder)
    pictures = read_pictures(measured.path("images"))
    assert sorted(pictures.labels) == list(range(8))
    assert data.test.labels[pictures.numbers].tolist() == pictures.labels
    assert torch.equal(torch.from_numpy(pictures.originals), data.test.images[pictures.numbers])
    kinds = {(p.about["loss"], p.about["kind"], p.about["calibrated"]) for p in pictures.pictures}
    assert kinds == {
        ("task", "shown", False),
        ("mse", "reconstruction", False),
        ("correlation", "reconstruction", True),
    }
    for picture in pictures.pictures:
        about = picture.about
        if about["calibrated"]:
            continue
        stitch = load_stitch(folder / "stitches" / f"{about['trial']}.safetensors")
        images = normalised(data, "test")[pictures.numbers]
        with torch.no_grad():
            made = stitch(create_sub_network(modules["a"], -1, about["sender_layer"])(images))
            predicted = modules["b"](made).argmax(1).tolist()
        values = (made.double() * data.std.view(-1, 1, 1) + data.mean.view(-1, 1, 1)).numpy()
        assert about["minimum"] == pytest.approx(values.min(), abs=1e-5)
        assert about["maximum"] == pytest.approx(values.max(), abs=1e-5)
        assert about["clipped"] == pytest.approx(((values < 0) | (values > 1)).mean(), abs=0.005)
        shown = picture.images.astype(float) / 255
        assert np.abs(shown - values.clip(0, 1)).max() <= 0.5 / 255 + 1e-5
        assert about["predicted"] == predicted
        # The trial's own predictions are those of the whole network.
        record = Ledger(folder).read(about["trial"])
        assert decode_predictions(record)[pictures.numbers].tolist() == predicted


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


def test_a_file_that_holds_no_pictures_is_named(measured, tmp_path):
    damaged = tmp_path / "images.safetensors"
    damaged.write_bytes(measured.path("images").read_bytes()[:-100])
    foreign = next((measured.folder.parent / "stitches").glob("*"))
    for path in (damaged, foreign, tmp_path / "none"):
        with pytest.raises(InputError, match=path.name):
            read_pictures(path)


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
