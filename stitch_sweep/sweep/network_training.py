"""The training of a sweep's networks as Ray tasks."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stitch_sweep.config.plugins import used_extensions
from stitch_sweep.core.errors import StoppedError
from stitch_sweep.core.plugins import Plugin
from stitch_sweep.core.registry import Registration
from stitch_sweep.networks.pretraining import Progress, train_network
from stitch_sweep.networks.recipes import Recipe
from stitch_sweep.networks.zoo import StoredNetwork, Zoo
from stitch_sweep.plan.prepare import Prepared, add_probes
from stitch_sweep.sweep.gpu_errors import is_broken_device, is_out_of_memory
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.sweep.ray_setup import ray
from stitch_sweep.sweep.retries import RETRIES


def train_networks(prepared: Prepared, reporter: Reporter, slots: int) -> dict[str, Any]:
    """Return all networks of a sweep; train those that the zoo lacks, side by side.

    The longest trainings start first, so that no slot waits long for the last one.

    Args:
        prepared: the configuration.
        reporter: shows the progress.
        slots: number of networks that are trained at the same time.

    Raises:
        StoppedError: a GPU has too little memory for a network, or its process died too often.
    """
    zoo = Zoo(prepared.config.zoo)
    recipes = {recipe.name: recipe for recipe in prepared.recipes()}
    data = None
    if any(zoo.find(recipe) is None for recipe in recipes.values()):
        data = ray.put(prepared.data)
    stop = threading.Event()

    def ensure(recipe: Recipe) -> StoredNetwork:
        def train(recipe: Recipe, resume: bytes | None) -> Iterator[Progress]:
            return _train_with_retries(prepared, zoo, reporter, data, recipe, resume)

        return zoo.ensure(recipe, train, reporter.network, stop.is_set)

    # Networks with one recipe are one network, which needs one slot.
    jobs: dict[str, Recipe] = {}
    for recipe in _sort_by_length(prepared, recipes.values()):
        jobs.setdefault(recipe.folder, recipe)
    with ThreadPoolExecutor(max_workers=slots) as pool:
        try:
            stored = dict(zip(jobs, pool.map(ensure, jobs.values()), strict=True))
        except BaseException:
            # The pool waits for its threads, and they wait for Ray or for another process.
            stop.set()
            ray.shutdown()
            raise
    entries = {name: stored[recipe.folder] for name, recipe in recipes.items()}
    return add_probes(prepared, prepared.networks(entries), reporter.network)


def make_task(function: Callable[..., Any], *, num_gpus: float, **options: Any) -> Any:
    """Make a Ray task of a function; the worker of a task on a GPU ends with it.

    If it stayed, it would keep its CUDA context, its memory and its GPU. Workers without a GPU
    stay, so the next task or trial doesn't have to start one and import torch.
    """
    if num_gpus:
        options["max_calls"] = 1
    decorate: Any = ray.remote(num_gpus=num_gpus, **options)
    return decorate(function)


def _sort_by_length(prepared: Prepared, recipes: Iterable[Recipe]) -> list[Recipe]:
    """Sort recipes by the length of their training, longest first.

    Length is estimated as epochs times the values of all layers, which dominate the time of a step.
    """

    def length(recipe: Recipe) -> int:
        layers = prepared.outlines[recipe.name].layers
        return recipe.epochs * sum(math.prod(shape) for shape in layers)

    return sorted(recipes, key=length, reverse=True)


def train_network_remotely(
    recipe: Recipe,
    data: Any,
    threads: int,
    device: str,
    resume: bytes | None,
    extensions: Sequence[Plugin | Registration],
) -> Iterator[Progress]:
    """Train a network in a worker; see `networks.pretraining.train_network`.

    Args:
        recipe: of the network.
        data: the images.
        threads: torch's intra-op threads.
        device: of the training.
        resume: checkpoint to resume from, if any.
        extensions: arrive before the training begins; the network's family may be among them.
    """
    yield from train_network(recipe, data, threads=threads, device=device, resume=resume)


def _train_with_retries(
    prepared: Prepared,
    zoo: Zoo,
    reporter: Reporter,
    data: Any,
    recipe: Recipe,
    resume: bytes | None,
) -> Iterator[Progress]:
    """Train a network as a Ray task; after a failure of a machine, resume from the zoo's checkpoint."""
    resources = prepared.config.resources
    # A retry of Ray's would start from the same point again; the zoo has the latest checkpoint.
    task = make_task(
        train_network_remotely,
        num_returns="streaming",
        max_retries=0,
        num_cpus=resources.cpu,
        # A whole GPU: a trial's share was not measured for the training of a network.
        num_gpus=int(resources.gpu_at_most > 0),
    )
    extensions = used_extensions(prepared.config)
    attempts, epoch = 0, 0
    while True:
        try:
            for reference in task.remote(
                recipe, data, resources.cpu, resources.device, resume, extensions
            ):
                progress: Progress = ray.get(reference)
                if progress.epoch > epoch:
                    attempts, epoch = 0, progress.epoch
                yield progress
            return
        except ray.exceptions.RayError as error:
            # The exception as the worker raised it: Ray's copy lacks its attributes.
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            reason = str(cause).partition("\n")[0]
            if is_out_of_memory(cause):
                raise StoppedError(
                    f"network {recipe.name!r}: a whole GPU has too little memory to train it; "
                    f"lower its pretraining.batch_size ({reason})"
                ) from None
            if cause is not error and not is_broken_device(cause):
                raise cause from None
            attempts += 1
            if attempts > RETRIES:
                raise StoppedError(
                    f"network {recipe.name!r}: its process died {attempts} times after epoch "
                    f"{epoch} ({reason})"
                ) from None
            reporter.say(
                f"network {recipe.name}: its process died; its training resumes ({reason})"
            )
            resume = zoo.checkpoint(recipe)
