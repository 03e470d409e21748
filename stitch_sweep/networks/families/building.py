"""Build a network of a built-in family, and resolve the names of single networks."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import FAMILIES
from stitch_sweep.networks.families import cnn, densenet, mlp, resnet, vgg, vit
from stitch_sweep.networks.families.parts import limited_size

_FAMILIES = {
    "cnn": cnn,
    "densenet": densenet,
    "mlp": mlp,
    "resnet": resnet,
    "vgg": vgg,
    "vit": vit,
}
NAME_FORMS = [form for family in _FAMILIES.values() for form in family.NAME_FORMS]


@FAMILIES.register_resolver
def _resolve_name(name: str) -> tuple[str, dict[str, Any]] | None:
    for family, module in _FAMILIES.items():
        if (options := module.named(name)) is not None:
            return family, options
    return None


def build(
    family: str,
    in_channels: int,
    num_classes: int,
    options: Mapping[str, Any] | None = None,
    *,
    image_size: int = 32,
) -> nn.Module:
    """Make an untrained network of a registered family; its weights come from torch's global generator.

    Args:
        family: a registered name, such as "resnet".
        in_channels: channels of the image.
        num_classes: length of the logits.
        options: the family's options, such as `blocks` and `width`.
        image_size: pixels on a side of the image; networks of some families take only this size.

    Raises:
        InputError: there is no such family, or it doesn't take the options or such images.

    Example:
        >>> family, options = resolve("resnet1111")
        >>> build(family, 3, 10, {**options, "width": 8})(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    try:
        with limited_size(f"network family {family}"):
            network = FAMILIES.build(family, in_channels, num_classes, image_size, options=options)
    except ValidationError as error:
        raise InputError(
            *(
                f"network family {family}, {'.'.join(str(part) for part in problem['loc'])}: "
                + problem["msg"]
                + ("" if problem["type"] == "missing" else f", got {problem['input']!r}")
                for problem in error.errors()
            )
        ) from None
    if not isinstance(network, nn.Module):
        raise InputError(
            f"network family {family}: returned a {type(network).__name__}, not a torch.nn.Module"
        )
    return network


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """Return the family and options of a named network.

    Args:
        name: a name such as `resnet34`, `resnet1111`, `densenet121`, `vgg11`, `cnn6`, `mlp3` or
            `vit_tiny`: the variants for small images; see `named` in each family's module.

    Raises:
        InputError: no network has that name; the message has the nearest name and the allowed forms.

    Example:
        >>> resolve("resnet34")
        ('resnet', {'blocks': [3, 4, 6, 3]})
    """
    if (resolved := _resolve_name(name)) is not None:
        return resolved
    if name in FAMILIES.names() and FAMILIES.has_extension(name):
        return name, {}
    close = get_close_matches(name, NAME_FORMS, n=1, cutoff=0.8)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(f"no network is named {name!r}: {hint}allowed: {', '.join(NAME_FORMS)}")
