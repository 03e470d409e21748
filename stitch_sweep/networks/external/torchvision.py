"""Networks of torchvision by name, untrained or with weights that torchvision names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn
from torchvision import models

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.networks.external.building import (
    call,
    check_arguments,
    nothing_loaded,
    weights_only,
)

CHANNELS = 3
"""Every network there takes colour images."""


class Expectation(NamedTuple):
    """What named weights were trained with: normalisation per channel, pixels on a side."""

    mean: list[float]
    std: list[float]
    image_size: int


def build(model: str, arguments: Mapping[str, Any]) -> nn.Module:
    """An untrained network; its weights come from torch's global generator.

    Args:
        model: a name of `torchvision.models.list_models`.
        arguments: of that model's function, such as `num_classes`.

    Raises:
        InputError: no model is named so, or it doesn't take the arguments: those that load something
            are refused.
    """
    check_arguments("torchvision", arguments)
    builder = models.get_model_builder(_known(model))
    with nothing_loaded(f"torchvision's {model}"):
        return call(builder, {**arguments, "weights": None}, model)


def expectation(model: str, weights: str) -> Expectation:
    """What named weights were trained with.

    Raises:
        InputError: the model has no such weights.
    """
    transform = _weights(model, weights).transforms()
    return Expectation(list(transform.mean), list(transform.std), transform.crop_size[0])


def load(model: str, weights: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network with weights that are fetched, or taken from PyTorch's cache.

    Raises:
        InputError: no model or weights are named so, or they can't be had; code in a file is not run.
    """
    check_arguments("torchvision", arguments)
    chosen = _weights(model, weights)
    builder = models.get_model_builder(_known(model))
    with weights_only(f"torchvision:{model}, weights {weights}"):
        return call(builder, {**arguments, "weights": chosen, "progress": False}, model)


def _known(model: str) -> str:
    names = models.list_models(module=models)
    if model not in names:
        raise InputError(f"torchvision has no model {model!r}: {nearest(model, names)}")
    return model


def _weights(model: str, weights: str) -> Any:
    members = models.get_model_weights(_known(model)).__members__
    if weights not in members:
        raise InputError(
            f"torchvision's {model} has no weights {weights!r}: {nearest(weights, members)}"
        )
    return members[weights]
