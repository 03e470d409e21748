"""Functional latent alignment: likeness at the stitch and at every later layer of the receiver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.linalg import vector_norm

from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import Loss, LossInputs


@LOSSES.register("fula")
class FunctionalLatentAlignment(Loss):
    """Relative distance to the receiver's own representations, mean over layer j and all later ones.

        L = 1/|M| sum_{m in M} |s_m - e_m|_F / |e_m|_F,   M = {j, j+1, ..., the last layer}

    with s_j the stitched representation, s_m what the receiver makes of it at layer m (the output of a
    block), and e_m what it would have made itself; norms over the batch and all units. Without a unit;
    0 where all is as expected, 1 for representations that are 0. A later layer asks for nothing that
    the receiver doesn't use, so it corrects what plain distance at the stitch gets wrong; logits and
    labels play no part (add `soft_task` or `task` for these). Not invariant to anything at layer j.
    Costs a pass through the rest of the receiver.

    Source: "FuLA", Athanasiadis, Karmush and Felsberg 2025, arXiv 2505.20142v1. The formula, the
    layers and the equal weights are those of the authors' published code (`training/losses.py` of
    github.com/athaioan/invariance-aware-stitching, commit 5815d8e, with `fula_soft: False` and
    `funct_cutoff: null` as in its configurations); of the paper itself we could read the abstract and
    summaries only, so its equation, if it differs, isn't what is computed here.
    """

    needs_expected: ClassVar[bool] = True
    needs_hints: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "": 0.1}

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar; needs `stitched`, `expected` [B, C, ...] and `hints`."""
        assert inputs.expected is not None
        assert inputs.hints is not None
        pairs = [(inputs.stitched, inputs.expected), *inputs.hints.values()]
        return torch.stack([_relative_distance(s, e) for s, e in pairs]).mean()


def _relative_distance(stitched: Tensor, expected: Tensor) -> Tensor:
    scale = vector_norm(expected)
    # A representation that is 0 throughout has no scale of its own.
    return vector_norm(stitched - expected) / torch.where(scale > 0, scale, 1.0)
