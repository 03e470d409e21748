"""Look into a network: its layers, its parts, its sizes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pandas as pd
from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.cutting.opening import CuttableNetwork, open_network
from stitch_sweep.networks.cutting.points import CutError, Location
from stitch_sweep.networks.describe import ModelDescription
from stitch_sweep.networks.describe import describe as describe_model
from stitch_sweep.networks.external import in_memory
from stitch_sweep.networks.external.wrappers import is_wrapped_inside, unwrap_all


def layers(net: nn.Module, image_shape: Sequence[int] | None = None) -> pd.DataFrame:
    """List the layers of a network that stitching refers to by index.

    These are the cut points in the network's attribute `layer_names`; without this attribute, one cut
    point per block.

    Args:
        net: a network whose only input is a batch of images. Stitch Sweep removes the wrappers
            DataParallel, `torch.compile` and, if it has exactly one submodule with parameters, a
            Lightning module.
        image_shape: `(C, H, W)` of its images; without it the shapes are unknown.

    Returns:
        A row per layer, indexed by `layer`, with its `name` for `cut` and, where the image's shape is
        known, the `shape` of its representation of one image.

    Raises:
        InputError: `net` is no network, or it can't be cut.

    Example:
        >>> ss.layers(resnet18(), (3, 32, 32))  # doctest: +SKIP
    """
    network = _open(net, image_shape)
    rows = pd.DataFrame(
        {"name": [layer.name for layer in network.layers]},
        index=pd.RangeIndex(len(network.layers), name="layer"),
    )
    shape = image_shape or getattr(in_memory.unpack(net, "net"), "image_shape", None)
    if shape is not None:
        shapes = network.shapes(shape)
        rows["shape"] = [shapes[layer.name] for layer in network.layers]
    return rows


def cut(
    net: nn.Module,
    start: Location = None,
    end: Location = None,
    *,
    image_shape: Sequence[int] | None = None,
) -> nn.Module:
    """Return the part of a network between two cut points.

    The part shares the network's parameters and its train or eval mode. `cut(net, k, None)` after
    `cut(net, None, k)` computes the same bits as the network in eval mode.

    Args:
        net: see `layers`.
        start: index of a layer, name of a cut point, or None or -1 for the image.
        end: index of a layer, name of a cut point, or None for the network's output.
        image_shape: `(C, H, W)` of its images; needed for networks that torch.fx can't trace.

    Raises:
        InputError: there is no such cut point, a cut there would sever a skip connection, or the start
            comes after the end.

    Example:
        >>> head = ss.cut(net, "layer3", None)  # doctest: +SKIP
    """
    return _open(net, image_shape).sub_network(start, end)


def describe(net: nn.Module, image_shape: Sequence[int] | None = None) -> ModelDescription:
    """Measure a network: its modules, parameters, multiply-adds, layers and cut points.

    Args:
        net: see `layers`.
        image_shape: `(C, H, W)` of its images; not needed for networks that were loaded for a data set.

    Returns:
        The description; `print` shows it as a table.

    Raises:
        InputError: `net` is no network, the shape is unknown, or the network doesn't take such images.

    Example:
        >>> print(ss.describe(net, (3, 32, 32)))  # doctest: +SKIP
    """
    network = _unpack(net)
    shape = image_shape or getattr(network, "image_shape", None)
    if shape is None:
        raise InputError(
            f"describe: the shape of the images of {type(network).__name__} is unknown; give "
            "image_shape=(C, H, W)"
        )
    return describe_model(network, tuple(shape))


def _open(net: nn.Module, image_shape: Sequence[int] | None) -> CuttableNetwork:
    network = _unpack(net)
    names = getattr(network, "layer_names", None) or "auto"
    shape = None if image_shape is None else tuple(image_shape)
    try:
        return open_network(network, layer_names=names, image_shape=shape)
    except CutError as error:
        if shape is None and error.untraceable:
            hint = "give image_shape=(C, H, W), to find its layers by running it on an image"
            raise InputError(*error.problems, f"{type(network).__name__}: {hint}") from None
        raise


def _unpack(net: object) -> nn.Module:
    network = in_memory.unpack(net, "net")
    # Parts are unwrapped in place, so the caller's network is copied first.
    return unwrap_all(copy.deepcopy(network)) if is_wrapped_inside(network) else network
