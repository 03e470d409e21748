"""The number of workers that fit at once on the nodes of a Ray cluster; each trains a pack of trials."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stitch_sweep.plan import machine
from stitch_sweep.sweep.ray_setup import ray

UNLIMITED_SLOTS = 64
"""Number of workers to request from an autoscaling cluster whose limit is unknown."""
_REFRESH_SECONDS = 5.0


class Slots:
    """The number of workers that fit at once, at least 1; refreshed, because nodes come and go.

    Args:
        cpu: CPUs of a worker.
        gpu: GPUs of a worker, or its share of one.
        workers: upper limit, if the user gave one.
    """

    def __init__(self, cpu: int, gpu: float, workers: int | None) -> None:
        self._arguments = cpu, gpu, workers
        self._count = max(1, count_slots(*self._arguments))
        self._refreshed = time.monotonic()

    def __call__(self) -> int:
        """Return the number, a few seconds old at most; the last one if the cluster doesn't answer."""
        if time.monotonic() - self._refreshed > _REFRESH_SECONDS:
            with contextlib.suppress(ray.exceptions.RayError):
                self._count = max(1, count_slots(*self._arguments))
            self._refreshed = time.monotonic()
        return self._count


def count_slots(cpu: int, gpu: float, workers: int | None = None) -> int:
    """Count the workers that fit at once on the cluster, with the nodes that it may add.

    Args:
        cpu: CPUs of a worker.
        gpu: GPUs of a worker, or its share of one.
        workers: upper limit; also the number where the cluster's limit is unknown.
    """
    # Tune asks an autoscaling cluster for the resources of its trials, so it gets as many as may fit.
    count = max(count_current_slots(cpu, gpu), count_autoscaled_slots(cpu, gpu, workers))
    return count if workers is None else min(count, workers)


def count_current_slots(cpu: int, gpu: float) -> int:
    """Count the workers that fit at once on the cluster's present nodes, if nothing else runs there."""
    # A worker never spreads over two nodes.
    return sum(_slots_of_node(node["Resources"], cpu, gpu) for node in ray.nodes() if node["Alive"])


def count_autoscaled_slots(cpu: int, gpu: float, workers: int | None = None) -> int:
    """Count the workers that fit on an autoscaling cluster with all its nodes; 0 if it doesn't grow.

    A driver can't ask Ray for the limit of its cluster. On a head that `ray up` made, a file contains it.
    With KubeRay it is unknown, and the user should set `--workers`.
    """
    file = Path("~/ray_bootstrap_config.yaml").expanduser()
    if not file.is_file():
        is_autoscaling = "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "")
        return (workers or UNLIMITED_SLOTS) if is_autoscaling else 0
    cluster = yaml.safe_load(file.read_text())
    types = cluster["available_node_types"]
    slots = _slots_of_node(types.pop(cluster["head_node_type"])["resources"], cpu, gpu)
    remaining_nodes = cluster["max_workers"]
    node_types = [
        (_slots_of_node(node["resources"], cpu, gpu), node["max_workers"])
        for node in types.values()
    ]
    for slots_per_node, most in sorted(node_types, reverse=True):
        nodes = min(most, remaining_nodes)
        slots, remaining_nodes = slots + nodes * slots_per_node, remaining_nodes - nodes
    return slots


def describe_slots(count: int, widest: int) -> str:
    """Describe for the user how many trials run at once.

    Args:
        count: number of workers.
        widest: largest number of places of a pack.

    Example:
        >>> describe_slots(2, widest=1)
        '2 trials at a time'
        >>> describe_slots(2, widest=8)
        'workers: 2, each with up to 8 trials at a time'
    """
    if widest == 1:
        return f"{count} trials at a time"
    return f"workers: {count}, each with up to {widest} trials at a time"


def count_cpus_per_gpu() -> int:
    """Count the CPUs for each GPU, on the node that has the fewest."""
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("GPU")]
    return min(int(node.get("CPU", 0) // node["GPU"]) for node in nodes)


def _slots_of_node(available: Mapping[str, Any], cpu: int, gpu: float) -> int:
    return machine.count_slots(available.get("CPU", 0), available.get("GPU", 0), cpu, gpu)
