"""Networks of timm by name, untrained or with timm's named weights; timm is an optional extra."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.networks.external.arguments import check_arguments
from stitch_sweep.networks.external.factories import call_factory
from stitch_sweep.networks.external.libraries import COLOR_CHANNELS, Expectation
from stitch_sweep.networks.external.loading_guard import nothing_loaded, torch_weights_only

_HARMLESS = {"kwargs", "exportable", "no_jit"}
"""Parameters of `create_model` with which nothing is loaded."""
_LONGEST_HINT = 200


def build(model: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Make an untrained network; its weights come from torch's global generator.

    Args:
        model: a name of `timm.list_models`.
        arguments: arguments of `timm.create_model`, such as `num_classes` or `in_chans`.

    Raises:
        InputError: timm isn't installed, it has no such model, or the model doesn't take the arguments.
            Arguments that load something are refused.
    """
    timm = _import_timm()
    _check_arguments(timm, arguments)
    with nothing_loaded(f"timm's {model}"):
        return _create(timm, _check_model(timm, model), {**arguments, "pretrained": False})


def load(model: str, weights: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Make a network with named weights, downloaded or from a cache.

    Raises:
        InputError: timm isn't installed, it has no such model or weights, or they can't be loaded. Code
            in a file is not run.
    """
    timm = _import_timm()
    _check_arguments(timm, arguments)
    tagged = _tagged_name(timm, model, weights)
    with torch_weights_only(f"timm:{model}, weights {weights}"):
        return _create(timm, tagged, {**arguments, "pretrained": True})


def channels(arguments: Mapping[str, Any]) -> int:
    """Return the number of channels of the images that a network takes.

    Raises:
        InputError: `in_chans` is not a whole number above 0.
    """
    count = arguments.get("in_chans", COLOR_CHANNELS)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"arguments.in_chans: must be a whole number above 0, got {count!r}")
    return count


def expectation(model: str, weights: str) -> Expectation:
    """Return the images that named weights were trained with.

    Raises:
        InputError: timm isn't installed, or the model has no such weights.
    """
    timm = _import_timm()
    settings = timm.get_pretrained_cfg(_tagged_name(timm, model, weights))
    return Expectation(list(settings.mean), list(settings.std), settings.input_size[-1])


def _check_arguments(timm: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse parameters of `create_model`, and of functions it calls, that don't describe a network."""
    parameters = {
        name
        for function in (timm.create_model, timm.models.build_model_with_cfg)
        for name in inspect.signature(function).parameters
    }
    check_arguments("timm", arguments, parameters - _HARMLESS)


def _create(timm: Any, model: str, arguments: Mapping[str, Any]) -> nn.Module:
    return call_factory(timm.create_model, {**arguments, "model_name": model}, model)


def _import_timm() -> Any:
    try:
        return import_module("timm")
    except ImportError:
        raise InputError(
            "source: timm needs timm, which isn't installed: pip install 'stitch-sweep[timm]'"
        ) from None


def _check_model(timm: Any, model: str) -> str:
    # Allow only timm's own names, because `hf-hub:NAME` would download a file of any Hub user.
    names = timm.list_models()
    if model not in names:
        hint = nearest(model, names)
        short = len(hint) < _LONGEST_HINT
        advice = hint if short else f"it has {len(names)}, see timm.list_models()"
        raise InputError(f"timm has no model {model!r}: {advice}")
    return model


def _tagged_name(timm: Any, model: str, weights: str) -> str:
    pretrained = timm.list_pretrained(f"{_check_model(timm, model)}.*")
    tags = [name.partition(".")[2] for name in pretrained]
    if weights not in tags:
        raise InputError(f"timm's {model} has no weights {weights!r}: {nearest(weights, tags)}")
    return f"{model}.{weights}"
