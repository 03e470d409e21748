"""Train several networks at the same time, each in a process of its own, without Ray."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from stitch_sweep.core.errors import StoppedError
from stitch_sweep.data.images import Data
from stitch_sweep.data.transfer import data_from_arrays, data_to_arrays
from stitch_sweep.networks.pretraining import Progress, train_network
from stitch_sweep.networks.recipes import Recipe
from stitch_sweep.networks.zoo import StoredNetwork, Zoo

_CONTEXT = multiprocessing.get_context("spawn")


def ensure_side_by_side(
    zoo: Zoo,
    recipes: Sequence[Recipe],
    data: Data,
    *,
    threads: int,
    slots: int,
    on_progress: Callable[[Recipe, Progress], None],
) -> list[StoredNetwork]:
    """Return the networks of some recipes; train those that the zoo lacks, several at a time, on CPUs.

    A network has the same bits as in `Zoo.ensure` with `train_network` in this process. If the wait is
    interrupted, the processes are ended, and their trainings resume from the last checkpoints.

    Args:
        zoo: where the networks are stored.
        recipes: recipes without a user's function, which another process may not be able to import.
        data: the images of the recipes.
        threads: torch's intra-op threads of each process.
        slots: number of processes at the same time.
        on_progress: called after every epoch, in one thread at a time.

    Raises:
        StoppedError: a process died without an error of its own.
        DivergedError: a training diverged; the other networks are stored first.
    """
    arrays = data_to_arrays(data)
    processes: set[SpawnProcess] = set()
    stop, lock = threading.Event(), threading.Lock()

    def train(recipe: Recipe, resume: bytes | None) -> Iterator[Progress]:
        receiving, sending = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=_train_and_send, args=(sending, recipe, arrays, threads, resume), daemon=True
        )
        with lock:
            if stop.is_set():
                raise InterruptedError(f"network {recipe.name!r} is not trained")
            process.start()
            processes.add(process)
        # The child's copy must be the only one, so that the pipe ends with the child.
        sending.close()
        try:
            yield from _receive(receiving, recipe)
        finally:
            process.terminate()
            process.join()
            processes.discard(process)

    def report(recipe: Recipe, progress: Progress) -> None:
        with lock:
            on_progress(recipe, progress)

    def ensure(recipe: Recipe) -> StoredNetwork:
        return zoo.ensure(recipe, train, report, stop.is_set)

    # Networks with one recipe are one network, which needs one slot.
    jobs: dict[str, Recipe] = {}
    for recipe in recipes:
        jobs.setdefault(recipe.folder, recipe)
    with ThreadPoolExecutor(max_workers=slots) as pool:
        futures = {folder: pool.submit(ensure, recipe) for folder, recipe in jobs.items()}
        try:
            # For all, because an error of one network is raised when the others have ended.
            wait(futures.values())
        except BaseException:
            with lock:
                stop.set()
                for process in tuple(processes):
                    process.terminate()
            pool.shutdown(cancel_futures=True)
            raise
        stored = {folder: future.result() for folder, future in futures.items()}
    return [stored[recipe.folder] for recipe in recipes]


def _receive(receiving: Connection, recipe: Recipe) -> Iterator[Progress]:
    """Yield the progress that a process sends, until it sends None; raise the error that it sends."""
    while True:
        try:
            message = receiving.recv()
        except EOFError:
            raise StoppedError(
                f"network {recipe.name!r}: its process died; run the same command to resume"
            ) from None
        if message is None:
            return
        if isinstance(message, Exception):
            raise message
        yield message


def _train_and_send(
    sending: Connection,
    recipe: Recipe,
    arrays: Mapping[str, Any],
    threads: int,
    resume: bytes | None,
) -> None:
    """Train a network in a process of its own, and send its progress, or the error that ended it."""
    # Ctrl-C reaches all processes of a terminal; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        data = data_from_arrays(arrays)
        for progress in train_network(recipe, data, threads=threads, resume=resume):
            sending.send(progress)
    except Exception as error:
        sending.send(error)
    else:
        sending.send(None)
