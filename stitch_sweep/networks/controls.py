"""A sender that knows an image's class and nothing else of it: a control.

A stitch that brings it to high accuracy shows that knowing the class is enough for the receiver, not
that two networks represent images alike.

Source: the idea is from Smith et al., ICML 2025, "Functional alignment can mislead: examining model
stitching", who stitch clustered random noise into trained networks. The distribution is our own choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import derive, generator
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.frozen import Examples, FrozenNetwork, FrozenSender


class ClassOnly(nn.Module):
    """A prototype per class and layer, and noise per image.

        r_i(n) = m_i[y_n] + s e_i[n],   m_i[c], e_i[n] ~ N(0, 1) in every entry, independent

    for layer i and the n-th image of a split, of class y_n. Prototypes are functions of
    (seed, layer, class), noise of (seed, layer, split, n): neither batch, order, epoch nor augmentation
    changes what an image gets.

    Nothing is stored but what decides it, as buffers: `seed`, `noise` and the layers' shapes.

    Args:
        shapes: of each layer's representation from layer 0 on, without the batch.
        seed: any non-negative integer.
        noise: s, 0 or more; 1 makes two images of a class, per entry, as different from one another as
            two prototypes are.
    """

    seed: Tensor
    noise: Tensor

    def __init__(
        self, shapes: Sequence[Sequence[int]], *, seed: int = 0, noise: float = 1.0
    ) -> None:
        super().__init__()
        # Derived, because any whole number is a seed, and a tensor holds 63 bits.
        self.register_buffer("seed", torch.tensor(derive(seed, "class only")))
        self.register_buffer("noise", torch.tensor(noise, dtype=torch.float64))
        self.layers = len(shapes)
        for k, shape in enumerate(shapes):
            self.register_buffer(f"shape{k}", torch.tensor(list(shape)))

    def shape(self, layer: int) -> tuple[int, ...]:
        """Shape of a layer's representation, without the batch.

        Raises:
            InputError: there is no such layer; the image, -1, is none.
        """
        if not 0 <= layer < self.layers:
            raise InputError(
                f"a sender that knows only the class has layers 0 to {self.layers - 1}, not {layer}"
            )
        return tuple(self.get_buffer(f"shape{layer}").tolist())

    def forward(self, layer: int, split: str, numbers: Tensor, labels: Tensor) -> Tensor:
        """The representation of some images of a split.

        Args:
            layer: from 0 on.
            split: the name of the split.
            numbers: int64 [B], positions in it.
            labels: int64 [B].

        Returns:
            float32 [B, *shape] on the device of `labels`.

        Raises:
            InputError: there is no such layer.
        """
        shape, seed = self.shape(layer), self.seed.item()
        classes, of = labels.cpu().unique(return_inverse=True)
        prototypes = _normal(shape, [(seed, "class", layer, c) for c in classes.tolist()])
        noise = _normal(shape, [(seed, "image", layer, split, n) for n in numbers.tolist()])
        return (prototypes[of] + self.noise.item() * noise).to(labels.device)


def _normal(shape: Sequence[int], seeds: Sequence[tuple[object, ...]]) -> Tensor:
    """Standard normal, float32 [len(seeds), *shape]; each row is a function of its own seed."""
    rows = torch.empty(len(seeds), *shape)
    for row, seed in zip(rows, seeds, strict=True):
        torch.randn(shape, generator=generator(*seed), out=row)
    return rows


class ClassOnlySender(FrozenSender):
    """A `ClassOnly` in the place of a sender; it can't receive, and predicts nothing.

    Args:
        module: what decides the representations; frozen in place.
        name: what messages call it.
    """

    classifies = False
    network: ClassOnly

    def __init__(self, module: ClassOnly, name: str = "class only") -> None:
        super().__init__(module, name)

    def represent(self, layer: int | None, examples: Examples) -> Tensor:
        """Prototypes and noise; the images themselves play no part.

        Raises:
            InputError: there is no such layer; logits, None, are none.
        """
        representation: Tensor = self.network(
            self._known(layer), examples.split, examples.numbers, examples.labels
        )
        return representation

    def shape(self, layer: int | None, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of a layer's representation, whatever the image's.

        Raises:
            InputError: there is no such layer; logits, None, are none.
        """
        return self.network.shape(self._known(layer))

    def evaluate(self, loader: Loader) -> None:
        """None: it has no predictions of its own."""

    def _known(self, layer: int | None) -> int:
        if layer is None:
            raise InputError(f"{self.name} knows only the class, and has no logits")
        return layer


def freeze(
    module: nn.Module, name: str, layer_names: Sequence[str] | None = None
) -> FrozenNetwork | ClassOnlySender:
    """A module as sender (or receiver, for a network), frozen in place.

    Args:
        module: a network, or a `ClassOnly`.
        name: what messages call it.
        layer_names: places that count as a network's layers instead of its own.

    Raises:
        InputError: a name in `layer_names` is no place where the network can be cut.
    """
    if isinstance(module, ClassOnly):
        return ClassOnlySender(module, name)
    return FrozenNetwork(module, name, layer_names)
