"""Outlines of networks: the shapes of their layers, and the reach of their gradients."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import torch

from stitch_sweep.config.networks import (
    CLASS_ONLY,
    EXTERNAL_KINDS,
    LOGITS_ONLY,
    NetworkConfig,
)
from stitch_sweep.config.pairs import IMAGE_LAYER
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data
from stitch_sweep.networks import construction
from stitch_sweep.networks.cutting.gradients import GradientFlow, gradient_flow
from stitch_sweep.networks.cutting.linear_rest import find_linear_rests
from stitch_sweep.networks.cutting.opening import open_network
from stitch_sweep.networks.cutting.running import black_image
from stitch_sweep.networks.external.examination import explain_probabilities
from stitch_sweep.networks.external.preprocessing import Imported
from stitch_sweep.networks.weights.fitting import load_pretrained
from stitch_sweep.stitches.shapes import Shape

_GRADIENT_IMAGES = 2
"""Number of images for which gradients are computed."""


@dataclass(frozen=True)
class Outline:
    """A network without weights: the shapes of its layers.

    Attributes:
        image: shape of the image, layer -1; None for a class-only or logits-only sender.
        layers: shape of each layer from 0 on.
        outputs: length of the logits; None for a class-only sender.
        gradients: how far gradients reach into the network.
        notes: notes on the network for the user.
        linear_rests: the layers after which the network is affine; see `find_linear_rests`.
    """

    image: Shape | None
    layers: list[Shape]
    outputs: int | None
    gradients: GradientFlow = field(default_factory=GradientFlow)
    notes: tuple[str, ...] = ()
    linear_rests: tuple[int, ...] = ()

    def check_layers(self, name: str, layers: Iterable[int]) -> None:
        """Check that the network has these layers.

        Args:
            name: of the network, for the message.
            layers: layer indices.

        Raises:
            InputError: it doesn't; the message has the range.
        """
        last = len(self.layers) - 1
        first = 0 if self.image is None else IMAGE_LAYER
        if outside := [str(layer) for layer in layers if not first <= layer <= last]:
            start = "-1 (the image)" if self.image else "0 (this control knows no image)"
            raise InputError(f"{name} has layers {start} to {last}, not {', '.join(outside)}")

    def shape(self, layer: int) -> Shape:
        """Return the shape of one image's representation at a layer that the network has."""
        if layer != IMAGE_LAYER:
            return self.layers[layer]
        assert self.image is not None
        return self.image


def outline_networks(
    config: Config, data: Data, names: Collection[str] | None = None
) -> dict[str, Outline]:
    """Outline the networks of a configuration.

    Args:
        config: the configuration.
        data: the images.
        names: of the networks to outline; by default all.

    Returns:
        Outlines by network name, in the configuration's order.

    Raises:
        InputError: networks that can't be built, loaded or cut.
    """
    outlines: dict[str, Outline] = {}
    problems: list[str] = []
    for i, network in enumerate(config.networks):
        if names is not None and network.name not in names:
            continue
        try:
            outlines[network.name] = _outline(network, data)
        except InputError as error:
            problems += [f"networks[{i}]: {problem}" for problem in error.problems]
    for i, network in enumerate(config.networks):
        own, probed = (outlines.get(str(name)) for name in (network.name, network.probes_of))
        if own is not None and probed is not None and own.layers != probed.layers:
            problems.append(
                f"networks[{i}].probes_of: the layers of {network.probes_of} have other shapes than "
                f"those of {network.name}; give both the same architecture and layers"
            )
    if problems:
        raise InputError(*problems)
    return outlines


def _outline(network: NetworkConfig, data: Data) -> Outline:
    # Not on "meta": random numbers and batch norms there import torch's compiler, which takes 1.5 s.
    is_given = network.kind in EXTERNAL_KINDS
    module = (
        load_pretrained(network, data) if is_given else construction.build(network, data).eval()
    )
    # The loaded weights may differ from the weights that the cut points were found with.
    traced = open_network(
        module,
        layer_names=network.cuts,
        image_shape=data.image_shape,
        images=construction.sample_training_images(data),
    )
    shapes = traced.shapes(data.image_shape)
    layers = [shapes[layer.name] for layer in traced.layers]
    if network.kind == CLASS_ONLY:
        return Outline(None, layers, None)
    if network.kind == LOGITS_ONLY:
        return Outline(None, layers, data.num_classes)
    whole = traced.sub_network(None, None)
    with torch.no_grad():
        outputs = whole(black_image(module, data.image_shape)).shape[1]
    rests = tuple(find_linear_rests(lambda layer: traced.sub_network(layer, None), layers))
    if not isinstance(module, Imported):
        return Outline(data.image_shape, layers, outputs, linear_rests=rests)
    images = construction.sample_training_images(data)
    flow = gradient_flow(module, traced, images[:_GRADIENT_IMAGES])
    notes = [explain_probabilities(module, images)]
    if is_given and flow.last_zero > flow.last_blocked:  # a network to train may start with zeros
        notes.append(
            f"for the tested images, the gradients of its logits are 0 at layer "
            f"{flow.last_zero} and all earlier layers: a stitch into them learns nothing from the logits"
        )
    present = tuple(note for note in notes if note is not None)
    return Outline(data.image_shape, layers, outputs, flow, present, rests)
