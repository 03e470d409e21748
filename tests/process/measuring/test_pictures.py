"""Outputs of stitches into layer -1, against images that are computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.measuring.pictures import read_pictures
from stitch_sweep.networks.cutting.traced import create_sub_network
from stitch_sweep.stitches.storage import load_stitch
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.predictions import decode_predictions
from tests.support.measured_sweep import networks, normalised


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


def test_a_file_that_holds_no_pictures_is_named(measured, tmp_path):
    damaged = tmp_path / "images.safetensors"
    damaged.write_bytes(measured.path("images").read_bytes()[:-100])
    foreign = next((measured.folder.parent / "stitches").glob("*"))
    for path in (damaged, foreign, tmp_path / "none"):
        with pytest.raises(InputError, match=path.name):
            read_pictures(path)
