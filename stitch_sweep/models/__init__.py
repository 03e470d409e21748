"""Network families, the names of single networks, and their layer tables."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from torch import nn

from stitch_sweep.errors import InputError
from stitch_sweep.models import resnet
from stitch_sweep.models.describe import LayerRow, ModelDescription, TableRow, describe
from stitch_sweep.registry import FAMILIES

__all__ = ["LayerRow", "ModelDescription", "TableRow", "build", "describe", "resolve"]


@FAMILIES.register_resolver
def _named(name: str) -> tuple[str, dict[str, Any]] | None:
    options = resnet.named(name)
    return None if options is None else ("resnet", options)


def build(
    family: str, in_channels: int, num_classes: int, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """An untrained network of a registered family; its weights come from torch's global generator.

    Args:
        family: a registered name, such as "resnet".
        in_channels: channels of the image.
        num_classes: length of the logits.
        options: the family's own options, such as `blocks` and `width`.

    Raises:
        InputError: no such family, or options it does not take.

    Example:
        >>> family, options = resolve("resnet1111")
        >>> build(family, 3, 10, {**options, "width": 8})(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    try:
        network = FAMILIES.build(family, in_channels, num_classes, options=options)
    except ValidationError as error:
        raise InputError(
            *(
                f"network family {family}, {'.'.join(str(part) for part in problem['loc'])}: "
                + problem["msg"]
                + ("" if problem["type"] == "missing" else f", got {problem['input']!r}")
                for problem in error.errors()
            )
        ) from None
    assert isinstance(network, nn.Module)
    return network


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """Family and options of a network called by name.

    Args:
        name: `resnet10`, `resnet18`, `resnet34` (the variants for small images, see
            `stitch_sweep.models.resnet`), or `resnetABCD` with the blocks of the four stages.

    Raises:
        InputError: the name means nothing; the message has the nearest name or the allowed forms.

    Example:
        >>> resolve("resnet34")
        ('resnet', {'blocks': [3, 4, 6, 3]})
    """
    if (found := _named(name)) is not None:
        return found
    close = get_close_matches(name, resnet.NAME_FORMS, n=1, cutoff=0.8)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(f"no network is named {name!r}: {hint}allowed: {', '.join(resnet.NAME_FORMS)}")
