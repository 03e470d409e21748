"""Frozen representations that all workers of one node share, through Ray's object store.

The first worker that needs a representation computes it and offers it; the others find it there and read
it from shared memory, uncopied. Losing any of it costs the time to compute it again, and nothing else.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

SHARE = 0.3
"""Of a node's object store; data, networks and what trials report need some of it too."""


class ShelfActor:
    """What is on the shelf of one node; an actor, so that no worker's death empties it.

    Args:
        limit: bytes; the representation that was longest not asked for is dropped first.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def take(self, key: str) -> list[Any]:
        """A list of the one reference that is kept under a key, or an empty one."""
        if key not in self._kept:
            return []
        self._kept.move_to_end(key)
        return [self._kept[key][0]]

    def offer(self, key: str, array: np.ndarray) -> list[Any]:
        """Keep an array, unless its key is there; what `take` then gives."""
        if key not in self._kept and array.nbytes <= self._limit:
            # Put by this process, which owns it from now on: the worker may die.
            self._kept[key] = (ray.put(array), array.nbytes)
            while sum(size for _, size in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)
        return self.take(key)


class NodeShelf:
    """A worker's way to the shelf of its node; see `training.Shelf`.

    Whatever goes wrong on the way, the worker computes for itself.
    """

    def __init__(self) -> None:
        self._actor: Any = None

    def take(self, key: str) -> Tensor | None:
        """The representation under a key, on the CPU and not to be written to; None without one."""
        try:
            return self._fetch(self._shelf().take.remote(key))
        except ray.exceptions.RayError:
            self._actor = None
            return None

    def offer(self, key: str, representation: Tensor) -> Tensor:
        """Keep a representation for the others, and read it from there too where it was kept."""
        try:
            kept = self._fetch(self._shelf().offer.remote(key, representation.cpu().numpy()))
        except ray.exceptions.RayError:
            self._actor = None
            return representation
        if kept is None or representation.device.type != "cpu":
            return representation
        return kept

    @staticmethod
    def _fetch(answer: Any) -> Tensor | None:
        references = ray.get(answer)
        if not references:
            return None
        array = ray.get(references[0])
        with warnings.catch_warnings():
            # The memory is read-only, and nobody writes to a representation.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array)

    def _shelf(self) -> Any:
        if self._actor is None:
            node = ray.get_runtime_context().get_node_id()
            here = next(n for n in ray.nodes() if n["NodeID"] == node)
            limit = SHARE * here["Resources"].get("object_store_memory", 0)
            # Names are the job's own, so sweeps on one cluster don't meet here.
            options = {
                "name": f"shelf-{node}",
                "get_if_exists": True,
                "num_cpus": 0,
                "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
            }
            self._actor = ray.remote(ShelfActor).options(**options).remote(limit)
        return self._actor
