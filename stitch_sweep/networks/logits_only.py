"""The control `logits_only`: a sender that knows what a linear probe reads from a layer, and no more.

An image's representation is made of the log-probabilities that a linear probe of the layer gives to the
classes. What a stitched network reaches with it needs nothing of the sender but linearly decodable class
information. What the sender itself reaches beyond that is the excess; see `analysis.matrix.excess`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import derive, draw_normal
from stitch_sweep.data.batches import Batch
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.cutting.points import LayerNames
from stitch_sweep.networks.evaluation import Evaluation, Scores
from stitch_sweep.networks.frozen import FrozenNetwork, FrozenSender
from stitch_sweep.networks.pooling import pooled

FOLDS = 2
"""Number of probes per layer. Each reads the images of one fold, and was fitted without them."""


class Probes(nn.Module):
    """Linear probes of every layer, and the representations that are made of their log-probabilities.

        r_i(n) = sum_c z_i[n, c] P_i[c],   P_i[c] ~ N(0, 1) in every entry, independent

    for layer i, image n and class c, where z are log-probabilities minus their mean over images, divided
    by the root of the sum of their variances, so that an entry of r has a variance of about 1. The
    prototypes P are functions of (seed, layer, class).

    Args:
        shapes: shape of each layer's representation from layer 0 on, without the batch.
        classes: K, number of classes.
        seed: of the prototypes, any non-negative integer.
    """

    seed: Tensor

    def __init__(self, shapes: Sequence[Sequence[int]], classes: int, *, seed: int = 0) -> None:
        super().__init__()
        self.shapes = [tuple(shape) for shape in shapes]
        self.classes = classes
        # Derived, because a seed may be any whole number, but a tensor stores 63 bits.
        self.register_buffer("seed", torch.tensor(derive(seed, "logits only")))
        self.features = [pooled(torch.zeros(1, *shape)).shape[1] for shape in self.shapes]
        for k, length in enumerate(self.features):
            self.register_buffer(f"weight{k}", torch.zeros(FOLDS, classes, length))
            self.register_buffer(f"bias{k}", torch.zeros(FOLDS, classes))
            self.register_buffer(f"mean{k}", torch.zeros(classes))
            self.register_buffer(f"scale{k}", torch.ones(()))
        self._prototypes: dict[int, Tensor] = {}

    def log_probabilities(self, layer: int, representation: Tensor, indices: Tensor) -> Tensor:
        """Return log-probabilities of the classes by the probe of each image's fold, [B, K].

        Args:
            layer: index of the layer, from 0 on.
            representation: of the layer, [B, *shape].
            indices: int64 [B], positions of the images in their split; position modulo `FOLDS` is the
                fold.
        """
        features = pooled(representation)
        by_fold = torch.einsum("bd,fkd->bfk", features, self.get_buffer(f"weight{layer}"))
        by_fold = (by_fold + self.get_buffer(f"bias{layer}")).log_softmax(dim=-1)
        return by_fold[torch.arange(len(features), device=features.device), indices % FOLDS]

    def embed(self, layer: int, log_probabilities: Tensor) -> Tensor:
        """Make representations [B, *shape] of log-probabilities [B, K]."""
        z = log_probabilities - self.get_buffer(f"mean{layer}")
        z = z / self.get_buffer(f"scale{layer}")
        return (z @ self._prototypes_of(layer, z.device)).reshape(len(z), *self.shapes[layer])

    def _prototypes_of(self, layer: int, device: torch.device) -> Tensor:
        """Return the prototypes of a layer, [K, entries]; they are drawn once."""
        if layer not in self._prototypes:
            seeds = [(self.seed.item(), "class", layer, k) for k in range(self.classes)]
            self._prototypes[layer] = draw_normal(self.shapes[layer], seeds).flatten(1)
        self._prototypes[layer] = self._prototypes[layer].to(device)
        return self._prototypes[layer]


class LogitsOnly(nn.Module):
    """A network and the probes of its layers; see `LogitsOnlySender`.

    Args:
        network: the probed network.
        probes: fitted on its layers.
    """

    def __init__(self, network: nn.Module, probes: Probes) -> None:
        super().__init__()
        self.network = network
        self.probes = probes


class LogitsOnlySender(FrozenSender):
    """A `LogitsOnly` as sender; it can't receive. Its logits are those of the last layer's probe.

    Args:
        module: the network and its probes, frozen in place.
        name: name in messages.
        layer_names: cut points that are the network's layers; see `FrozenNetwork`.
    """

    classifies = True
    network: LogitsOnly

    def __init__(
        self,
        module: LogitsOnly,
        name: str = "logits only",
        layer_names: LayerNames = None,
    ) -> None:
        super().__init__(module, name)
        self._probed = FrozenNetwork(module.network, name, layer_names)
        self._evaluated: tuple[Tensor, Evaluation] | None = None

    def represent(self, layer: int | None, batch: Batch) -> Tensor:
        """Return the embedded log-probabilities; for None the last layer's log-probabilities [B, K].

        Raises:
            InputError: there is no such layer; this sender has no layer -1, the image.
        """
        probes, at = self.network.probes, self._index(layer)
        representation = self._probed.represent(at, batch)
        found = probes.log_probabilities(at, representation, batch.indices)
        return found if layer is None else probes.embed(at, found)

    def shape(self, layer: int | None, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a layer's representation; the image's shape is not used.

        Raises:
            InputError: there is no such layer.
        """
        probes = self.network.probes
        return (probes.classes,) if layer is None else probes.shapes[self._index(layer)]

    @torch.no_grad()
    def evaluate(self, loader: Loader) -> Evaluation:
        """Return the result of the last layer's probes; that of the last split is cached."""
        images = loader.images.images
        if self._evaluated is None or self._evaluated[0] is not images:
            scores = Scores()
            for batch in loader.in_order():
                scores.add(self.represent(None, batch), batch.labels, batch.valid)
            self._evaluated = (images, scores.result())
        return self._evaluated[1]

    def _index(self, layer: int | None) -> int:
        last = len(self.network.probes.shapes) - 1
        if layer is None:
            return last
        if not 0 <= layer <= last:
            raise InputError(f"{self.name} has layers 0 to {last}, not {layer}")
        return layer
