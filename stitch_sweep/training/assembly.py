"""Networks assembled from parts: pieces of networks, and stitches between them.

    image -> [a, to layer1.0] -> [stitch] -> [b, layer1.0 to layer3.0] -> [stitch] -> [a, from layer3.0]

A stitch between two networks is an assembly of three parts; an assembly may have any number of parts.
Stitches are trained; pieces of networks are frozen unless the configuration sets `frozen: false`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stitch_sweep.config.pairs import IMAGE_LAYER
from stitch_sweep.config.parts import PartConfig
from stitch_sweep.config.stitch import DATA_STARTS, StitchConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.cutting.gradients import gradient_through
from stitch_sweep.networks.cutting.hooked_part import tensors_of_part
from stitch_sweep.networks.cutting.opening import CuttableNetwork, open_network
from stitch_sweep.networks.cutting.points import LayerNames
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.stitches.building import build_stitch, misfit
from stitch_sweep.stitches.shapes import Shape, format_shape
from stitch_sweep.stitches.starts import start_stitch


class Piece(NamedTuple):
    """A part of an assembly, with the shapes that it joins.

    Attributes:
        config: the part's section of the configuration.
        takes: shape of its input, without the batch.
        gives: shape of its output, without the batch.
    """

    config: PartConfig
    takes: Shape
    gives: Shape


def outline(
    parts: Sequence[PartConfig],
    networks: Mapping[str, nn.Module],
    image: Shape,
    layers: Mapping[str, LayerNames] | None = None,
) -> list[Piece]:
    """Determine and check the shapes of all parts. Every network runs once, on a single image.

    Args:
        parts: from the image to the logits.
        networks: by name, with any weights.
        image: shape of the image.
        layers: names of a network's layers, by network, where they replace its `layer_names`.

    Raises:
        InputError: with every place that is not a cut point, every pair of parts whose shapes differ
            (and the stitches that can join them), and every stitch that can't join its neighbors.
    """
    pieces: list[Piece | None] = []
    problems: list[str] = []
    for k, part in enumerate(parts):
        piece = None
        if part.stitch is None:
            try:
                name = str(part.network)
                network = open_network(networks[name], layer_names=(layers or {}).get(name))
                learns = any(p.stitch is not None or not p.frozen for p in parts[:k])
                piece = _network_piece(part, network, image, learns)
            except InputError as error:
                problems += [f"parts[{k}]: {problem}" for problem in error.problems]
        pieces.append(piece)
    if problems:
        raise InputError(*problems)
    for k, part in enumerate(parts):
        if part.stitch is not None:
            before, after = pieces[k - 1], pieces[k + 1]
            assert before is not None  # the configuration has a piece of a network on each side
            assert after is not None
            pieces[k] = Piece(part, before.gives, after.takes)
            problem = misfit(part.stitch, before.gives, after.takes)
            problems += [] if problem is None else [f"parts[{k}]: {problem}"]
        elif k and (before := pieces[k - 1]) is not None:
            piece = pieces[k]
            assert piece is not None
            if before.gives != piece.takes:
                problems.append(
                    f"parts[{k}]: takes {format_shape(piece.takes)}, but the part before it gives "
                    f"{format_shape(before.gives)}; {_joining_stitches(before.gives, piece.takes)}"
                )
    if problems:
        raise InputError(*problems)
    return [piece for piece in pieces if piece is not None]


def _network_piece(part: PartConfig, network: CuttableNetwork, image: Shape, learns: bool) -> Piece:
    """Determine the shapes of a piece of a network.

    Args:
        part: the piece.
        network: the whole network.
        image: shape of the image.
        learns: whether an earlier part is trained, so that gradients must pass through this part.
    """
    # A piece without a start begins at the image, and the network's part before it is the identity.
    predecessor = network.sub_network(None, IMAGE_LAYER if part.start is None else part.start)
    piece = network.sub_network(part.start, part.end)
    with torch.no_grad():
        inputs = predecessor.eval()(torch.zeros(1, *image))
        outputs = piece.eval()(inputs)
    if learns:
        gradient, reason = gradient_through(piece, inputs)
        if gradient is None:
            start = "the image" if part.start is None else repr(part.start)
            end = "the logits" if part.end is None else repr(part.end)
            raise InputError(
                f"{part.network} passes no gradient back between its places {start} and {end}{reason}, "
                "so no part before it can be trained. Remove detach(), no_grad() or inference_mode() "
                "from its forward, or use another network there"
            )
    return Piece(part, tuple(inputs.shape[1:]), tuple(outputs.shape[1:]))


def _joining_stitches(takes: Shape, gives: Shape) -> str:
    """List the stitches that can join two shapes with their default options."""
    names = [
        name for name in STITCHES.names() if misfit(StitchConfig(name=name), takes, gives) is None
    ]
    return (
        f"stitches that can join them: {', '.join(names)}" if names else "no stitch can join them"
    )


class Assembly(nn.Module):
    """A sequence of parts, from images [B, C, H, W] to logits [B, K].

    Pieces of networks, including trained pieces, are always in eval mode: the statistics of their
    BatchNorms don't change. A stitch is in train mode while it is trained.

    Args:
        pieces: as `outline` returns them.
        networks: by name. They are frozen in place; a part with `frozen: false` gets a copy.
        seed: decides the stitches' initial weights, together with their positions.
        layers: as for `outline`.

    Attributes:
        parts: the modules, in order.
        trained: the parameters that are trained, by the position of their part.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        networks: Mapping[str, nn.Module],
        seed: int = 0,
        layers: Mapping[str, LayerNames] | None = None,
    ) -> None:
        super().__init__()
        self.pieces = list(pieces)
        layer_names = layers or {}
        self._frozen = {
            name: FrozenNetwork(network, f"network {name!r}", layer_names.get(name))
            for name, network in networks.items()
        }
        modules: list[nn.Module] = []
        for k, piece in enumerate(pieces):
            part, stitch = piece.config, piece.config.stitch
            name = str(part.network)
            if stitch is not None:
                modules.append(
                    build_stitch(
                        stitch.name,
                        piece.takes,
                        piece.gives,
                        start=stitch.start,
                        options=stitch.options,
                        seed=seed,
                        repeat=k,
                    )
                )
            elif part.frozen:
                modules.append(self._frozen[name].part(part.start, part.end))
            else:
                modules.append(_trainable_copy(networks[name], part, layer_names.get(name)))
        device = next(next(iter(networks.values())).parameters()).device
        self.parts = nn.ModuleList(modules).to(device)
        self.trained = {
            k: [p for p in module.parameters() if p.requires_grad]
            for k, module in enumerate(self.parts)
            if any(p.requires_grad for p in module.parameters())
        }
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to logits [B, K]."""
        for part in self.parts:
            images = part(images)
        return images

    def learn(self, positions: Collection[int]) -> None:
        """Train the parts at these positions, and no others, from now on."""
        for k, module in enumerate(self.parts):
            module.train(k in positions and self.pieces[k].config.stitch is not None)
            for parameter in self.trained.get(k, []):
                parameter.requires_grad_(k in positions)

    def last_network(self) -> FrozenNetwork:
        """Return the network that the last part is a piece of."""
        return self._frozen[str(self.pieces[-1].config.network)]

    def start(self, train: Loader) -> None:
        """Initialize data-dependent stitches, in order.

        A stitch's input is the output of the parts before it on the training images; its target is the
        next network's own representation at the place where that network continues.
        """
        for k, piece in enumerate(self.pieces):
            stitch = piece.config.stitch
            if stitch is not None and stitch.start in DATA_STARTS:
                start_stitch(self.parts[k], stitch.start, self._pairs(k, train))

    @torch.no_grad()
    def _pairs(self, position: int, train: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (input, target) of the stitch at a position, over the training images."""
        after = self.pieces[position + 1].config
        start = IMAGE_LAYER if after.start is None else after.start  # the stitch produces an image
        expected = self._frozen[str(after.network)].part(None, start)
        for batch in train.in_order():
            before = batch.images
            for part in self.parts[:position]:
                before = part(before)
            yield before[: batch.valid], expected(batch.images)[: batch.valid]

    def verify(self) -> None:
        """Check that no frozen network changed.

        Raises:
            FrozenError: a network changed.
        """
        for network in self._frozen.values():
            network.verify()


def _trainable_copy(network: nn.Module, part: PartConfig, layer_names: LayerNames) -> nn.Module:
    """Cut a piece out of a copy of a network, and unfreeze the parameters of the piece."""
    copied = open_network(copy.deepcopy(network), layer_names=layer_names)
    module = copied.sub_network(part.start, part.end)
    for tensor in tensors_of_part(module).values():
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_()
    return module
