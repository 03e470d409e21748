"""Stitches with batch normalization: `bn_conv1x1_bn`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.moments import RegressionMoments
from stitch_sweep.stitches.patch_stitch import PatchStitch
from stitch_sweep.stitches.resizing import Up
from stitch_sweep.stitches.shapes import Shape, as_map
from stitch_sweep.stitches.size_matching import Down, Match


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization that uses its running statistics for a batch of one value per channel.

    torch refuses such a batch, which may be the last batch of an epoch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [B, C, H, W]."""
        if self.training and x.numel() == x.shape[1]:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


@STITCHES.register("bn_conv1x1_bn")
class NormedStitch(PatchStitch):
    r"""Batch normalization, a 1x1 convolution without bias, batch normalization.

    ```math
    S(x)_p = \mathrm{BN}(W\, \mathrm{BN}(r_p))
    ```

    In training, the stitch normalizes with batch statistics, so it is not a fixed map and can't start
    as the identity. In evaluation, with fixed statistics, the stitch can represent any affine map of r,
    so its closed form is that of `conv1x1`.

    Use: to reproduce Bansal et al. 2021.

    Assumes: positions correspond, so only channels have to be mixed.

    Invariant to: invertible affine maps of the channels.

    Joins: maps, sequences and vectors of any sizes.

    Parameters: C' D + 2 C + 2 C'.

    Multiply-adds: P C' D.

    Source: Bansal, Nakkiran and Barak 2021, arXiv 2106.07682.

    Args:
        sender: shape of the input, (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: shape of the output, likewise.
        down: how an axis shrinks; with `strided`, the kernel grows as for `conv1x1`.
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
        """Return the W of evaluation, [C', C kh kw]."""
        (scale, _), (scale_after, _) = _scale_and_shift(self.before), _scale_and_shift(self.after)
        return (scale_after[:, None, None, None] * self.conv.weight * scale[:, None, None]).flatten(
            1
        )

    def offset(self) -> Tensor:
        """Return the b of evaluation, [C']."""
        (_, shift), (scale_after, shift_after) = map(_scale_and_shift, (self.before, self.after))
        from_shift = (self.conv.weight * shift[:, None, None]).flatten(1).sum(dim=1)
        return scale_after * from_shift + shift_after

    @torch.no_grad()
    def set_map(
        self, weight: Tensor, bias: Tensor, moments: RegressionMoments | None = None
    ) -> None:
        """Set any W and b; the moments become the statistics."""
        assert moments is not None
        channels, window = as_map(self.sender)[0], self.match.window
        mean = moments.x_mean.reshape(channels, window).mean(dim=1)
        spread = moments.xx.diagonal() / moments.count + moments.x_mean.square()
        variance = spread.reshape(channels, window).mean(dim=1) - mean.square()
        _set_statistics(self.before, mean, variance.clamp(min=0))
        scale, shift = (part.double() for part in _scale_and_shift(self.before))
        conv = weight.reshape(self.conv.weight.shape) / scale[:, None, None]
        self.conv.weight.copy_(conv)
        # The convolution's output is W r plus a constant, so its statistics follow from those of r.
        mean_after = weight @ moments.x_mean + (conv * shift[:, None, None]).flatten(1).sum(dim=1)
        variance_after = ((weight @ moments.xx) * weight).sum(dim=1) / moments.count
        _set_statistics(self.after, mean_after, variance_after.clamp(min=0))
        self.after.weight.copy_((variance_after.clamp(min=0) + self.after.eps).sqrt())
        self.after.bias.copy_(weight @ moments.x_mean + bias)

    def sparse_tensors(self) -> list[Tensor]:
        """Return the convolution's weight."""
        return [self.conv.weight]

    def explain_start_refusal(self, start: str) -> str | None:
        """Refuse the identity too."""
        if start == "identity":
            return "in training it normalizes by the batch"
        return super().explain_start_refusal(start)

    def _map(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.conv(self.before(x)))
        return y


def _scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the affine map of evaluation, per channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - scale * norm.running_mean


def _set_statistics(norm: BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Set the statistics, the scale to 1 and the shift to 0."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.reset_parameters()
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
