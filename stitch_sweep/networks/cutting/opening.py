"""Open a network for cutting: traced with torch.fx, or with hooks if torch.fx can't trace it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from stitch_sweep.networks.cutting.hooked import HookedNetwork
from stitch_sweep.networks.cutting.modules import inner_prefix
from stitch_sweep.networks.cutting.points import CutError, LayerNames
from stitch_sweep.networks.cutting.traced import TracedNetwork

CuttableNetwork = TracedNetwork | HookedNetwork
"""A network that can be cut in two."""


def open_network(
    model: nn.Module,
    *,
    layer_names: LayerNames = None,
    image_shape: Sequence[int] | None = None,
    images: Tensor | None = None,
) -> CuttableNetwork:
    """Open a network for cutting.

    Args:
        model: a network with one image batch as its input.
        layer_names: the meaning of layer indices; see `TracedNetwork`.
        image_shape: `(C, H, W)`, to verify cuts with hooks; an external network has its own.
        images: `[B, C, H, W]`, images of the data set; cuts with hooks are verified on these too.

    Raises:
        CutError: a name is not a cut point. Or torch.fx can't trace the model, and either no image shape
            is given or hooks find no place to cut; the message gives the reason.
    """
    shape: Any = image_shape
    if shape is None and inner_prefix(model):
        shape = model.image_shape
    try:
        return TracedNetwork(model, layer_names=layer_names, image_shape=shape)
    except CutError as error:
        if shape is None or not error.untraceable:
            raise
        return HookedNetwork(model, shape, str(error), layer_names=layer_names, images=images)
