"""The control `class_only`: a sender that knows an image's class and nothing else about it.

If a stitch has a high accuracy with this sender, class information suffices for the receiver. Such an
accuracy alone is no evidence that two networks have similar representations. The sender knows the labels
of test images too, so it may be more accurate than any network. It is therefore no null hypothesis: it
does not show how much of a network's accuracy class information explains.

Source: Smith, Mannering and Marcu, ICML 2025, "Functional alignment can mislead: examining model
stitching", who stitch clustered random noise into trained networks. Their pseudo-code draws a prototype
per class uniformly from [0, 1], adds Gaussian noise and clamps the sum to [0, 1]; the distribution of
this module is not bounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import derive, draw_normal
from stitch_sweep.data.batches import Batch
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.frozen import FrozenNetwork, FrozenSender
from stitch_sweep.networks.logits_only import LogitsOnly, LogitsOnlySender


class ClassOnly(nn.Module):
    """Random representations: a prototype per class and layer, plus noise per image.

        r_i(n) = m_i[y_n] + s e_i[n],   m_i[c], e_i[n] ~ N(0, 1) in every entry, independent

    for layer i and the n-th image of a split, of class y_n. Prototypes are functions of
    (seed, layer, class), noise of (seed, layer, split, n). An image's representation does not depend on
    batch, order, epoch or augmentation.

    The module stores only its arguments, as buffers: `seed`, `noise` and the layers' shapes.

    Args:
        shapes: shape of each layer's representation from layer 0 on, without the batch.
        seed: any non-negative integer.
        noise: s, 0 or more. With 1, two images of a class differ per entry as much as two prototypes.
    """

    seed: Tensor
    noise: Tensor

    def __init__(
        self, shapes: Sequence[Sequence[int]], *, seed: int = 0, noise: float = 1.0
    ) -> None:
        super().__init__()
        # Derive the seed, because a seed may be any whole number, but a tensor stores 63 bits.
        self.register_buffer("seed", torch.tensor(derive(seed, "class only")))
        self.register_buffer("noise", torch.tensor(noise, dtype=torch.float64))
        self.layers = len(shapes)
        for k, shape in enumerate(shapes):
            self.register_buffer(f"shape{k}", torch.tensor(list(shape)))

    def shape(self, layer: int) -> tuple[int, ...]:
        """Return the shape of a layer's representation, without the batch.

        Raises:
            InputError: there is no such layer; this sender has no layer -1, the image.
        """
        if not 0 <= layer < self.layers:
            raise InputError(
                f"a sender that knows only the class has layers 0 to {self.layers - 1}, not {layer}"
            )
        return tuple(self.get_buffer(f"shape{layer}").tolist())

    def forward(self, layer: int, split: str, numbers: Tensor, labels: Tensor) -> Tensor:
        """Return the representations of images of a split.

        Args:
            layer: index of the layer, from 0 on.
            split: name of the split.
            numbers: int64 [B], positions of the images in the split.
            labels: int64 [B], their classes.

        Returns:
            float32 [B, *shape] on the device of `labels`.

        Raises:
            InputError: there is no such layer.
        """
        shape, seed = self.shape(layer), self.seed.item()
        classes, indices = labels.cpu().unique(return_inverse=True)
        prototypes = draw_normal(shape, [(seed, "class", layer, c) for c in classes.tolist()])
        noise = draw_normal(shape, [(seed, "image", layer, split, n) for n in numbers.tolist()])
        return (prototypes[indices] + self.noise.item() * noise).to(labels.device)


class ClassOnlySender(FrozenSender):
    """A `ClassOnly` as sender; it can't receive, and predicts nothing.

    Args:
        module: the random representations; frozen in place.
        name: name in messages.
    """

    classifies = False
    network: ClassOnly

    def __init__(self, module: ClassOnly, name: str = "class only") -> None:
        super().__init__(module, name)

    def represent(self, layer: int | None, batch: Batch) -> Tensor:
        """Return prototypes plus noise; the images themselves are not used.

        Raises:
            InputError: there is no such layer, or `layer` is None: there are no logits.
        """
        representation: Tensor = self.network(
            self._check_layer(layer), batch.split, batch.indices, batch.labels
        )
        return representation

    def shape(self, layer: int | None, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a layer's representation; the image's shape is not used.

        Raises:
            InputError: there is no such layer, or `layer` is None: there are no logits.
        """
        return self.network.shape(self._check_layer(layer))

    def evaluate(self, loader: Loader) -> None:
        """Return None: this sender predicts nothing."""

    def _check_layer(self, layer: int | None) -> int:
        if layer is None:
            raise InputError(f"{self.name} knows only the class, and has no logits")
        return layer


def freeze(module: nn.Module, name: str, layer_names: Sequence[str] | None = None) -> FrozenSender:
    """Freeze a module in place, as sender (or receiver, for a network).

    Args:
        module: a network, a `ClassOnly`, or a `LogitsOnly`.
        name: name in messages.
        layer_names: cut points to use as layers instead of the network's own.

    Raises:
        InputError: a name in `layer_names` is not a cut point.
    """
    if isinstance(module, ClassOnly):
        return ClassOnlySender(module, name)
    if isinstance(module, LogitsOnly):
        return LogitsOnlySender(module, name, layer_names)
    return FrozenNetwork(module, name, layer_names)
