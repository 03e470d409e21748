"""Recipes: everything that determines a zoo network's weights."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from stitch_sweep.config.networks import NetworkConfig
from stitch_sweep.config.root import Config
from stitch_sweep.core import plugins
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import FAMILIES
from stitch_sweep.data.images import Data
from stitch_sweep.networks import construction
from stitch_sweep.networks.families.building import build
from stitch_sweep.storage.digests import digest, fingerprint

FORMAT = 1
"""Part of every recipe. Increase it when the training code gives other weights for the same recipe."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a network's weights.

    Attributes:
        name: the network's name in messages; it does not determine the weights.
        content: plain data, hashed as JSON.
        factory: the user's function that makes the network, for `source: python`. It is stored in the
            recipe, because a process that receives the recipe may not have the function's file.
    """

    name: str
    content: dict[str, Any]
    factory: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    @property
    def hash(self) -> str:
        """First 16 hex digits of SHA-256 over the content."""
        text = json.dumps(self.content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of the network's folder in a zoo."""
        content = self.content
        untrained = "" if content["weights"] == "trained" else f"-{content['weights']}"
        data = content["data"]["name"]
        title = re.sub(r"[^A-Za-z0-9._-]", "-", self.title)
        return f"{title}-{data}{untrained}-seed{content['seed']}-{self.hash}"

    @property
    def title(self) -> str:
        """The network's family, or its source and model; the same as `NetworkConfig.title`."""
        plan = self.content.get("network")
        if plan is None:
            return str(self.content["family"])
        model = plan.get("model") or plan["factory"].rpartition(":")[2]
        return f"{plan['source']}:{model}"

    @property
    def is_made_by_user(self) -> bool:
        """Whether a user's function or a network family outside of Stitch Sweep makes the network."""
        return self.factory is not None or "code" in self.content

    @property
    def epochs(self) -> int:
        """Epochs of training; 0 for an untrained control."""
        pretraining = self.content.get("pretraining")
        return int(pretraining["epochs"]) if pretraining else 0

    def architecture(self) -> nn.Module:
        """Make the network with fresh weights from torch's global generator.

        Raises:
            InputError: the network can't be made; see
                `stitch_sweep.networks.construction.build_from_blueprint`. Or the plugin of its family
                has changed.
        """
        content = self.content
        if "network" in content:
            return construction.build_from_blueprint(content["network"], self.factory)
        if "code" in content and content["code"] != _code_of(content["family"]):
            raise InputError(
                f"network family {content['family']}: its plugin has changed since this network was "
                "trained; restore the plugin, or pass the network itself"
            )
        return build(
            content["family"],
            content["data"]["channels"],
            content["data"]["classes"],
            content["options"],
            image_size=content["data"]["image_size"],
        )


def make_recipe(network: NetworkConfig, config: Config, data: Data) -> Recipe:
    """Make the recipe of a network that a configuration requests from the zoo.

    Thread count and kind of device are part of the recipe, because they change the last bits of the
    weights. The content of the training images is part of it too, but not their location.

    Raises:
        InputError: the network can't take the images, or a name is unknown.
    """
    if network.source == "family":
        architecture: dict[str, Any] = {"family": network.family, "options": network.options}
        if (code := _code_of(network.family)) is not None:
            architecture["code"] = code
    else:
        architecture = {"network": construction.make_blueprint(network, data)}
    content: dict[str, Any] = {
        "format": FORMAT,
        **architecture,
        "seed": network.seed,
        "weights": network.weights,
        "data": {
            "name": data.name,
            "channels": data.image_shape[0],
            "image_size": data.image_shape[1],
            "classes": len(data.classes),
        },
    }
    if network.weights == "random" and network.source != "family":
        # Older versions filled the statistics with dropout active; built-in families have no dropout.
        content["statistics"] = "in eval mode"
    if network.weights != "random_raw":
        content["data"]["train_sha256"] = _hash_training_data(data)
        content["threads"] = config.resources.cpu
        content["device"] = config.resources.device
    if network.weights == "trained":
        pretraining = network.pretraining or config.pretraining
        content["data"]["augment"] = pretraining.augment or config.data.augment
        content["pretraining"] = pretraining.training_values()
    return Recipe(network.name, content, construction.find_factory(network))


def make_probe_recipe(
    network: NetworkConfig, probed: nn.Module, config: Config, data: Data
) -> Recipe:
    """Make the recipe of the probes of a network with `weights: logits_only`.

    Args:
        network: the control.
        probed: the network whose layers are probed; its weights are part of the recipe.
        config: the configuration.
        data: the images.
    """
    recipe = make_recipe(network, config, data)
    # Probes are fitted on the CPU.
    content = {**recipe.content, "device": "cpu", "probed": fingerprint(probed)}
    return Recipe(recipe.name, content | {"layers": network.layers})


def _code_of(family: str) -> str | None:
    """Return the SHA-256 (hex) of the code of a family outside of Stitch Sweep; None for others."""
    entry = FAMILIES.get(family)
    return None if entry.is_built_in else plugins.content_of(entry)


@functools.lru_cache(maxsize=2)
def _hash_training_data(data: Data) -> str:
    """Return the SHA-256 of the training data, which is the same for all networks of a sweep."""
    train = data.train
    return digest(
        {"images": train.images, "labels": train.labels, "mean": data.mean, "std": data.std}
    )
