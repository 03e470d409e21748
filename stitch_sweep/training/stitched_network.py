"""A stitch followed by the rest of the receiver."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stitch_sweep.losses.base import LossInputs
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.training.representations import Rows, SplitRepresentations


class StitchedNetwork:
    """A stitch followed by the rest of the receiver, applied to representations of the sender.

    Args:
        stitch: S.
        receiver: B.
        layer: j, the receiver's layer whose representation the stitch replaces.
        with_hints: whether a loss compares the receiver's layers after j.
    """

    def __init__(
        self, stitch: nn.Module, receiver: FrozenNetwork, layer: int, with_hints: bool
    ) -> None:
        self.stitch = stitch
        self.rest = receiver.suffix(layer)
        self._with_hints = with_hints
        # Parts from each later layer to the next, and from the last layer to the logits.
        self._segments: list[tuple[int | None, nn.Module]] = []
        if with_hints:
            layers = range(layer, len(receiver.layer_names))
            for start, end in zip(layers, [*layers[1:], None], strict=True):
                self._segments.append((end, receiver.part(start, end)))

    def loss_inputs(self, rows: Rows, with_logits: bool) -> LossInputs:
        """Run a batch through the stitch and, if asked for, through the rest of the receiver."""
        stitched = self.stitch(rows["sender"])
        logits = self.rest(stitched) if with_logits and not self._with_hints else None
        return self.complete_inputs(rows, stitched, logits)

    def complete_inputs(self, rows: Rows, stitched: Tensor, logits: Tensor | None) -> LossInputs:
        """Collect the inputs of the loss after the stitch, and after the rest of the receiver.

        Args:
            rows: the batch.
            stitched: the stitch's output for it, [B, *receiver shape].
            logits: the output of the rest for `stitched`, [B, K]; None if no loss needs it, or if a loss
                needs hints, which are computed here together with the logits.
        """
        frozen = {role: tensor for role, tensor in rows.items() if role != "sender"}
        hints: dict[int, tuple[Tensor, Tensor]] | None = None
        if self._with_hints:
            hints, logits = self._follow(stitched, frozen["expected"])
        return LossInputs(stitched=stitched, logits=logits, hints=hints, **frozen)

    def evaluation_chunks(self, split: SplitRepresentations) -> Iterator[tuple[LossInputs, int]]:
        """Yield a whole split with logits, in padded chunks, each with its number of valid rows."""
        for rows, valid in split.chunks():
            yield self.loss_inputs(rows, with_logits=True), valid

    def _follow(
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
