"""Networks, wherever they come from: our families, torchvision, timm, or a function of the user's.

`build` makes what a configuration describes; `load` gives it weights that were trained elsewhere. A
network from elsewhere is an `Imported`: it takes the data's images, whatever it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stitch_sweep.config.models import FROM_FACTORY, NetworkConfig, is_file
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import derive
from stitch_sweep.data.augmentation import normalise
from stitch_sweep.data.images import Data
from stitch_sweep.networks.cutting.hooks import open_network
from stitch_sweep.networks.cutting.tracing import eval_mode, refusing
from stitch_sweep.networks.external import building, python, timm, torchvision
from stitch_sweep.networks.external.examination import examine
from stitch_sweep.networks.external.preprocessing import Imported, Preprocessing
from stitch_sweep.networks.families.building import build as build_family

Factory = Callable[..., Any]

_LAZY_IMAGES = 2
"""Number of black images with which a network with lazy modules is run to complete it."""
_TRIED = 16
"""So many of the data's images a network that is cut with hooks is tried on."""


def build(network: NetworkConfig, data: Data) -> nn.Module:
    """A configured network with weights from torch's global generator, in train mode.

    One from elsewhere is looked over first: it must take the data's images, give logits [B, K], and give
    the same ones twice. Its `layer_names` are those of the configuration, else its own, else one per
    block.

    Raises:
        InputError: it can't be made or isn't fit for stitching; see `examine`.
    """
    if network.source == "family":
        return build_family(
            network.family,
            data.channels,
            data.num_classes,
            network.options,
            image_size=data.image_size,
        )
    return _ready(network, construct(blueprint(network, data), factory(network)), data)


def load(network: NetworkConfig, data: Data) -> nn.Module:
    """A configured network with named weights, or as its factory returns it; in eval mode.

    Args:
        network: of `kind` "named" or "factory"; for weights in a file see `zoo.load_from_file`.
        data: the images.

    Raises:
        InputError: as of `build`; or the weights can't be had.
    """
    plan = blueprint(network, data)
    if network.kind == FROM_FACTORY:
        with torch.random.fork_rng(devices=[]):
            # What a factory leaves to chance is chosen by the network's seed.
            torch.manual_seed(derive(network.seed, "network", network.title))
            made = construct(plan, factory(network))
    else:
        source = torchvision if network.source == "torchvision" else timm
        inner = source.load(str(network.model), network.weights, network.arguments or {})
        made = _wrapped(inner, plan)
    return _ready(network, made, data).eval()


def factory(network: NetworkConfig) -> Factory | None:
    """The user's function that makes the network; None for one that a library makes.

    Raises:
        InputError: it can't be imported.
    """
    return None if network.factory is None else python.find(network.factory)


def blueprint(network: NetworkConfig, data: Data) -> dict[str, Any]:
    """All that decides a network from elsewhere but its weights, as plain data.

    Returns:
        `source`; `model`, or `factory` and `code` (SHA-256 of its file); `arguments`; `image`, the
        shape of the data's; `preprocessing`, the arguments of `Preprocessing`, or None without it.

    Raises:
        InputError: the network and the images can't go together, or a name means nothing.
    """
    plan: dict[str, Any] = {"source": network.source}
    arguments = dict(network.arguments or {})
    if network.factory is not None:
        # Not where a file lies, but what is in it.
        name = Path(network.factory).name if is_file(network.factory) else network.factory
        plan |= {"factory": name, "code": python.code(network.factory)}
    else:
        plan["model"] = network.model
        if network.kind != "named":
            arguments.setdefault("num_classes", data.num_classes)
    plan["arguments"] = arguments
    plan["image"] = list(data.image_shape)
    plan["preprocessing"] = _preprocessing(network, arguments, data)
    return plan


def construct(plan: Mapping[str, Any], make: Factory | None = None) -> Imported:
    """What a blueprint describes, with weights from torch's global generator.

    Args:
        plan: see `blueprint`.
        make: the factory of a network of `source: python`, which is never imported on a plan's word.

    Raises:
        InputError: it can't be made, or its factory is not given.
    """
    if plan["source"] == "python":
        if make is None:
            raise InputError(
                f"the network is made by {plan['factory']}, and code that a stored file names is not "
                "run: hand over the function itself"
            )
        return _wrapped(building.call(make, plan["arguments"], plan["factory"]), plan)
    source = torchvision if plan["source"] == "torchvision" else timm
    return _wrapped(source.build(plan["model"], plan["arguments"]), plan)


def _wrapped(network: nn.Module, plan: Mapping[str, Any]) -> Imported:
    before = plan["preprocessing"]
    made = Imported(network, None if before is None else Preprocessing(**before), plan["image"])
    if any(is_lazy(tensor) for tensor in (*made.parameters(), *made.buffers())):
        # Lazy modules are complete after a first run; a training or a weights file needs them complete.
        with eval_mode(made), torch.no_grad(), refusing(made, made.image_shape):
            made(torch.zeros(_LAZY_IMAGES, *made.image_shape))
    return made


def _preprocessing(
    network: NetworkConfig, arguments: Mapping[str, Any], data: Data
) -> dict[str, Any] | None:
    """Arguments of `Preprocessing`; None where the network takes the images as they are."""
    trained_with = None
    if weights := network.expects or (network.weights if network.kind == "named" else None):
        of = torchvision if network.source == "torchvision" else timm
        trained_with = of.expectation(str(network.model), weights)
    given = network.normalisation or trained_with
    size = network.image_size or (trained_with.image_size if trained_with else None)
    channels = data.channels
    if network.source == "torchvision":
        channels = torchvision.CHANNELS
    elif network.source == "timm":
        channels = timm.channels(arguments)
    elif given is not None:
        channels = len(given.mean)
    if given is not None and len(given.mean) != channels:
        raise InputError(
            f"normalisation has {len(given.mean)} channels, and the network takes {channels}"
        )
    if data.channels not in (1, channels):
        raise InputError(
            f"the images have {data.channels} channels, and the network takes {channels}; only grey "
            "images can be taken by a network for others, by repeating them"
        )
    found: dict[str, Any] = {}
    if size not in (None, data.image_size):
        found["image_size"] = size
    if data.channels != channels:
        found["grey_to"] = channels
    if given is not None:
        mean, std = (t.double().expand(channels) for t in (data.mean, data.std))
        own_mean, own_std = (torch.tensor(v, dtype=torch.float64) for v in (given.mean, given.std))
        found["scale"] = (std / own_std).tolist()
        found["shift"] = ((mean - own_mean) / own_std).tolist()
    return {"size": data.image_size, **found} if found else None


def _ready(network: NetworkConfig, made: Imported, data: Data) -> Imported:
    """The network looked over, with its layers and whether its head fits the data."""
    try:
        outputs = examine(made, learns=network.kind in ("trained", "random"))
        made.classifies = outputs == data.num_classes
        own = getattr(made.network, "layer_names", None)
        names = network.layers or own or "auto"
        opened = open_network(made, layer_names=names, images=some_images(data))
        made.layer_names = [layer.name for layer in opened.layers]
        if not made.layer_names:
            raise InputError("no block was found in it; name its layers (stitch-sweep describe)")
    except InputError as error:
        raise InputError(*(f"{network.title}: {problem}" for problem in error.problems)) from error
    return made


def some_images(data: Data) -> Tensor:
    """A few training images, from all over the set, as a network gets them."""
    every = max(1, len(data.train.images) // _TRIED)
    return normalise(data.train.images[::every][:_TRIED], data.mean, data.std)
