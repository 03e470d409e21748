"""Stitches with batch normalisation: `bn_conv1x1_bn`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.affine import PatchStitch
from stitch_sweep.stitches.moments import Moments
from stitch_sweep.stitches.shapes import Shape, as_map
from stitch_sweep.stitches.spatial import Down, Match, Up


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that takes its running statistics where a batch has one value a channel.

    torch refuses such a batch, which is what is left of an epoch now and then.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        if self.training and x.numel() == x.shape[1]:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


@STITCHES.register("bn_conv1x1_bn")
class NormedStitch(PatchStitch):
    """Batch normalisation, a 1x1 convolution without bias, batch normalisation.

    The stitch of Bansal et al. 2021 (arXiv 2106.07682). In training it normalises by the batch, so it
    is no fixed map and can't start as the identity; in evaluation, where the statistics are fixed, it
    is affine and can be any affine map, so it has that one's closed form.

    Args:
        sender: (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: likewise.
        down: how an axis shrinks; with `strided` the kernel grows as for `conv1x1`.
        up: how an axis grows.
    """

    def __init__(
        self, sender: Shape, receiver: Shape, *, down: Down = "average", up: Up = "nearest"
    ) -> None:
        match = Match.around(sender, receiver, down, up)
        super().__init__(sender, receiver, match)
        channels = as_map(sender)[0]
        self.before = BatchNorm(channels)
        self.conv = nn.Conv2d(channels, self.outputs, match.kernel, match.stride, bias=False)
        self.after = BatchNorm(self.outputs)

    def matrix(self) -> Tensor:
        """The W of evaluation, [C', C kh kw]."""
        (scale, _), (scale_after, _) = _scale_and_shift(self.before), _scale_and_shift(self.after)
        return (scale_after[:, None, None, None] * self.conv.weight * scale[:, None, None]).flatten(
            1
        )

    def offset(self) -> Tensor:
        """The b of evaluation, [C']."""
        (_, shift), (scale_after, shift_after) = map(_scale_and_shift, (self.before, self.after))
        through = (self.conv.weight * shift[:, None, None]).flatten(1).sum(dim=1)
        return scale_after * through + shift_after

    @torch.no_grad()
    def set_map(self, weight: Tensor, bias: Tensor, moments: Moments | None = None) -> None:
        """Any W and b; needs the moments, which become the statistics."""
        assert moments is not None
        channels, window = as_map(self.sender)[0], self.match.window
        mean = moments.x_mean.reshape(channels, window).mean(dim=1)
        spread = moments.xx.diagonal() / moments.count + moments.x_mean.square()
        variance = spread.reshape(channels, window).mean(dim=1) - mean.square()
        _set(self.before, mean, variance.clamp(min=0))
        scale, shift = (part.double() for part in _scale_and_shift(self.before))
        conv = weight.reshape(self.conv.weight.shape) / scale[:, None, None]
        self.conv.weight.copy_(conv)
        # What comes out of the convolution is W r without b, shifted: its statistics follow from r's.
        passed = weight @ moments.x_mean + (conv * shift[:, None, None]).flatten(1).sum(dim=1)
        varies = ((weight @ moments.xx) * weight).sum(dim=1) / moments.count
        _set(self.after, passed, varies.clamp(min=0))
        self.after.weight.copy_((varies.clamp(min=0) + self.after.eps).sqrt())
        self.after.bias.copy_(weight @ moments.x_mean + bias)

    def sparse_tensors(self) -> list[Tensor]:
        """The convolution's weight."""
        return [self.conv.weight]

    def why_not(self, start: str) -> str | None:
        """Besides, no identity."""
        if start == "identity":
            return "in training it normalises by the batch"
        return super().why_not(start)

    def _map(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.conv(self.before(x)))
        return y


def _scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """What it does in evaluation, per channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - scale * norm.running_mean


def _set(norm: BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Statistics as given, scale 1, shift 0."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.reset_parameters()
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
