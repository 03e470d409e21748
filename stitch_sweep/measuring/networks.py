"""The networks of a sweep, loaded from its zoo and verified, never trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import pandas as pd
from torch import nn

from stitch_sweep.config.networks import (
    CLASS_ONLY,
    EXTERNAL_KINDS,
    LOGITS_ONLY,
    SENDERS_ONLY,
    NetworkConfig,
)
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data
from stitch_sweep.measuring.permissions import Permissions
from stitch_sweep.networks import construction
from stitch_sweep.networks.controls import ClassOnly
from stitch_sweep.networks.cutting.linear_rest import find_linear_rests
from stitch_sweep.networks.cutting.opening import open_network
from stitch_sweep.networks.frozen import FrozenSender
from stitch_sweep.networks.logits_only import LogitsOnly, Probes
from stitch_sweep.networks.recipes import Recipe, make_probe_recipe, make_recipe
from stitch_sweep.networks.weights.fitting import load_pretrained
from stitch_sweep.networks.zoo import RECIPE_FILE, Zoo, load
from stitch_sweep.storage.digests import fingerprint
from stitch_sweep.training.workbench import Workbench

Module = TypeVar("Module", bound=nn.Module)

_COLUMNS = ["network", "family", "weights", "seed", "parameters", "depth", "width", "layers"]
_COLUMNS += ["options", "classes", "receiver_free"]


@dataclass
class AvailableNetworks:
    """The networks of a configuration that can be loaded.

    Attributes:
        modules: the loaded networks by name, on the CPU.
        rows: the properties of each network that need no weights, by name.
        notes: the reason for each network that is not loaded.
        awaits: missing files; a network can be loaded once they exist.
        damaged: whether a file exists but is unusable; no new file would show a repair.
    """

    modules: dict[str, nn.Module] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    awaits: list[str] = field(default_factory=list)
    damaged: bool = False


class _MissingError(Exception):
    """A network's file doesn't exist; the argument is its path."""


def find_networks(
    config: Config, data: Data, prints: Mapping[str, str], permissions: Permissions
) -> AvailableNetworks:
    """Load every network of a configuration that can be loaded.

    Args:
        config: lists the networks.
        data: the images; recipes and shapes depend on them.
        prints: the `fingerprint` of each network's weights when the sweep began.
        permissions: what may be read, loaded and run; the configuration may come from a stranger.
    """
    available = AvailableNetworks()
    # A logits-only sender needs the network that it probes.
    for network in sorted(config.networks, key=lambda network: network.kind == LOGITS_ONLY):
        try:
            network = permissions.check_network(network)
        except InputError as error:
            available.notes.append(f"network {network.name} is left out: it {error}")
            available.damaged = True
            continue
        try:
            module = construction.build(network, data).eval()
            traced = open_network(module, layer_names=network.cuts, image_shape=data.image_shape)
            shapes = traced.shapes(data.image_shape)
            layers = [layer.name for layer in traced.layers]
            layer_shapes = [shapes[name] for name in layers]
            available.rows[network.name] = _describe_network(network, module, layers, data)
            if network.kind not in SENDERS_ONLY:
                rest = partial(traced.sub_network, end=None)
                available.rows[network.name]["receiver_free"] = find_linear_rests(
                    rest, layer_shapes
                )
            if network.kind == LOGITS_ONLY:
                probed = available.modules.get(str(network.probes_of))
                if probed is None:
                    available.notes.append(
                        f"network {network.name} is left out, as {network.probes_of}, which it probes"
                    )
                    continue
                loaded: nn.Module = _load_probes(
                    network, probed, config, data, layer_shapes, permissions
                )
            else:
                loaded = _load_network(network, config, data, layer_shapes, module, permissions)
        except InputError as error:
            available.notes.append(f"network {network.name}: {error}")
            available.damaged = True
            continue
        except _MissingError as error:
            path = error.args[0]
            available.notes.append(f"network {network.name} is not available: {path} is missing")
            available.awaits.append(str(path))
            continue
        weights_print = fingerprint(loaded)
        if prints.get(network.name, weights_print) != weights_print:
            available.notes.append(
                f"network {network.name}: its weights are not those that the sweep began with"
            )
            available.damaged = True
            continue
        available.modules[network.name] = loaded
    return available


def network_table(
    available: AvailableNetworks, bench: Workbench, results: pd.DataFrame
) -> pd.DataFrame:
    """Make a table of the networks: their properties, and their results on the test images.

    Args:
        available: the networks.
        bench: the loaded networks.
        results: one row per ended trial; contains the accuracies of networks that are not loaded.

    Returns:
        One row per network: `network`, `family`, `weights` (the network's `kind`; see
        `NetworkConfig`), `seed`, `parameters` (0 for controls that only send), `depth` (number of layers
        from 0 on, minus one: the number of blocks), `width` (missing where the family has none),
        `layers` (their names), `options` (as JSON), `classes`, `receiver_free` (the layers after which it
        is linear), `test_accuracy`, and `predictions`, the
        predicted class of every test image in stored order. The last two are missing where unknown.
    """
    loader = bench.loaders()["test"]
    rows = []
    for name, row in available.rows.items():
        sender: FrozenSender | None = bench.senders.get(name)
        evaluation = sender.evaluate(loader) if sender is not None and sender.classifies else None
        if evaluation is None or evaluation.accuracy is None:
            accuracy = _recorded_accuracy(name, results)
        else:
            accuracy = evaluation.accuracy
        predictions = None if evaluation is None else evaluation.predictions.numpy()
        rows.append({**row, "test_accuracy": accuracy, "predictions": predictions})
    table = pd.DataFrame(rows, columns=[*_COLUMNS, "test_accuracy", "predictions"])
    return table.astype({"width": "Int64", "test_accuracy": "float64"})


def _describe_network(
    network: NetworkConfig, module: nn.Module, layers: list[str], data: Data
) -> dict[str, Any]:
    is_network = network.kind not in SENDERS_ONLY
    width = network.options.get("width")
    return {
        "network": network.name,
        "family": network.title,
        "weights": network.kind,
        "seed": network.seed,
        "parameters": sum(p.numel() for p in module.parameters()) if is_network else 0,
        "depth": len(layers) - 1,
        "width": width if isinstance(width, int) else None,
        "layers": layers,
        "options": json.dumps(network.options or network.arguments or {}, sort_keys=True),
        "classes": data.num_classes,
        "receiver_free": [],
    }


def _load_network(
    network: NetworkConfig,
    config: Config,
    data: Data,
    layer_shapes: list[tuple[int, ...]],
    module: nn.Module,
    permissions: Permissions,
) -> nn.Module:
    """Load a network; weights from the zoo are loaded into `module`.

    Raises:
        InputError: the file is damaged or belongs to another network, or the zoo may not be read.
        _MissingError: the file doesn't exist.
    """
    if network.kind == CLASS_ONLY:
        assert network.noise is not None
        return ClassOnly(layer_shapes, seed=network.seed, noise=network.noise)
    if (path := network.weights_file) is not None and not path.is_file():
        raise _MissingError(path)
    if network.kind in EXTERNAL_KINDS:
        return load_pretrained(network, data)
    return _load_from_zoo(make_recipe(network, config, data), module, config, permissions)


def _load_probes(
    network: NetworkConfig,
    probed: nn.Module,
    config: Config,
    data: Data,
    layer_shapes: list[tuple[int, ...]],
    permissions: Permissions,
) -> LogitsOnly:
    """Load a logits-only sender; its errors are those of `_load_network`."""
    probes = Probes(layer_shapes, data.num_classes, seed=network.seed)
    recipe = make_probe_recipe(network, probed, config, data)
    return LogitsOnly(probed, _load_from_zoo(recipe, probes, config, permissions))


def _load_from_zoo(
    recipe: Recipe, module: Module, config: Config, permissions: Permissions
) -> Module:
    zoo = Zoo(permissions.zoo(config))
    entry = zoo.find(recipe)
    if entry is None:
        raise _MissingError(zoo.root / recipe.folder / RECIPE_FILE)
    load(entry.folder, into=module)
    return module


def _recorded_accuracy(name: str, results: pd.DataFrame) -> float | None:
    """Return a network's own accuracy from the results of its trials."""
    for side in ("sender", "receiver"):
        recorded = results.loc[results[side] == name, f"{side}_accuracy"].dropna()
        if len(recorded):
            return float(recorded.iloc[0])
    return None
