"""Networks of timm by name, untrained or with weights that timm names; an optional extra."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.networks.external.building import (
    call,
    check_arguments,
    nothing_loaded,
    weights_only,
)
from stitch_sweep.networks.external.torchvision import CHANNELS, Expectation

_HARMLESS = {"kwargs", "exportable", "no_jit"}
"""Parameters of `create_model` by which it loads nothing."""


def build(model: str, arguments: Mapping[str, Any]) -> nn.Module:
    """An untrained network; its weights come from torch's global generator.

    Args:
        model: a name of `timm.list_models`.
        arguments: of `timm.create_model`, such as `num_classes` or `in_chans`.

    Raises:
        InputError: timm isn't installed, no model is named so, or it doesn't take the arguments: those
            that load something are refused.
    """
    timm = _timm()
    _check(timm, arguments)
    with nothing_loaded(f"timm's {model}"):
        return _create(timm, _known(timm, model), {**arguments, "pretrained": False})


def channels(arguments: Mapping[str, Any]) -> int:
    """Channels of the images that a network takes.

    Raises:
        InputError: the argument that says so is no whole number above 0.
    """
    found = arguments.get("in_chans", CHANNELS)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise InputError(f"arguments.in_chans: is {found!r}, a whole number above 0 is wanted")
    return found


def expectation(model: str, weights: str) -> Expectation:
    """What named weights were trained with.

    Raises:
        InputError: timm isn't installed, or the model has no such weights.
    """
    timm = _timm()
    found = timm.get_pretrained_cfg(_tagged(timm, model, weights))
    return Expectation(list(found.mean), list(found.std), found.input_size[-1])


def load(model: str, weights: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network with weights that are fetched, or taken from a cache.

    Raises:
        InputError: timm isn't installed, no model or weights are named so, or they can't be had; code
            in a file is not run.
    """
    timm = _timm()
    _check(timm, arguments)
    tagged = _tagged(timm, model, weights)
    with weights_only(f"timm:{model}, weights {weights}"):
        return _create(timm, tagged, {**arguments, "pretrained": True})


def _check(timm: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse what `create_model` and what it calls take beside the description of a network."""
    parameters = {
        name
        for function in (timm.create_model, timm.models.build_model_with_cfg)
        for name in inspect.signature(function).parameters
    }
    check_arguments("timm", arguments, parameters - _HARMLESS)


def _create(timm: Any, model: str, arguments: Mapping[str, Any]) -> nn.Module:
    return call(timm.create_model, {**arguments, "model_name": model}, model)


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError:
        raise InputError(
            "source: timm needs timm, which isn't installed: pip install 'stitch-sweep[timm]'"
        ) from None


def _known(timm: Any, model: str) -> str:
    # Only its own: a name with hf-hub: in it would fetch a description from anybody.
    names = timm.list_models()
    if model not in names:
        hint = nearest(model, names)
        few = hint if len(hint) < 200 else f"it has {len(names)}, see timm.list_models()"
        raise InputError(f"timm has no model {model!r}: {few}")
    return model


def _tagged(timm: Any, model: str, weights: str) -> str:
    known = timm.list_pretrained(f"{_known(timm, model)}.*")
    tags = [name.partition(".")[2] for name in known]
    if weights not in tags:
        raise InputError(f"timm's {model} has no weights {weights!r}: {nearest(weights, tags)}")
    return f"{model}.{weights}"
