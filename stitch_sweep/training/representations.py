"""Representations of the frozen networks: cached for whole splits, or computed batch by batch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from stitch_sweep.data.batches import CHUNK, Batch, padded_chunks
from stitch_sweep.data.loader import Loader
from stitch_sweep.losses.rows import channels_first
from stitch_sweep.networks.frozen import FrozenNetwork, FrozenSender

Source = tuple[FrozenSender, int | None]
"""A frozen network and one of its layers; None stands for its logits."""

Rows = dict[str, Tensor]
"""The tensors of one batch that do not depend on the stitch, by name: `sender`, the input of the stitch,
[B, *sender shape]; `labels`; and, if the loss needs them, `expected`, `expected_logits` and
`sender_logits`, as in `LossInputs`."""


class RepresentationShelf(Protocol):
    """A store through which the trainings of several processes share representations."""

    def take(self, key: str) -> Tensor | None:
        """Return the tensor stored under a key, on the CPU and read-only; None if there is none."""
        ...

    def offer(self, key: str, representation: Tensor) -> Tensor:
        """Store a representation; return it, or the same values from shared memory."""
        ...


class ActivationCache:
    """Cache of frozen representations of whole splits, shared by the trials of one process.

    For each role (sender or expected) and split the cache keeps only the latest representation, because
    the cells of one sender are trained one after the other. Trainings keep the others that they use. A
    later layer of the same network is computed from the latest one, if that gives the same bits for the
    first chunk.

    Args:
        limit_bytes: a larger representation is never cached but recomputed batch by batch. The decision
            depends on the size only and not on the other content of the cache, so that results don't
            depend on the history of a process. The limit may change the last bits of results, because
            cached representations are computed in evaluation chunks, and other representations in
            batches.
        shelf: store that is shared with other processes, which must have the same images and the same
            networks under the same names; None if nothing is shared.
    """

    def __init__(self, limit_bytes: float, shelf: RepresentationShelf | None = None) -> None:
        self.limit_bytes = limit_bytes
        self._shelf = shelf
        self._kept: dict[tuple[str, str], tuple[Tensor, FrozenSender, int | None, Tensor]] = {}

    @torch.no_grad()
    def get(
        self, role: str, network: FrozenSender, layer: int | None, loader: Loader
    ) -> Tensor | None:
        """Return the representation of every image, [N, *shape], or None if it is too large."""
        key = role, loader.split
        images, kept_network, kept_layer, whole = self._kept.get(key, (None, None, 0, None))
        # Compare by identity. The cache stores references to both objects, so no other object can have
        # their addresses.
        if images is loader.images.images and kept_network is network and kept_layer == layer:
            return whole
        self._kept.pop(key, None)
        is_related = images is loader.images.images and kept_network is network
        earlier = (kept_layer, whole) if is_related and whole is not None else None
        count = len(loader.images)
        shape = network.shape(layer, loader.images.images.shape[1:])
        if 4 * count * math.prod(shape) > self.limit_bytes:
            return None
        whole = self._share(network, layer, loader, (count, *shape), earlier)
        self._kept[key] = (loader.images.images, network, layer, whole)
        return whole

    def _share(
        self,
        network: FrozenSender,
        layer: int | None,
        loader: Loader,
        shape: tuple[int, ...],
        earlier: tuple[int | None, Tensor] | None,
    ) -> Tensor:
        """Take a representation from the shelf, or compute it and offer it."""
        key = f"{network.name} {layer} {loader.split}"
        if self._shelf is not None and (stored := self._shelf.take(key)) is not None:
            return stored.to(loader.device)
        chunks: Iterator[Tensor] | None = None
        if earlier is not None and isinstance(network, FrozenNetwork):
            chunks = _continue(network, *earlier, layer, loader)
        if chunks is None:
            chunks = (network.represent(layer, batch)[: batch.valid] for batch in loader.in_order())
        whole = torch.empty(shape, device=loader.device)
        for part, chunk in zip(whole.split(CHUNK), chunks, strict=True):
            part.copy_(chunk)
        return whole if self._shelf is None else self._shelf.offer(key, whole)


def _continue(
    network: FrozenNetwork, start: int | None, whole: Tensor, end: int | None, loader: Loader
) -> Iterator[Tensor] | None:
    """Continue a network from the representation of a layer.

    Args:
        network: the network.
        start: the layer; None for the logits.
        whole: its representation of the whole split, [N, *shape].
        end: the layer to compute; None for the logits.
        loader: the split.

    Returns:
        The representation of `end` in chunks, valid rows only; None if `start` doesn't come before `end`,
        or if the first chunk differs from a pass of the whole network.
    """
    if start is None or (end is not None and end <= start):
        return None
    part = network.part(start, end)
    positions, _ = next(padded_chunks(len(whole), whole.device))
    if not torch.equal(part(whole[positions]), network.represent(end, next(loader.in_order()))):
        return None
    chunks = padded_chunks(len(whole), whole.device)
    return (part(whole[positions])[:valid] for positions, valid in chunks)


@torch.no_grad()
def representation_chunks(
    cache: ActivationCache, role: str, network: FrozenSender, layer: int | None, loader: Loader
) -> Iterator[tuple[Tensor, int]]:
    """Iterate over one layer's representation of a whole split, in padded chunks.

    Args:
        cache: keeps the representation if it is small enough.
        role: the role in the cache, such as `sender`.
        network: the frozen network or control.
        layer: -1 for the image, None for the logits.
        loader: the split.

    Yields:
        [`CHUNK`, *shape], and the number of leading rows that are valid.
    """
    whole = cache.get(role, network, layer, loader)
    if whole is not None:
        for positions, valid in padded_chunks(len(whole), whole.device):
            yield whole[positions], valid
    else:
        for batch in loader.in_order():
            yield network.represent(layer, batch), batch.valid


class SplitRepresentations:
    """The representations of one split for a training: from the cache, or computed batch by batch.

    Args:
        loader: the split's images.
        sources: the network and layer of every representation in `Rows` that is needed.
        cache: keeps what is small enough.
        computed: the roles that aren't cached, because only a sample of them is read.
    """

    def __init__(
        self,
        loader: Loader,
        sources: Mapping[str, Source],
        cache: ActivationCache,
        *,
        computed: Collection[str] = (),
    ) -> None:
        self._loader = loader
        self._sources = sources
        self._cache, self._computed = cache, frozenset(computed)
        self._whole = self._read_cache()
        self._missing = {
            role: source for role, source in sources.items() if self._whole[role] is None
        }

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self._loader.images)

    @property
    def labels(self) -> Tensor:
        """Class of every image, int64 [N]."""
        return self._loader.images.labels

    def batches(self, epoch: int, start: int) -> Iterator[Rows]:
        """Yield the training batches of an epoch, beginning with number `start`."""
        if self._loader.augment == "none" and not self._missing:
            for positions in self._loader.indices(epoch, start):
                yield self._select(positions)
        else:
            for batch in self._loader.batches(epoch, start):
                yield {"labels": batch.labels, **self._compute(batch, self._sources)}

    def chunks(
        self, limit: int | None = None, order: Tensor | None = None
    ) -> Iterator[tuple[Rows, int]]:
        """Yield the split in padded chunks, each with its number of valid rows.

        Args:
            limit: number of images, spread evenly over the split; None for all.
            order: int64 [N], a permutation of the images; None for the stored order.
        """
        if not self._missing:
            device = self._loader.device
            for positions, valid in padded_chunks(self.count, device, limit=limit, order=order):
                yield self._select(positions), valid
        else:
            for batch in self._loader.in_order(limit=limit, order=order):
                computed = self._compute(batch, self._missing)
                yield {**self._select(batch.indices), **computed}, batch.valid

    def pairs(self, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (input of the stitch, expected representation) as in `chunks`, valid rows only."""
        for rows, valid in self.chunks(limit):
            yield rows["sender"][:valid], rows["expected"][:valid]

    def inputs(self, limit: int | None = None) -> Iterator[Tensor]:
        """Yield the input of the stitch as in `chunks`, valid rows only."""
        for rows, valid in self.chunks(limit):
            yield rows["sender"][:valid]

    def expected_variance(self) -> float:
        """Return the variance of the expected representation, averaged over its channels."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for _, expected in self.pairs():
            values = channels_first(expected.double())
            count += values.shape[1]
            total = total.to(values) + values.sum(dim=1)
            squares = squares.to(values) + values.square().sum(dim=1)
        return (squares / count - (total / count).square()).clamp(min=0).mean().item()

    def release(self) -> None:
        """Drop the representations; the next use reads them from the cache again."""
        self._whole = {}

    def _read_cache(self) -> dict[str, Tensor | None]:
        return {
            role: None
            if role in self._computed
            else self._cache.get(role, network, layer, self._loader)
            for role, (network, layer) in self._sources.items()
        }

    def _select(self, positions: Tensor) -> Rows:
        if not self._whole:
            self._whole = self._read_cache()
        rows = {role: whole[positions] for role, whole in self._whole.items() if whole is not None}
        return {"labels": self._loader.images.labels[positions], **rows}

    @torch.no_grad()
    def _compute(self, batch: Batch, sources: Mapping[str, Source]) -> Rows:
        return {role: network.represent(layer, batch) for role, (network, layer) in sources.items()}
