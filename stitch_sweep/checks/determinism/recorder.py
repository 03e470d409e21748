"""Record the start of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stitch_sweep.checks.determinism.batches import describe_batches
from stitch_sweep.checks.determinism.environment import (
    describe_environment,
    flatten_settings,
    hash_generators,
)
from stitch_sweep.checks.determinism.kept_tensors import KeptTensors
from stitch_sweep.checks.determinism.outputs import describe_outputs
from stitch_sweep.checks.determinism.recording import FORMAT, Recording, check_free
from stitch_sweep.checks.determinism.steps import describe_steps
from stitch_sweep.config.root import Config
from stitch_sweep.networks.pretraining import Progress
from stitch_sweep.networks.recipes import Recipe
from stitch_sweep.plan.cells import choose_cell, parse_cell
from stitch_sweep.plan.machine import check_local
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.storage.files import check_writable
from stitch_sweep.training.workbench import Workbench

STEPS = 3
"""Number of optimizer steps that are recorded; all where a training has fewer."""


def record(
    config: Config,
    folder: Path,
    pair: str | None = None,
    *,
    steps: int = STEPS,
    on_progress: Callable[[Recipe, Progress], None] = lambda recipe, progress: None,
) -> Recording:
    """Run the start of a training, and record everything that an equal run must reproduce.

    The networks come from the configuration's zoo; networks that it lacks are trained first. Then one
    cell is trained for a few steps, as by `stitch-sweep stitch`.

    Args:
        config: the cell is trained with the first of its factors and searched stitches.
        folder: output folder; must be empty or not exist.
        pair: `sender:layer,receiver:layer`; the middle layers of the first pair if not given.
        steps: number of optimizer steps to record.
        on_progress: called after every epoch of a network that is trained.

    Raises:
        InputError: the configuration, the pair or the folder is wrong.

    Example:
        >>> record(read_config("config.yml"), Path("check1")).about["pair"]
        'a:2,b:2'
    """
    check_free(folder)
    check_writable(folder, "--output-dir")
    check_local(config.resources)
    requested_cell = None if pair is None else parse_cell(pair, config)
    prepared = prepare(config)
    cell, settings = choose_cell(prepared, requested_cell)
    modules = provide_networks(prepared, on_progress)

    kept = KeptTensors()
    weights = {}
    for name, module in modules.items():
        label = f"network {name!r}"
        weights[label] = kept.summarize_weights(label, module)
    used = {name: modules[name] for name in dict.fromkeys((cell.sender, cell.receiver))}
    bench = Workbench(config, prepared.data, used)
    generators = {"after seeding": hash_generators(bench.device)}
    # A row of the trajectory for every step; this changes no computation.
    logged = settings.training.model_copy(update={"log_every": 1})
    training = bench.training(
        cell.sender,
        cell.sender_layer,
        cell.receiver,
        cell.receiver_layer,
        settings.model_copy(update={"training": logged}),
    )
    generators["before training"] = hash_generators(bench.device)
    weights["stitch"] = kept.summarize_weights("stitch", training.stitch)
    loaders = bench.loaders(settings.training.batch_size)
    batches = describe_batches(config, prepared.data, loaders, kept)
    outputs = describe_outputs(cell, bench.networks, training.stitch, loaders["train"], kept)
    trained = describe_steps(cell, bench.networks, training, loaders["validation"], steps, kept)
    generators["after training"] = hash_generators(bench.device)
    recording = Recording(
        about={
            "format": FORMAT,
            "pair": str(cell),
            "configuration": {"pair": str(cell), **flatten_settings(config)},
        },
        batches=batches,
        weights=weights,
        outputs=outputs,
        training=trained,
        generators=generators,
        environment=describe_environment(bench.device),
        tensors=kept.tensors,
    )
    recording.write(folder)
    return recording
