"""Frozen senders and receivers, cut on demand and verified by hash."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stitch_sweep.config.pairs import IMAGE_LAYER
from stitch_sweep.data.batches import Batch
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.cutting.opening import open_network
from stitch_sweep.networks.cutting.points import LayerNames, Location
from stitch_sweep.networks.evaluation import Evaluation, evaluate
from stitch_sweep.networks.external.preprocessing import Imported
from stitch_sweep.storage.digests import digest, fingerprint, tensors_of

if TYPE_CHECKING:
    from stitch_sweep.networks.fast.copies import FastNetwork, FastSettings


class FrozenError(Exception):
    """A frozen network changed or could have changed, so its results can't be trusted."""


class FrozenSender(ABC):
    """A source of representations for a stitch: in eval mode, without gradients, verified by hash.

    Args:
        module: the module whose parameters and buffers determine the representations. It is switched to
            eval mode and `requires_grad=False` in place, and its gradients are dropped.
        name: name in messages.

    Attributes:
        classifies: whether it has logits for the data's classes, and therefore an accuracy.
    """

    classifies: bool

    def __init__(self, module: nn.Module, name: str) -> None:
        self.network = module.eval().requires_grad_(False)
        module.zero_grad(set_to_none=True)  # gradients from the network's training
        self.name = name
        self.fingerprint = fingerprint(module)
        self._digests = self._digest_each()

    @abstractmethod
    def represent(self, layer: int | None, batch: Batch) -> Tensor:
        """Return a layer's representation of every image, [B, *shape], or logits [B, K] for None."""

    @abstractmethod
    def shape(self, layer: int | None, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a layer's representation of one image, without the batch."""

    @abstractmethod
    def evaluate(self, loader: Loader) -> Evaluation | None:
        """Return the sender's result on a split; None if it doesn't classify."""

    def verify(self) -> None:
        """Check that nothing changed since the module was frozen.

        Raises:
            FrozenError: a part is in train mode, a parameter could get a gradient, or a parameter or
                buffer changed; the message names the first one.
        """
        for path, part in self.network.named_modules():
            if part.training:
                raise FrozenError(f"{self.name}: {path or 'the network'} is in train mode")
        for path, parameter in self.network.named_parameters():
            if parameter.requires_grad or parameter.grad is not None:
                raise FrozenError(f"{self.name}: parameter {path} takes gradients")
        digests = self._digest_each()
        for path in sorted(digests.keys() | self._digests.keys()):
            if digests.get(path) != self._digests.get(path):
                raise FrozenError(f"{self.name}: {path} changed while it was frozen")

    def _digest_each(self) -> dict[str, str]:
        return {path: digest({path: t}) for path, t in tensors_of(self.network).items()}


class FrozenNetwork(FrozenSender):
    """A network as sender or receiver, cut on demand.

    Args:
        network: the module, frozen in place; see `FrozenSender`.
        name: name in messages.
        layer_names: cut points to use as layers 0, 1, ... instead of the model's own, or `auto`.

    Raises:
        InputError: a name in `layer_names` is not a cut point.

    Attributes:
        layer_names: the names of the layers, in order.
        copies: its fast copies by their settings; see `networks.fast.copies`.
    """

    def __init__(
        self, network: nn.Module, name: str = "network", layer_names: LayerNames = None
    ) -> None:
        super().__init__(network, name)
        # An external network with a head for other classes can still be a sender.
        self.classifies = not isinstance(network, Imported) or network.classifies
        self._opened = open_network(network, layer_names=layer_names)
        self.layer_names = [layer.name for layer in self._opened.layers]
        self._parts: dict[tuple[Location, Location], nn.Module] = {}
        self._evaluated: tuple[Tensor, Evaluation] | None = None
        self.copies: dict[FastSettings, FastNetwork] = {}

    def verify(self) -> None:
        """Check that nothing changed since the module was frozen, in the network and in its copies.

        Raises:
            FrozenError: see `FrozenSender.verify`; or a fast copy is not the network's copy any more.
        """
        super().verify()
        for fast_copy in self.copies.values():
            fast_copy.verify(self.fingerprint)

    def prefix(self, layer: int | None) -> nn.Module:
        """Return A_{<=layer}: images [B, C, H, W] to the layer's representation; the identity for -1.

        None returns the whole network, to logits [B, K].
        """
        return self.part(IMAGE_LAYER, layer)

    def suffix(self, layer: int) -> nn.Module:
        """Return B_{>layer}: the layer's representation to logits [B, K]."""
        return self.part(layer, None)

    def represent(self, layer: int | None, batch: Batch) -> Tensor:
        """Return the layer's representation of the images: see `prefix`."""
        representation: Tensor = self.prefix(layer)(batch.images)
        return representation

    def shape(self, layer: int | None, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a layer's representation of one image, without the batch."""
        device = next(self.network.parameters()).device
        with torch.no_grad():
            output = self.prefix(layer)(torch.zeros(1, *image_shape, device=device))
        return tuple(output.shape[1:])

    def evaluate(self, loader: Loader) -> Evaluation:
        """Return the network's own result on a split; the result of the last split is cached."""
        images = loader.images.images
        if self._evaluated is None or self._evaluated[0] is not images:
            self._evaluated = (images, evaluate(self.network, loader))
        return self._evaluated[1]

    def part(self, start: Location, end: Location) -> nn.Module:
        """Return the part between the representations at two places, or up to the logits [B, K] for None.

        A place is a layer's index or a cut point's name; -1 and, as a start, None are the image.
        """
        if (start, end) not in self._parts:
            self._parts[start, end] = self._opened.sub_network(start, end)
        return self._parts[start, end]
