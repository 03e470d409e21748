"""A network assembled from parts by a configuration, here and now, without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save

from stitch_sweep.assembly import Assembly, AssemblyResult, check_loss, outline, train_assembly
from stitch_sweep.config import Config, to_yaml
from stitch_sweep.data import make_loaders
from stitch_sweep.errors import InputError
from stitch_sweep.files import atomic, check_writable, write_atomically
from stitch_sweep.hooked import belonging
from stitch_sweep.ledger import Ledger
from stitch_sweep.seeding import seed_everything
from stitch_sweep.stitches import pack_stitch
from stitch_sweep.sweep.prepare import prepare, provide_networks
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.sweep.resources import check_local


def run_assembly(config: Config, folder: Path) -> dict[str, Any]:
    """Assemble and train the network that a configuration's `parts` describe.

    Writes `config.resolved.yml`, `traj.pkl` and `traj.parquet` (the trajectory), `summary.json` (what is
    returned), `predictions.parquet`, and in `parts/` what was trained, by its position.

    Args:
        config: with `parts`.
        folder: where to write; what an earlier assembly left there is replaced.

    Returns:
        `status`, `seconds` and the metrics of `AssemblyResult`.

    Raises:
        InputError: no parts, parts that can't be joined, a loss that is none of predictions, or a folder
            with a sweep in it.
    """
    if not config.parts:
        raise InputError("parts: is missing; it lists the pieces of networks and the stitches")
    if Ledger(folder).exists:
        raise InputError(f"{folder}: holds a sweep; give the assembly a folder of its own")
    if not (config.pairs or config.knock_out) and (idle := list(_only_of_sweeps(config))):
        raise InputError(*idle)
    check_loss(config.loss)
    check_local(config.resources)
    check_writable(folder, "the experiment folder")
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
        for found in train_assembly(
            assembly,
            loaders,
            config.loss,
            config.training,
            order=config.order,
            seed=config.seed,
            threads=config.resources.cpu,
        ):
            if isinstance(found, AssemblyResult):
                result = found
            else:
                reporter.step("assembly", *found)
    return _write(config, folder, assembly, result)


def _only_of_sweeps(config: Config) -> Iterator[str]:
    """What a configuration asks for in vain where it has nothing but parts."""
    why = "an assembly is trained once, with the settings that the file has"
    if config.repeats > 1:
        yield f"repeats: is {config.repeats}, and {why}; give several files several seeds"
    for key in ("cross", "space"):
        if getattr(config.search, key):
            yield f"search.{key}: {why}; it is for pairs and knock_out"


def _write(
    config: Config, folder: Path, assembly: Assembly, result: AssemblyResult
) -> dict[str, Any]:
    for earlier in (folder / "parts").glob("*.safetensors"):
        earlier.unlink()
    for k in assembly.trained:
        piece, module = assembly.pieces[k], assembly.parts[k].cpu()
        of = piece.config.stitch
        if of is not None:
            about = {"part": k}
            data = pack_stitch(module, of.name, piece.takes, piece.gives, of.options, about)
        else:
            data = save({name: t.detach().contiguous() for name, t in belonging(module).items()})
        name = "stitch" if of is not None else piece.config.network
        write_atomically(folder / "parts" / f"{k}-{name}.safetensors", data)
    table = pd.DataFrame(result.trajectory)
    if "part" in table:
        table["part"] = table["part"].astype("Int64")
    with atomic(folder / "traj.pkl") as temporary:
        table.to_pickle(temporary)
    write_atomically(folder / "traj.parquet", table.to_parquet())
    if result.predictions is not None:
        found = pd.DataFrame({"predictions": result.predictions.numpy()})
        write_atomically(folder / "predictions.parquet", found.to_parquet())
    write_atomically(folder / "config.resolved.yml", to_yaml(config).encode())
    summary = {"status": result.status, "seconds": result.seconds, **result.metrics}
    text = json.dumps(summary, indent=2) + "\n"
    write_atomically(folder / "summary.json", text.encode())  # last: who finds it finds the rest
    return summary
