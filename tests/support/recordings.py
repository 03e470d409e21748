"""Recordings of two tiny untrained networks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from stitch_sweep.checks.determinism.comparison import COMPUTED, Stage, compare
from stitch_sweep.config.paths import replaced
from stitch_sweep.config.root import Config

BASE: dict[str, Any] = {
    "seed": 3,
    "data": {"name": "digits", "image_size": 16, "train_images": 100, "test_images": 40},
    "networks": [
        {"name": name, "family": "resnet1111", "width": 4, "seed": k, "weights": "random_raw"}
        for k, name in enumerate("ab")
    ],
    "pairs": [{"sender": "a", "receiver": "b", "sender_layers": [1], "receiver_layers": [2]}],
    "training": {"epochs": 2, "batch_size": 32},
}


FILES = {
    *("batch_info.json", "model_weights.json", "model_inspection.csv", "training.json"),
    *("generators.json", "environment.json", "tensors.safetensors", "recording.json"),
}


def configured(settings: dict[str, Any]) -> Config:
    """Return BASE with settings replaced by dotted path."""
    return Config.model_validate(replaced(copy.deepcopy(BASE), settings))


def differs(first: Path, second: Path, stage: str) -> Stage:
    """Return the first difference; it must be in `stage`, and all earlier stages must be equal."""
    result = compare(first, second)
    assert result.first is not None
    assert result.first.name == stage, result.first
    assert not result.agree
    states = {each.name: each.differing for each in result.stages}
    assert not any(states[name] for name in COMPUTED[: COMPUTED.index(stage)])
    json.dumps(result.to_dict(), allow_nan=False)
    return result.first
