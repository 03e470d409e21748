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
    r"""Relative distance to the receiver's own representations, averaged over layer j and all later
    layers.

    ```math
    L = \frac{1}{|M|} \sum_{m \in M} \frac{\lVert s_m - e_m \rVert_F}{\lVert e_m \rVert_F}, \qquad M = \{j, j+1, \dots, \text{last}\}
    ```

    s_j is the stitched representation. s_m (m > j) is the output of the receiver's layer m for this
    representation, and e_m the receiver's own representation at layer m. Norms are over the batch and
    all units. In the terms of later layers, an error of s_j counts only if it changes the outputs of
    these layers. The loss uses neither logits nor labels. To include them, add `soft_task` or `task`.

    The paper that introduced this loss (see Source) has a second version (ICML 2026), which keeps the
    loss. There, each sender layer has its own training images for its stitches. Stitch Sweep can't run
    this version, because a sweep has one set of images.

    Use: to test whether the representation and the later layers' outputs equal the receiver's own.

    Assumes: the receiver has later layers. At the last layer, the loss is a plain relative distance.

    Range: 0 and more. 1 if all s_m are 0.

    Cost: two passes through the rest of the receiver.

    Source: Athanasiadis, Karmush and Felsberg 2025, arXiv 2505.20142v1 ("FuLA"). Formula, layers and
    equal weights are those of the authors' published code (athaioan/invariance-aware-stitching, commit
    5815d8e, with `fula_soft: False` and `funct_cutoff: null`); the paper's equation may differ.
    """  # noqa: E501

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
