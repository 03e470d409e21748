"""Representations that the workers of a node share through Ray."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from stitch_sweep.sweep.ray_setup import ray
from stitch_sweep.sweep.shelf import NodeShelf, ShelfActor


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=200 * 2**20,
    )  # fmt: skip
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Worker:
    """A process with access to the shelf."""

    def __init__(self) -> None:
        self.shelf = NodeShelf()

    def pid(self) -> int:
        return os.getpid()

    def offer(self, key: str, array: np.ndarray) -> bool:
        offered = torch.from_numpy(array.copy())
        back = self.shelf.offer(key, offered)
        return bool(torch.equal(back, offered)) and back.data_ptr() != offered.data_ptr()

    def take(self, key: str) -> np.ndarray | None:
        found = self.shelf.take(key)
        return None if found is None else found.numpy()


def numbers(seed: int, count: int = 1000) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3), dtype=np.float32)


def test_one_process_finds_what_another_offered_even_after_its_death(local_ray):
    first, second = Worker.remote(), Worker.remote()
    assert ray.get(second.take.remote("a 0 train")) is None
    assert ray.get(first.offer.remote("a 0 train", numbers(0))), "read from the shelf from now on"
    process = os.pidfd_open(ray.get(first.pid.remote()))
    ray.kill(first)
    assert select.select([process], [], [], 60)[0], "the first process has ended"
    os.close(process)
    np.testing.assert_array_equal(ray.get(second.take.remote("a 0 train")), numbers(0))


def test_a_second_offer_changes_nothing(local_ray):
    worker = Worker.remote()
    ray.get(worker.offer.remote("a 1 train", numbers(1)))
    ray.get(worker.offer.remote("a 1 train", numbers(2)))
    np.testing.assert_array_equal(ray.get(worker.take.remote("a 1 train")), numbers(1))


def test_a_shelf_that_died_is_made_anew(local_ray):
    worker = Worker.remote()
    ray.get(worker.offer.remote("a 2 train", numbers(3)))
    node = ray.get_runtime_context().get_node_id()
    ray.kill(ray.get_actor(f"shelf-{node}"))
    found = []
    while found != [True]:  # Ray needs a moment to release the name
        assert ray.get(worker.take.remote("a 2 train")) is None
        found = [ray.get(worker.offer.remote("a 2 train", numbers(3)))]
    np.testing.assert_array_equal(ray.get(worker.take.remote("a 2 train")), numbers(3))


def test_what_was_longest_not_asked_for_makes_room(local_ray):
    shelf = ShelfActor(limit=3 * numbers(0).nbytes)
    for k in range(3):
        shelf.offer(str(k), numbers(k))
    shelf.take("0")
    shelf.offer("3", numbers(3))
    assert [key for key in "0123" if shelf.take(key)] == ["0", "2", "3"]
    assert shelf.offer("large", numbers(0, 4000)) == []
    assert [key for key in "0123" if shelf.take(key)] == ["0", "2", "3"], "nothing made way for it"
