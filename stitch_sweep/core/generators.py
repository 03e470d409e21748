"""States of the global random generators, for checkpoints."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def capture_generators(device: torch.device) -> dict[str, Any]:
    """Return the states of all random generators that a training on `device` may use."""
    version, internal, gauss = random.getstate()
    numpy_state: dict[str, Any] = dict(np.random.get_state(legacy=False))
    numpy_state["state"] = {
        **numpy_state["state"],
        "key": torch.from_numpy(numpy_state["state"]["key"]),
    }
    states = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(internal), gauss],
        "numpy": numpy_state,
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: Mapping[str, Any], device: torch.device) -> None:
    """Restore the states from `capture_generators`, on a device of the same type."""
    torch.set_rng_state(states["torch"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    numpy_state = states["numpy"]
    key = numpy_state["state"]["key"].numpy()
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
