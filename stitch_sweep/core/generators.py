"""States of the global random generators: for checkpoints, and for computations that take turns."""

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


class OwnGenerators:
    """The random generators of one of several computations that take turns in a process.

    Within `with generators:` the global generators have the states that this computation left, so its
    random numbers don't depend on the computations between its turns.

    Args:
        device: the device of the computation. Its first state is the present state of the generators.
        every: whether Python's and NumPy's generators take turns, too. They are slow to read, and torch's
            modules don't use them.

    Attributes:
        states: as `capture_generators` returns them.
    """

    def __init__(self, device: torch.device, *, every: bool) -> None:
        self._device, self._every = device, every
        self.states = capture_generators(device)

    def __enter__(self) -> None:
        if self._every:
            restore_generators(self.states, self._device)
            return
        torch.set_rng_state(self.states["torch"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self.states["cuda"], self._device)

    def __exit__(self, *_: object) -> None:
        if self._every:
            self.states = capture_generators(self._device)
            return
        self.states["torch"] = torch.get_rng_state()
        if self._device.type == "cuda":
            self.states["cuda"] = torch.cuda.get_rng_state(self._device)
