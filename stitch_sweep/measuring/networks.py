"""The networks of a sweep as the zoo has them: found and checked, never trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch import nn

from stitch_sweep.config.controls import CLASS_ONLY
from stitch_sweep.config.models import GIVEN, Config, NetworkConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data
from stitch_sweep.measuring.permissions import Permissions
from stitch_sweep.networks import construction
from stitch_sweep.networks.controls import ClassOnly
from stitch_sweep.networks.cutting.hooks import open_network
from stitch_sweep.networks.frozen import FrozenSender
from stitch_sweep.networks.zoo import Zoo, load, load_given, make_recipe
from stitch_sweep.storage.checkpoints import fingerprint
from stitch_sweep.training.workbench import Workbench


@dataclass
class Found:
    """What there is of a configuration's networks.

    Attributes:
        modules: those that are there, by name, on the CPU.
        rows: what is known of each network without its weights, by name.
        notes: of each that is not there, why.
        awaits: files whose appearance would change that.
        damaged: whether a file is there and of no use, which no new file would show.
    """

    modules: dict[str, nn.Module] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    awaits: list[str] = field(default_factory=list)
    damaged: bool = False


class _MissingError(Exception):
    """A network's file isn't there; the argument is its path."""


def find_networks(
    config: Config, data: Data, prints: Mapping[str, str], permissions: Permissions
) -> Found:
    """Load every network of a configuration that can be loaded.

    Args:
        config: which networks.
        data: the images; they decide recipes and shapes.
        prints: what the weights of each network were when the sweep began, as `fingerprint` has it.
        permissions: what may be read, loaded and run; the configuration may be a stranger's.
    """
    found = Found()
    for network in config.networks:
        try:
            network = permissions.check_network(network)
        except InputError as error:
            found.notes.append(f"network {network.name} is left out: it {error}")
            found.damaged = True
            continue
        try:
            module = construction.build(network, data).eval()
            traced = open_network(module, layer_names=network.cuts, image_shape=data.image_shape)
            shapes = traced.shapes(data.image_shape)
            layers = [layer.name for layer in traced.layers]
            found.rows[network.name] = _row(network, module, layers, data)
            sizes = [shapes[name] for name in layers]
            loaded = _load(network, config, data, sizes, module, permissions)
        except InputError as error:
            found.notes.append(f"network {network.name}: {error}")
            found.damaged = True
            continue
        except _MissingError as error:
            path = error.args[0]
            found.notes.append(f"network {network.name} is not there: {path} is missing")
            found.awaits.append(str(path))
            continue
        if prints.get(network.name, own := fingerprint(loaded)) != own:
            found.notes.append(
                f"network {network.name}: its weights are not those that the sweep began with"
            )
            found.damaged = True
            continue
        found.modules[network.name] = loaded
    return found


def network_table(found: Found, bench: Workbench, results: pd.DataFrame) -> pd.DataFrame:
    """A row per network: what it is, and what it does on the test images.

    Args:
        found: the networks.
        bench: those of them that could be loaded.
        results: a row per ended trial; knows the accuracies of networks that could not be loaded.

    Returns:
        `network`, `family`, `weights` (the network's `kind`; see `NetworkConfig`), `seed`,
        `parameters` (0 for a sender that knows only the class), `depth` (number of layers from 0 on,
        less one: the blocks), `width` (missing where the family has none), `layers` (their names),
        `options` (as JSON), `classes`, `test_accuracy`, and `predictions`, the class of every test
        image in stored order; the last two are missing where nothing is known.
    """
    loader = bench.loaders(CHUNKED)["test"]
    rows = []
    for name, row in found.rows.items():
        sender: FrozenSender | None = bench.senders.get(name)
        silent = sender is None or not sender.classifies
        evaluation = None if silent else sender.evaluate(loader)  # type: ignore[union-attr]
        known = None if evaluation is None else evaluation.accuracy
        rows.append(
            {
                **row,
                "test_accuracy": _recorded(name, results) if known is None else known,
                "predictions": None if evaluation is None else evaluation.predictions.numpy(),
            }
        )
    table = pd.DataFrame(rows, columns=[*_COLUMNS, "test_accuracy", "predictions"])
    return table.astype({"width": "Int64", "test_accuracy": "float64"})


CHUNKED = 256
"""A batch size for loaders of which only fixed chunks in stored order are asked."""

_COLUMNS = ["network", "family", "weights", "seed", "parameters", "depth", "width", "layers"]
_COLUMNS += ["options", "classes"]


def _row(
    network: NetworkConfig, module: nn.Module, layers: list[str], data: Data
) -> dict[str, Any]:
    own = network.kind != CLASS_ONLY
    width = network.options.get("width")
    return {
        "network": network.name,
        "family": network.title,
        "weights": network.kind,
        "seed": network.seed,
        "parameters": sum(p.numel() for p in module.parameters()) if own else 0,
        "depth": len(layers) - 1,
        "width": width if isinstance(width, int) else None,
        "layers": layers,
        "options": json.dumps(network.options or network.arguments or {}, sort_keys=True),
        "classes": data.num_classes,
    }


def _load(
    network: NetworkConfig,
    config: Config,
    data: Data,
    shapes: list[tuple[int, ...]],
    module: nn.Module,
    permissions: Permissions,
) -> nn.Module:
    """The network with its weights, put into `module` where the zoo has them.

    Raises:
        InputError: the file is damaged, or of another network; or the zoo may not be read.
        _MissingError: there is no such file.
    """
    if network.kind == CLASS_ONLY:
        assert network.noise is not None
        return ClassOnly(shapes, seed=network.seed, noise=network.noise)
    if (path := network.weights_file) is not None and not path.is_file():
        raise _MissingError(path)
    if network.kind in GIVEN:
        return load_given(network, data)
    zoo, recipe = Zoo(permissions.zoo(config)), make_recipe(network, config, data)
    entry = zoo.find(recipe)
    if entry is None:
        raise _MissingError(zoo.root / recipe.folder / "recipe.json")
    return load(entry.folder, into=module)


def _recorded(name: str, results: pd.DataFrame) -> float | None:
    """A network's own accuracy, as its trials recorded it."""
    for side in ("sender", "receiver"):
        known = results.loc[results[side] == name, f"{side}_accuracy"].dropna()
        if len(known):
            return float(known.iloc[0])
    return None
