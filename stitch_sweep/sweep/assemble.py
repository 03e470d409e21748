"""Assemble and train a network from parts, in this process, without Ray."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save

from stitch_sweep.config.reading import to_yaml
from stitch_sweep.config.root import Config
from stitch_sweep.config.training import TrainingConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.cutting.hooked_part import tensors_of_part
from stitch_sweep.plan.machine import check_local
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.stitches.storage import pack_stitch
from stitch_sweep.storage import layout
from stitch_sweep.storage.files import atomic, check_writable, write_atomically
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.manifest import Manifest, replacing_files
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.training.assembly import Assembly, outline
from stitch_sweep.training.train_assembly import (
    AssemblyResult,
    check_exact,
    check_loss,
    train_assembly,
)

_FILES = (
    layout.RESOLVED_CONFIG,
    layout.PICKLED_TRAJECTORIES,
    layout.TRAJECTORIES,
    layout.PREDICTIONS,
    layout.SUMMARY,
)
_ASSEMBLY_NAMES = re.compile(
    "|".join(map(re.escape, _FILES)) + r"|parts/[0-9]+-[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors"
)
_REMEDY = "choose another folder with --folder"


def run_assembly(config: Config, folder: Path) -> dict[str, Any]:
    """Assemble and train the network that a configuration's `parts` describe.

    Writes `config.resolved.yml`, `traj.pkl` and `traj.parquet` (the trajectory), `summary.json` (the
    returned values), `predictions.parquet`, and in `parts/` every trained part, by its position.

    Args:
        config: a configuration with `parts`.
        folder: where to write; files that `.assembly.json` lists, from an earlier assembly, are
            replaced.

    Returns:
        `status`, `seconds` and the metrics of `AssemblyResult`.

    Raises:
        InputError: no parts, parts that can't be joined, a loss that doesn't compare predictions, a fast
            copy of the networks, settings without an effect in a file with nothing but parts, a folder
            that contains a sweep, or files to replace that don't come from an earlier assembly.
    """
    if not config.parts:
        raise InputError("parts: is missing; it lists the pieces of networks and the stitches")
    if Ledger(folder).exists:
        raise InputError(f"{folder}: contains a sweep; give the assembly a separate folder")
    if not (config.pairs or config.knock_out) and (unused := list(_unused_settings(config))):
        raise InputError(*unused)
    check_loss(config.loss)
    check_exact(config.training)
    check_local(config.resources)
    check_writable(folder, "the experiment folder")
    _check_free(config, folder)
    seed_everything(config.seed, config.resources.cpu)
    prepared = prepare(config, cells=False)
    used = {part.network for part in config.parts}
    layers = {network.name: network.cuts for network in config.networks}
    pieces = outline(config.parts, prepared.untrained(), prepared.data.image_shape, layers)
    with Reporter() as reporter:
        modules = provide_networks(prepared, reporter.network)
        device = config.resources.device
        networks = {name: module.to(device) for name, module in modules.items() if name in used}
        assembly = Assembly(pieces, networks, config.seed, layers)
        loaders = make_loaders(
            prepared.data.to(device),
            config.training.batch_size,
            seed=config.seed,
            augment=config.data.augment,
            device=device,
        )
        for progress in train_assembly(
            assembly,
            loaders,
            config.loss,
            config.training,
            order=config.order,
            seed=config.seed,
            threads=config.resources.cpu,
        ):
            if isinstance(progress, AssemblyResult):
                result = progress
            else:
                reporter.step("assembly", *progress)
    return _write(config, folder, assembly, result)


def _unused_settings(config: Config) -> Iterator[str]:
    """Iterate over settings that have no effect in a configuration with nothing but parts."""
    reason = "an assembly is trained once, with the settings that the file has"
    if config.repeats > 1:
        yield f"repeats: is {config.repeats}, and {reason}; give several files several seeds"
    for key in ("cross", "space"):
        if getattr(config.search, key):
            yield f"search.{key}: {reason}; it is for pairs and knock_out"
    training = config.training
    for key in ("coordinates", "keep", "patience", "evaluate_every", "train_metrics"):
        default = TrainingConfig.model_fields[key].default
        if getattr(training, key) != default and not training.is_from_recipe(key):
            yield f"training.{key}: is {getattr(training, key)}, and has no effect on an assembly"


def _check_free(config: Config, folder: Path) -> None:
    """Check that the assembly replaces neither the user's files nor its own inputs."""
    manifest = Manifest(folder / layout.ASSEMBLY_MANIFEST, _ASSEMBLY_NAMES)
    manifest.check_free(
        {*_FILES, *(_part_file(config, k) for k in range(len(config.parts)))}, _REMEDY
    )
    results = {(folder / name).resolve() for name in manifest.names}
    problems = [
        f"networks[{k}].weights: {network.weights_file} is a result of an earlier assembly in this "
        f"folder, and would be replaced; move it away, or {_REMEDY}"
        for k, network in enumerate(config.networks)
        if network.weights_file is not None and network.weights_file.resolve() in results
    ]
    if problems:
        raise InputError(*problems)


def _part_file(config: Config, k: int) -> str:
    part = config.parts[k]
    return f"parts/{k}-{'stitch' if part.stitch is not None else part.network}.safetensors"


def _write(
    config: Config, folder: Path, assembly: Assembly, result: AssemblyResult
) -> dict[str, Any]:
    current = {_part_file(config, k) for k in assembly.trained} | set(_FILES)
    if result.predictions is None:
        current.remove(layout.PREDICTIONS)
    manifest = Manifest(folder / layout.ASSEMBLY_MANIFEST, _ASSEMBLY_NAMES)
    with replacing_files(manifest, current, _REMEDY):
        return _write_files(config, folder, assembly, result)


def _write_files(
    config: Config, folder: Path, assembly: Assembly, result: AssemblyResult
) -> dict[str, Any]:
    # Loaded after the training: refusals and the first step need no tables.
    import pandas as pd

    for k in assembly.trained:
        piece, module = assembly.pieces[k], assembly.parts[k].cpu()
        stitch = piece.config.stitch
        if stitch is not None:
            about = {"part": k}
            data = pack_stitch(module, stitch.name, piece.takes, piece.gives, stitch.options, about)
        else:
            data = save(
                {name: t.detach().contiguous() for name, t in tensors_of_part(module).items()}
            )
        write_atomically(folder / _part_file(config, k), data)
    table = pd.DataFrame(result.trajectory)
    if "part" in table:
        table["part"] = table["part"].astype("Int64")
    with atomic(folder / layout.PICKLED_TRAJECTORIES) as temporary:
        table.to_pickle(temporary)
    write_atomically(folder / layout.TRAJECTORIES, table.to_parquet())
    if result.predictions is not None:
        predictions = pd.DataFrame({"predictions": result.predictions.numpy()})
        write_atomically(folder / layout.PREDICTIONS, predictions.to_parquet())
    write_atomically(folder / layout.RESOLVED_CONFIG, to_yaml(config, folder).encode())
    summary = {"status": result.status, "seconds": result.seconds, **result.metrics}
    text = json.dumps(summary, indent=2) + "\n"
    # Last: a folder with a summary is complete.
    write_atomically(folder / layout.SUMMARY, text.encode())
    return summary
