"""The best stitch into a layer after which the receiver is linear, for the task: logistic regression.

Where the rest of the receiver pools over positions and applies a linear head, the logits of a stitched
network are an affine map of the mean row of an image, whatever the receiver. So training such a stitch is
training a linear classifier, which has a convex loss. A long training overfits where rows are long; here
the strength of an L2 penalty is chosen by validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from stitch_sweep.networks.cutting.linear_rest import is_affine
from stitch_sweep.networks.logistic_regression import fit_logistic
from stitch_sweep.stitches.base import ChannelMixer
from stitch_sweep.stitches.closed_forms import AffineMap

PENALTIES = (1e-1, 3e-2, 1e-2)
"""Weights of the L2 penalty, half the sum of squared weights in the coordinates of the classifier."""
EIGENVALUE_RIDGES = (1e-3, 1.0)
"""Added to the eigenvalues of the rows' covariance in whitening, as a share of their mean. The first one
whitens; the second one leaves directions of little variance small, which overfits less where rows are
long and images few."""
MAX_VALUES = 2**27
"""Largest number of values of the mean rows, images times row length: half a GiB."""
_TOLERANCE = 1e-4


class Head(NamedTuple):
    """The rest of a receiver as a map of the mean output of a stitch: logits = F mean(y) + g.

    Attributes:
        weight: F, float64 [K, outputs].
        offset: g, float64 [K].
    """

    weight: Tensor
    offset: Tensor


def find_head(rest: Callable[[Tensor], Tensor], stitch: ChannelMixer) -> Head | None:
    """Find the head, if the rest of the receiver is affine and the same at all positions.

    Args:
        rest: the rest of the receiver, [B, *receiver] to logits [B, K].
        stitch: the stitch before it.

    Returns:
        The head; None if the rest is another function, or if its logits can't be chosen freely because
        the layer has too few channels.
    """
    device = stitch.offset().device
    # One pass decides it, and gradients of all logits are computed only for a rest that is affine.
    if not is_affine(rest, stitch.receiver, device):
        return None
    zero = torch.zeros(1, *stitch.receiver, device=device, requires_grad=True)
    logits = rest(zero)[0]
    rows = [torch.autograd.grad(value, zero, retain_graph=True)[0] for value in logits]
    slopes, offset = torch.cat(rows).double(), logits.detach().double()
    # [K, positions, outputs]
    by_position = stitch.target_values(slopes).reshape(len(slopes), -1, stitch.outputs)
    spread = (by_position - by_position.mean(dim=1, keepdim=True)).abs().max()
    weight = by_position.sum(dim=1)
    if spread > _TOLERANCE * by_position.abs().max():
        return None
    if torch.linalg.matrix_rank(weight, rtol=1e-6) < len(weight):
        return None
    return Head(weight, offset)


@torch.no_grad()
def mean_rows(stitch: ChannelMixer, inputs: Iterable[Tensor]) -> Tensor:
    """Return the mean row of every image over the outputs' positions, float32 [N, D].

    Args:
        stitch: defines the rows.
        inputs: the sender's representation in batches [B, *sender].
    """
    copies, means = stitch.copies(), []
    for x in inputs:
        rows = stitch.rows(x).reshape(len(x), -1, stitch.inputs)
        if copies is None:
            means.append(rows.mean(dim=1))
        else:
            weights = (copies / copies.sum()).to(rows)
            means.append((rows * weights[:, None]).sum(dim=1))
    return torch.cat(means).float()


def fit_maps(
    head: Head, base: AffineMap, rows: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fit classifiers of mean rows, one for each ridge and penalty, as maps of the stitch.

    Of all maps with the same logits, each is the one that is closest to `base`.

    Args:
        head: the rest of the receiver.
        base: a map of the stitch, such as that of least squares.
        rows: mean rows of the training images, [N, D].
        labels: int64 [N].

    Yields:
        W [outputs, D] and b [outputs], float64.
    """
    weight, bias = base.weight.to(rows.device), base.bias.to(rows.device)
    inverse = torch.linalg.pinv(head.weight)
    for slopes, offset in fit_logistic(
        rows, labels, len(head.offset), PENALTIES, EIGENVALUE_RIDGES
    ):
        yield (
            weight + inverse @ (slopes - head.weight @ weight),
            bias + inverse @ (offset - head.offset - head.weight @ bias),
        )
