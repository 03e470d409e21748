"""Frozen representations that all workers of one node share, through Ray's object store.

The first worker that needs a representation computes and offers it; the others read it from shared memory
without a copy. If a representation is lost, it is computed again.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stitch_sweep.sweep.ray_setup import ray

STORE_SHARE = 0.3
"""The shelf's share of a node's object store; data, networks and reports of trials need the rest."""


class ShelfActor:
    """The shelf of one node; an actor of its own, so that the death of a worker doesn't empty it.

    Args:
        limit: in bytes; the least recently used representation is dropped first.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def take(self, key: str) -> list[Any]:
        """Return a list with the reference stored under a key, or an empty list."""
        if key not in self._entries:
            return []
        self._entries.move_to_end(key)
        return [self._entries[key][0]]

    def offer(self, key: str, array: np.ndarray) -> list[Any]:
        """Store an array, unless its key exists; return the value of `take`."""
        if key not in self._entries and array.nbytes <= self._limit:
            # Put the object from this process, which then owns it: its worker could die.
            self._entries[key] = (ray.put(array), array.nbytes)
            while sum(size for _, size in self._entries.values()) > self._limit:
                self._entries.popitem(last=False)
        return self.take(key)


class NodeShelf:
    """A worker's access to the shelf of its node; see `training.representations.RepresentationShelf`.

    After any error of Ray, the worker computes the representation itself.
    """

    def __init__(self) -> None:
        self._actor: Any = None

    def take(self, key: str) -> Tensor | None:
        """Return the representation under a key, on the CPU and read-only; None if there is none."""
        try:
            return self._fetch(self._shelf().take.remote(key))
        except ray.exceptions.RayError:
            self._actor = None
            return None

    def offer(self, key: str, representation: Tensor) -> Tensor:
        """Store a representation for other workers; return the stored one, or the given one."""
        try:
            stored = self._fetch(self._shelf().offer.remote(key, representation.cpu().numpy()))
        except ray.exceptions.RayError:
            self._actor = None
            return representation
        if stored is None or representation.device.type != "cpu":
            return representation
        return stored

    @staticmethod
    def _fetch(answer: Any) -> Tensor | None:
        references = ray.get(answer)
        if not references:
            return None
        array = ray.get(references[0])
        with warnings.catch_warnings():
            # The memory is read-only, and representations are never written to.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array)

    def _shelf(self) -> Any:
        if self._actor is None:
            node = ray.get_runtime_context().get_node_id()
            resources = next(n["Resources"] for n in ray.nodes() if n["NodeID"] == node)
            limit = STORE_SHARE * resources.get("object_store_memory", 0)
            # A name belongs to its Ray job, so sweeps on one cluster don't share a shelf.
            options = {
                "name": f"shelf-{node}",
                "get_if_exists": True,
                "num_cpus": 0,
                "scheduling_strategy": (
                    ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
                ),
            }
            self._actor = ray.remote(ShelfActor).options(**options).remote(limit)
        return self._actor
