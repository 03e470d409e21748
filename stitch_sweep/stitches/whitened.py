"""A stitch in whitened coordinates of the sender's channels, for training only.

A step of gradient descent depends on the coordinates of the inputs. The channels of a frozen layer have
means far from 0, are correlated, and differ in scale by orders of magnitude, so the stable step is small
and most directions learn slowly. With channels centered and decorrelated, all directions learn at
the same rate. The functions that the stitch can represent don't change, nor does its start.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stitch_sweep.stitches.base import ChannelMixer, Stitch

EIGENVALUE_FLOOR = 1e-3
"""Smallest eigenvalue that is scaled to 1, as a share of the mean eigenvalue. Smaller ones are scaled by
the same factor, because noise would be amplified otherwise."""
FULL_RATE_INPUTS = 27
"""Longest row that Adam trains at the loss's default learning rate; longer ones at a smaller rate."""


@dataclass(frozen=True)
class Whitening:
    """The map x -> Z (x - m) of the sender's channels: ZCA, the whitening that changes channels least.

    Z = V diag(l)^(-1/2) V^T, with V and l the eigenvectors and eigenvalues of the channels' covariance
    (of their second moments, if they can't be centered) and l at least `EIGENVALUE_FLOOR` times its mean.

    Attributes:
        mean: m, float64 [C]; 0 if channels aren't centered.
        matrix: Z, float64 [C, C], symmetric.
        inverse: Z^(-1), float64 [C, C].
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor

    @classmethod
    def fit(cls, mean: Tensor, covariance: Tensor, *, centered: bool) -> Whitening:
        """Fit the whitening to moments of channels.

        Args:
            mean: of the channels, float64 [C].
            covariance: of the channels, float64 [C, C].
            centered: whether the map may subtract the mean.
        """
        device = mean.device
        # On the CPU, so that one matrix has one decomposition.
        mean, moments = mean.cpu(), covariance.cpu()
        if not centered:
            moments, mean = moments + torch.outer(mean, mean), torch.zeros_like(mean)
        eigenvalues, vectors = torch.linalg.eigh(moments)
        least = EIGENVALUE_FLOOR * eigenvalues.mean()
        # Without any variance there is nothing to scale.
        scales = eigenvalues.clamp(min=least).sqrt() if least > 0 else torch.ones_like(eigenvalues)
        matrix, inverse = (vectors / scales) @ vectors.T, (vectors * scales) @ vectors.T
        return cls(*(part.to(device) for part in (mean, matrix, inverse)))


class WhitenedStitch(Stitch):
    """A stitch whose parameters are its weights in whitened coordinates, W' and b'.

    It applies the ordinary map with W = W' Z and b = b' - W m, for every block of channels of a row, and
    therefore computes the same values as the ordinary stitch that `fold` returns, bit for bit. Changing
    the weights costs less than changing the inputs: W has fewer values than a batch. A sparsity penalty
    refers to W; the weight decay of an optimizer to its parameters, W' and b'.

    Args:
        stitch: an ordinary stitch; this stitch starts as its map.
        whitening: of the channels that it mixes.
    """

    center: Tensor
    zca: Tensor

    def __init__(self, stitch: ChannelMixer, whitening: Whitening) -> None:
        super().__init__(stitch.sender, stitch.receiver)
        # Not a submodule: its parameters aren't trained.
        self._stitch = (stitch,)
        weight, bias = stitch.matrix().detach(), stitch.offset().detach()
        blocks = self._blocks(weight.double())
        whitened = blocks @ whitening.inverse
        shift = (blocks @ whitening.mean).flatten(1).sum(dim=1)
        self.register_buffer("center", whitening.mean.to(weight.dtype))
        self.register_buffer("zca", whitening.matrix.to(weight.dtype))
        self.weight = nn.Parameter(whitened.to(weight.dtype))
        self.bias = nn.Parameter((bias.double() + shift).to(weight.dtype))

    @property
    def ordinary(self) -> ChannelMixer:
        """The ordinary stitch; it has the present map only after `fold`."""
        return self._stitch[0]

    @property
    def rate_factor(self) -> float:
        """Factor on the default learning rate of Adam and its relatives: min(1, 27 / D).

        A step of theirs changes every weight by about the learning rate, whatever the gradient, so it
        changes an output by up to the rate times D, the length of a row of whitened inputs.
        """
        return min(1.0, FULL_RATE_INPUTS / self.ordinary.inputs)

    def train(self, mode: bool = True) -> WhitenedStitch:
        """Switch to train or eval mode, with the ordinary stitch, whose map may depend on it."""
        self.ordinary.train(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *sender] to [B, *receiver]."""
        return self.ordinary.apply_map(x, *self.applied_map())

    def applied_map(self) -> tuple[Tensor, Tensor]:
        """Return W [outputs, D] and b [outputs] as they are applied; differentiable."""
        blocks = self.weight @ self.zca
        bias = self.bias - (blocks @ self.center).flatten(1).sum(dim=1)
        # [outputs, before, after, C], as rows are [before, C, after]
        return blocks.transpose(2, 3).reshape(len(blocks), -1), bias

    @torch.no_grad()
    def fold(self) -> ChannelMixer:
        """Give the ordinary stitch the present map, and return it."""
        self.ordinary.set_map(*self.applied_map())
        return self.ordinary

    def multiply_adds(self) -> int:
        """Count those of the ordinary stitch."""
        return self.ordinary.multiply_adds()

    def sparse_tensors(self) -> list[Tensor]:
        """Return the applied W."""
        return [self.applied_map()[0]]

    def _blocks(self, weight: Tensor) -> Tensor:
        """Arrange W [outputs, D] as [outputs, before, after, C]."""
        return weight.reshape(-1, *self.ordinary.row_shape).transpose(2, 3)
