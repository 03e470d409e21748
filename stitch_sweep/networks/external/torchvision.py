"""Networks of torchvision by name, untrained or with torchvision's named weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torchvision import models

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.networks.external.arguments import check_arguments
from stitch_sweep.networks.external.factories import call_factory
from stitch_sweep.networks.external.libraries import COLOR_CHANNELS, Expectation
from stitch_sweep.networks.external.loading_guard import nothing_loaded, torch_weights_only


def build(model: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Make an untrained network; its weights come from torch's global generator.

    Args:
        model: a name of `torchvision.models.list_models`.
        arguments: arguments of that model's function, such as `num_classes`.

    Raises:
        InputError: torchvision has no such model, or it doesn't take the arguments. Arguments that load
            something are refused.
    """
    check_arguments("torchvision", arguments)
    builder = models.get_model_builder(_check_model(model))
    with nothing_loaded(f"torchvision's {model}"):
        return call_factory(builder, {**arguments, "weights": None}, model)


def load(model: str, weights: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Make a network with named weights, downloaded or from PyTorch's cache.

    Raises:
        InputError: torchvision has no such model or weights, or they can't be loaded. Code in a file is
            not run.
    """
    check_arguments("torchvision", arguments)
    chosen = _find_weights(model, weights)
    builder = models.get_model_builder(_check_model(model))
    with torch_weights_only(f"torchvision:{model}, weights {weights}"):
        return call_factory(builder, {**arguments, "weights": chosen, "progress": False}, model)


def channels(arguments: Mapping[str, Any]) -> int:
    """Return 3: all networks of torchvision take color images."""
    return COLOR_CHANNELS


def expectation(model: str, weights: str) -> Expectation:
    """Return the images that named weights were trained with.

    Raises:
        InputError: torchvision has no such model, or the model has no such weights.
    """
    transform = _find_weights(model, weights).transforms()
    return Expectation(list(transform.mean), list(transform.std), transform.crop_size[0])


def _check_model(model: str) -> str:
    names = models.list_models(module=models)
    if model not in names:
        raise InputError(f"torchvision has no model {model!r}: {nearest(model, names)}")
    return model


def _find_weights(model: str, weights: str) -> Any:
    members = models.get_model_weights(_check_model(model)).__members__
    if weights not in members:
        raise InputError(
            f"torchvision's {model} has no weights {weights!r}: {nearest(weights, members)}"
        )
    return members[weights]
