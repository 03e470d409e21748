"""Make the networks of a configuration: built-in families, torchvision, timm, or a user's function.

`build` makes a network with fresh weights; `load` makes a network with external weights. An external
network is wrapped in `Imported`, which converts the data's images to the images that the network expects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stitch_sweep.config.networks import (
    FROM_FACTORY,
    LIBRARIES,
    NetworkConfig,
    is_file,
    is_in_memory,
)
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import derive
from stitch_sweep.data.augmentation import normalize_images
from stitch_sweep.data.images import Data
from stitch_sweep.networks.cutting.opening import open_network
from stitch_sweep.networks.cutting.running import eval_mode, raise_cut_errors
from stitch_sweep.networks.external import python
from stitch_sweep.networks.external.examination import examine
from stitch_sweep.networks.external.factories import call_factory
from stitch_sweep.networks.external.libraries import find_library
from stitch_sweep.networks.external.preprocessing import Imported, Preprocessing
from stitch_sweep.networks.families.building import build as build_family

Factory = Callable[..., Any]

_LAZY_IMAGES = 2
"""Number of black images for the first run of a network, which completes its lazy modules."""
_TEST_IMAGES = 16
"""Number of images of the data set for the verification of cuts with hooks."""


def build(network: NetworkConfig, data: Data) -> nn.Module:
    """Make a configured network with weights from torch's global generator, in train mode.

    An external network is checked first: it must take the data's images and return logits [B, K], and two
    runs must give the same logits. Its `layer_names` are those of the configuration, else the network's
    own, else one per block.

    Raises:
        InputError: the network can't be made, or it can't be stitched; see `examine`.
    """
    if network.source == "family":
        return build_family(
            network.family,
            data.channels,
            data.num_classes,
            network.options,
            image_size=data.image_size,
        )
    _check_has_weights(network)
    plan = make_blueprint(network, data)
    return _check_and_name_layers(network, build_from_blueprint(plan, find_factory(network)), data)


def load(network: NetworkConfig, data: Data) -> nn.Module:
    """Make a configured network with named weights, or with the weights from its factory; in eval mode.

    Args:
        network: a network of `kind` "named" or "factory"; for weights in a file see
            `networks.weights.fitting.load_from_file`.
        data: the images.

    Raises:
        InputError: see `build`; or the weights can't be loaded.
    """
    plan = make_blueprint(network, data)
    if network.kind == FROM_FACTORY:
        with torch.random.fork_rng(devices=[]):
            # The network's seed determines random choices of the factory.
            torch.manual_seed(derive(network.seed, "network", network.title))
            imported = build_from_blueprint(plan, find_factory(network))
    else:
        library = find_library(network.source)
        inner = library.load(str(network.model), network.weights, network.arguments or {})
        imported = _wrap(inner, plan)
    return _check_and_name_layers(network, imported, data).eval()


def find_factory(network: NetworkConfig) -> Factory | None:
    """Import the user's function that makes the network; None for a library's network.

    Raises:
        InputError: the function can't be imported.
    """
    return None if network.factory is None else python.find(network.factory)


def make_blueprint(network: NetworkConfig, data: Data) -> dict[str, Any]:
    """Describe everything that determines an external network, except its weights, as plain data.

    Returns:
        `source`; `model`, or `factory` and `code` (SHA-256 of its file); `arguments`; `image`, the
        shape of the data's images; `preprocessing`, the arguments of `Preprocessing`, or None without it.

    Raises:
        InputError: the network can't take the images, or a name is unknown.
    """
    plan: dict[str, Any] = {"source": network.source}
    arguments = dict(network.arguments or {})
    if network.factory is not None:
        # The blueprint contains the hash of the file's content, and not its folder.
        name = Path(network.factory).name if is_file(network.factory) else network.factory
        plan |= {"factory": name, "code": python.file_hash(network.factory)}
    else:
        plan["model"] = network.model
        if network.kind != "named":
            arguments.setdefault("num_classes", data.num_classes)
    plan["arguments"] = arguments
    plan["image"] = list(data.image_shape)
    plan["preprocessing"] = _preprocessing(network, arguments, data)
    return plan


def build_from_blueprint(plan: Mapping[str, Any], factory: Factory | None = None) -> Imported:
    """Make the network that a plan describes, with weights from torch's global generator.

    Args:
        plan: see `make_blueprint`.
        factory: the function that makes a network of `source: python`. The name in the plan is never
            imported, because the plan may come from a file.

    Raises:
        InputError: the network can't be made, or its factory is missing.
    """
    if plan["source"] == "python":
        if factory is None:
            raise InputError(
                f"the network is made by {plan['factory']}, and code that a stored file names is not "
                "run: pass the function itself"
            )
        return _wrap(call_factory(factory, plan["arguments"], plan["factory"]), plan)
    return _wrap(find_library(plan["source"]).build(plan["model"], plan["arguments"]), plan)


def sample_training_images(data: Data) -> Tensor:
    """Return a few normalized training images, evenly spaced over the set."""
    step = max(1, len(data.train.images) // _TEST_IMAGES)
    return normalize_images(data.train.images[::step][:_TEST_IMAGES], data.mean, data.std)


def _wrap(network: nn.Module, plan: Mapping[str, Any]) -> Imported:
    arguments = plan["preprocessing"]
    preprocessing = None if arguments is None else Preprocessing(**arguments)
    imported = Imported(network, preprocessing, plan["image"])
    if any(is_lazy(tensor) for tensor in (*imported.parameters(), *imported.buffers())):
        # A first run completes lazy modules, which a training or a weights file needs.
        with eval_mode(imported), torch.no_grad(), raise_cut_errors(imported, imported.image_shape):
            imported(torch.zeros(_LAZY_IMAGES, *imported.image_shape))
    return imported


def _preprocessing(
    network: NetworkConfig, arguments: Mapping[str, Any], data: Data
) -> dict[str, Any] | None:
    """Return the arguments of `Preprocessing`; None if the network takes the images unchanged."""
    trained_with = None
    if weights := network.expects or (network.weights if network.kind == "named" else None):
        library = find_library(network.source)
        trained_with = library.expectation(str(network.model), weights)
    normalization = network.normalisation or trained_with
    size = network.image_size or (trained_with.image_size if trained_with else None)
    channels = data.channels
    if network.source in LIBRARIES:
        channels = find_library(network.source).channels(arguments)
    elif normalization is not None:
        channels = len(normalization.mean)
    if normalization is not None and len(normalization.mean) != channels:
        raise InputError(
            f"normalisation has {len(normalization.mean)} channels, and the network takes {channels}"
        )
    if data.channels not in (1, channels):
        raise InputError(
            f"the images have {data.channels} channels, and the network takes {channels}; only "
            "grayscale images can be converted, by repeating their channel"
        )
    preprocessing: dict[str, Any] = {}
    if size not in (None, data.image_size):
        preprocessing["image_size"] = size
    if data.channels != channels:
        preprocessing["grey_to"] = channels
    if normalization is not None:
        mean, std = (t.double().expand(channels) for t in (data.mean, data.std))
        network_mean, network_std = (
            torch.tensor(values, dtype=torch.float64)
            for values in (normalization.mean, normalization.std)
        )
        preprocessing["scale"] = (std / network_std).tolist()
        preprocessing["shift"] = ((mean - network_mean) / network_std).tolist()
    return {"size": data.image_size, **preprocessing} if preprocessing else None


def _check_has_weights(network: NetworkConfig) -> None:
    """Check that no other weights are requested for a module that was given in Python.

    Raises:
        InputError: weights from training or initialization are requested.
    """
    if network.kind in ("trained", "random", "random_raw") and is_in_memory(network.factory or ""):
        raise InputError(
            f"{network.name}: weights: {network.weights} is not possible for a module given in Python, "
            "whose initialization is unknown; for an untrained control give an untrained module under "
            "another name, or a factory (source: python)"
        )


def _check_and_name_layers(network: NetworkConfig, imported: Imported, data: Data) -> Imported:
    """Check an external network, set its layers, and record whether its logits fit the data."""
    try:
        outputs = examine(imported, learns=network.kind in ("trained", "random"))
        imported.classifies = outputs == data.num_classes
        model_names = getattr(imported.network, "layer_names", None)
        names = network.layers or model_names or "auto"
        opened = open_network(imported, layer_names=names, images=sample_training_images(data))
        imported.layer_names = [layer.name for layer in opened.layers]
        if not imported.layer_names:
            raise InputError("no block was found in it; name its layers (stitch-sweep describe)")
    except InputError as error:
        raise InputError(*(f"{network.title}: {problem}" for problem in error.problems)) from error
    return imported
