"""A stitch followed by the rest of the receiver."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stitch_sweep.losses.base import LossInputs
from stitch_sweep.networks.fast.copies import FastNetwork
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.training.representations import Rows, SplitRepresentations


class StitchedNetwork:
    """A stitch followed by the rest of the receiver, applied to representations of the sender.

    Training steps may run a fast copy of the receiver. Evaluation always runs the receiver as it is.

    Args:
        stitch: S.
        receiver: B.
        layer: j, the receiver's layer whose representation the stitch replaces.
        with_hints: whether a loss compares the receiver's layers after j.
        training_receiver: what training steps run as B; by default B itself.

    Attributes:
        stitch: S.
        rest: the rest of the receiver as it is, from layer j to the logits.
        training_rest: the rest of the receiver as training steps run it.
    """

    def __init__(
        self,
        stitch: nn.Module,
        receiver: FrozenNetwork,
        layer: int,
        with_hints: bool,
        training_receiver: FrozenNetwork | FastNetwork | None = None,
    ) -> None:
        self.stitch = stitch
        self._exact = _Rest(receiver, layer, with_hints)
        self._training = (
            self._exact
            if training_receiver is None
            else _Rest(training_receiver, layer, with_hints)
        )
        self.rest = self._exact.whole
        self.training_rest = self._training.whole
        self._with_hints = with_hints

    def complete_inputs(self, rows: Rows, stitched: Tensor, logits: Tensor | None) -> LossInputs:
        """Collect the inputs of the loss of a training batch, after the stitch and the rest.

        Args:
            rows: the batch.
            stitched: the stitch's output for it, [B, *receiver shape].
            logits: the output of `training_rest` for `stitched`, [B, K]; None if no loss needs it, or if
                a loss needs hints, which are computed here together with the logits.
        """
        return self._complete(self._training, rows, stitched, logits)

    def evaluation_chunks(
        self, split: SplitRepresentations, limit: int | None = None
    ) -> Iterator[tuple[LossInputs, int]]:
        """Yield a split with logits, in padded chunks, each with its number of valid rows.

        Args:
            split: its representations.
            limit: number of images, spread evenly over the split; None for all.
        """
        for rows, valid in split.chunks(limit):
            stitched = self.stitch(rows["sender"])
            logits = None if self._with_hints else self.rest(stitched)
            yield self._complete(self._exact, rows, stitched, logits), valid

    def _complete(
        self, rest: _Rest, rows: Rows, stitched: Tensor, logits: Tensor | None
    ) -> LossInputs:
        frozen = {role: tensor for role, tensor in rows.items() if role != "sender"}
        hints: dict[int, tuple[Tensor, Tensor]] | None = None
        if self._with_hints:
            hints, logits = rest.follow(stitched, frozen["expected"])
        return LossInputs(stitched=stitched, logits=logits, hints=hints, **frozen)


class _Rest:
    """The rest of the receiver from a layer on: as one part and, for hints, layer by layer."""

    def __init__(self, receiver: FrozenNetwork | FastNetwork, layer: int, with_hints: bool) -> None:
        self.whole = receiver.suffix(layer)
        # Parts from each later layer to the next, and from the last layer to the logits.
        self._segments: list[tuple[int | None, nn.Module]] = []
        if with_hints:
            layers = range(layer, len(receiver.layer_names))
            for start, end in zip(layers, [*layers[1:], None], strict=True):
                self._segments.append((end, receiver.part(start, end)))

    def follow(
        self, stitched: Tensor, expected: Tensor
    ) -> tuple[dict[int, tuple[Tensor, Tensor]], Tensor]:
        """Compute both representations at every later layer, and the stitched network's logits."""
        hints = {}
        for layer, segment in self._segments:
            stitched = segment(stitched)
            if layer is not None:
                with torch.no_grad():
                    expected = segment(expected)
                hints[layer] = (stitched, expected)
        return hints, stitched
