"""Functional latent alignment: similarity at the stitch and at every later layer of the receiver."""

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
    """Relative distance to the receiver's own representations, averaged over layer j and later layers.

        L = 1/|M| sum_{m in M} |s_m - e_m|_F / |e_m|_F,   M = {j, j+1, ..., the last layer}

    s_j is the stitched representation, s_m (m > j) the receiver's output of block m for it, and e_m the
    receiver's own representation at layer m. Norms are over the batch and all units. The loss has no
    unit: 0 means that all representations are as expected, 1 is the value of representations that are
    0.

    At a later layer, an error counts only as far as the receiver uses it. The plain distance at the
    stitch ignores this. Logits and labels are not used (add `soft_task` or `task` for them). At layer j,
    the loss has no invariance. Cost: a pass through the rest of the receiver.

    Source: "FuLA", Athanasiadis, Karmush and Felsberg 2025, arXiv 2505.20142v1. Formula, layers and equal
    weights are those of the authors' published code (`training/losses.py` of
    github.com/athaioan/invariance-aware-stitching, commit 5815d8e, with `fula_soft: False` and
    `funct_cutoff: null` as in its configurations). Only the abstract and summaries of the paper were
    available; the paper's equation may differ from this loss.

    The second version of the paper ("Grounding functional similarity by invariance-aware model
    stitching", ICML 2026) keeps this loss and changes the training images: each is replaced by an image
    of noise that gradient descent gave the same representation at the sender's layer. So the
    stitched network must agree with the receiver wherever the sender sees no difference. That needs
    other training images for each sender layer, which a sweep doesn't have.
    """

    needs_expected: ClassVar[bool] = True
    needs_hints: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "": 0.1}

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss of a batch, a scalar; needs `stitched`, `expected` [B, C, ...] and `hints`."""
        assert inputs.expected is not None
        assert inputs.hints is not None
        pairs = [(inputs.stitched, inputs.expected), *inputs.hints.values()]
        return torch.stack([_relative_distance(s, e) for s, e in pairs]).mean()


def _relative_distance(stitched: Tensor, expected: Tensor) -> Tensor:
    scale = vector_norm(expected)
    # A representation that is 0 everywhere has no scale; its distance is then absolute.
    return vector_norm(stitched - expected) / torch.where(scale > 0, scale, 1.0)
