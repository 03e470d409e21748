"""One stitch, trained from Python."""

from __future__ import annotations

import copy

import pytest
import torch

import stitch_sweep as ss
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.seeding import settings
from stitch_sweep.storage.digests import fingerprint
from tests.support.api import Net, make_images
from tests.support.digits import DIGITS
from tests.support.train_stitch import train_stitch

SETTINGS = {"training": {"epochs": 1, "batch_size": 64}, "stitch": "conv1x1", "loss": "mse"}


def test_it_trains_the_stitch_of_a_configuration(trained, digits):
    a, b = (copy.deepcopy(trained[name]) for name in "ab")
    names = list(ss.layers(b, (1, 16, 16))["name"])
    expected = train_stitch(
        copy.deepcopy(a),
        copy.deepcopy(b),
        sender_layer=1,
        receiver_layer=2,
        data=digits,
        settings=TrialSettings.model_validate(
            {**SETTINGS, "stitch": {"name": "conv1x1"}, "loss": {"mse": 1.0}}
        ),
    )
    for place in (2, names[2]):
        result = ss.stitch(a, b, 1, place, data=DIGITS, **SETTINGS)
        assert result.metrics == expected.metrics
        assert torch.equal(result.predictions, expected.predictions)
        assert list(result.trajectory["step"]) == [row["step"] for row in expected.trajectory]


def test_the_callers_networks_and_process_are_unchanged():
    a, b = Net().train(), Net(6).train()
    before = [fingerprint(net) for net in (a, b)]
    torch.manual_seed(7)
    state, configured = torch.get_rng_state(), settings()
    ss.stitch(a, b, 0, 1, data=make_images(), **SETTINGS)
    assert [fingerprint(net) for net in (a, b)] == before
    assert a.training
    assert all(p.requires_grad for p in (*a.parameters(), *b.parameters()))
    assert torch.equal(torch.get_rng_state(), state)
    assert settings() == configured


def test_the_result_is_stored_drawn_and_shown(tmp_path):
    result = ss.stitch(Net(), Net(), "stem", "middle", data=make_images(), **SETTINGS)
    stored = ss.load_stitch(result.save(tmp_path / "stitch.safetensors"))
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(stored(x), result.stitch(x))
    assert result.plot()._repr_png_().startswith(b"\x89PNG")
    assert "test_accuracy" in result._repr_html_()


def test_problems_are_sentences():
    images, labels = make_images()
    cases = {
        "no setting is named 'trainng'": ((Net(), Net(), 0, 0), {"trainng": {}}),
        "receiver has layers -1 (the image) to 2, not 9": ((Net(), Net(), 0, 9), {}),
        "sender_layer: is 1.5": ((Net(), Net(), 1.5, 0), {}),
        "network 'sender': is a int": ((3, Net(), 0, 0), {}),
        "a head for 3 classes, and the data has 4": ((Net(), Net(classes=3), 0, 0), {}),
        "training.epochs": ((Net(), Net(), 0, 0), {"training": {"epochs": -1}}),
        "give either recipe or training": (
            (Net(), Net(), 0, 0),
            {"recipe": "fast", "training": {"recipe": "fast"}},
        ),
    }
    for text, (arguments, options) in cases.items():
        with pytest.raises(ss.InputError) as raised:
            ss.stitch(*arguments, data=(images, labels), **options)
        assert text in str(raised.value), text
