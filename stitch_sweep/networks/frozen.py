"""What is studied and must not change: networks, frozen, cut, and checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.cutting.hooks import open_network
from stitch_sweep.networks.cutting.tracing import LayerNames, Where
from stitch_sweep.networks.evaluation import Evaluation, evaluate
from stitch_sweep.networks.external.preprocessing import Imported
from stitch_sweep.storage.checkpoints import digest, fingerprint, tensors_of

IMAGE_LAYER = -1


class FrozenError(Exception):
    """A network that had to stay as it was has changed, or could have: every figure is in doubt."""


class Examples(NamedTuple):
    """Some images of one split, and all that is known of them; what a sender is given.

    `split` is the name of the split, `numbers` (int64 `B`) are positions in it, `images` float32
    `B x C x H x W` normalised (and augmented, in training), `labels` int64 `B`.
    """

    split: str
    numbers: Tensor
    images: Tensor
    labels: Tensor


class FrozenSender(ABC):
    """What a stitch can get its input from: eval mode, no gradients, verified by hash.

    Args:
        module: what decides the representations: all of it lies in parameters and buffers. It is
            switched to eval mode and `requires_grad=False` in place, and gradients it still has are
            dropped.
        name: what messages call it.

    Attributes:
        classifies: whether it has logits for the data's classes, and with them an accuracy of its own.
    """

    classifies: bool

    def __init__(self, module: nn.Module, name: str) -> None:
        self.network = module.eval().requires_grad_(False)
        module.zero_grad(set_to_none=True)  # what is left from its own training
        self.name = name
        self.fingerprint = fingerprint(module)
        self._digests = self._digest_each()

    @abstractmethod
    def represent(self, layer: int | None, examples: Examples) -> Tensor:
        """A layer's representation of every example, [B, *shape], or the logits [B, K] for None."""

    @abstractmethod
    def shape(self, layer: int | None, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of a layer's representation of one image, without the batch."""

    @abstractmethod
    def evaluate(self, loader: Loader) -> Evaluation | None:
        """What it does on a split by itself; None where it doesn't classify."""

    def verify(self) -> None:
        """Check that nothing about it changed since it was frozen.

        Raises:
            FrozenError: a part is in train mode, a parameter could get a gradient, or a parameter or
                buffer isn't what it was; the message names the first one.
        """
        for path, part in self.network.named_modules():
            if part.training:
                raise FrozenError(f"{self.name}: {path or 'the network'} is in train mode")
        for path, parameter in self.network.named_parameters():
            if parameter.requires_grad or parameter.grad is not None:
                raise FrozenError(f"{self.name}: parameter {path} takes gradients")
        found = self._digest_each()
        for path in sorted(found.keys() | self._digests.keys()):
            if found.get(path) != self._digests.get(path):
                raise FrozenError(f"{self.name}: {path} changed while it was frozen")

    def _digest_each(self) -> dict[str, str]:
        return {path: digest({path: t}) for path, t in tensors_of(self.network).items()}


class FrozenNetwork(FrozenSender):
    """A network as sender or receiver, cut on demand.

    Args:
        network: the module, frozen in place; see `FrozenSender`.
        name: what messages call it.
        layer_names: cut points to use as layers 0, 1, ... instead of the model's own, or `auto`.

    Raises:
        InputError: a name in `layer_names` is no place where the network can be cut.
    """

    def __init__(
        self, network: nn.Module, name: str = "network", layer_names: LayerNames = None
    ) -> None:
        super().__init__(network, name)
        # A network from elsewhere may have a head for other classes, and still send.
        self.classifies = not isinstance(network, Imported) or network.classifies
        self._traced = open_network(network, layer_names=layer_names)
        self.layer_names = [layer.name for layer in self._traced.layers]
        self._parts: dict[tuple[Where, Where], nn.Module] = {}
        self._evaluated: tuple[Tensor, Evaluation] | None = None

    def prefix(self, layer: int | None) -> nn.Module:
        """A_{<=layer}: images [B, C, H, W] to the layer's representation; the identity for -1.

        None gives the whole network, to logits [B, K].
        """
        return self.part(IMAGE_LAYER, layer)

    def suffix(self, layer: int) -> nn.Module:
        """B_{>layer}: the layer's representation to logits [B, K]."""
        return self.part(layer, None)

    def represent(self, layer: int | None, examples: Examples) -> Tensor:
        """What the network makes of the images: see `prefix`."""
        representation: Tensor = self.prefix(layer)(examples.images)
        return representation

    def shape(self, layer: int | None, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of a layer's representation of one image, without the batch."""
        device = next(self.network.parameters()).device
        with torch.no_grad():
            output = self.prefix(layer)(torch.zeros(1, *image_shape, device=device))
        return tuple(output.shape[1:])

    def evaluate(self, loader: Loader) -> Evaluation:
        """What the network itself does on a split; the last split asked for is remembered."""
        images = loader.images.images
        if self._evaluated is None or self._evaluated[0] is not images:
            self._evaluated = (images, evaluate(self.network, loader))
        return self._evaluated[1]

    def part(self, start: Where, end: Where) -> nn.Module:
        """From one place's representation to another's, or to logits [B, K] for None.

        A place is a layer's index or a cut point's name; -1 and, as a start, None are the image.
        """
        if (start, end) not in self._parts:
            self._parts[start, end] = self._traced.sub_network(start, end)
        return self._parts[start, end]
