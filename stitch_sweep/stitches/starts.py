"""How a stitch starts: `random`, `identity`, or as a closed form of the training set."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.stitches.base import DATA_STARTS, STARTS, AffineStitch, Stitch
from stitch_sweep.stitches.closed_forms import correlation_assignment, procrustes
from stitch_sweep.stitches.least_squares import LeastSquares
from stitch_sweep.stitches.orthogonal import OrthogonalStitch
from stitch_sweep.stitches.shapes import show

_SHOWN = {"identity": "start as the identity"}


def check_start(stitch: nn.Module, start: str) -> None:
    """See that a stitch can start so, from shapes alone; it may be on the meta device.

    Args:
        stitch: as built.
        start: one of `STARTS`.

    Raises:
        InputError: it can't, with the reason; or there is no such start.
    """
    if start not in STARTS:
        raise InputError(f"no start is named {start!r}: {nearest(start, STARTS)}")
    if isinstance(stitch, Stitch):
        why, cell = stitch.why_not(start), f" from {show(stitch.sender)} to {show(stitch.receiver)}"
    else:
        why, cell = None if start == "random" else "it says nothing of other starts", ""
    if why is not None:
        raise InputError(f"can't {_SHOWN.get(start, f'start as {start!r}')}{cell}: {why}")


@torch.no_grad()
def start_stitch(
    stitch: nn.Module, start: str, batches: Iterable[tuple[Tensor, Tensor]] = ()
) -> LeastSquares | None:
    """Let a stitch that was built start so; where it already did, nothing happens.

    - `random`: it stays as it was built;
    - `identity`: the map that copies, where it exists;
    - `permutation`: the (partial) assignment of outputs to inputs that maximises the summed
      correlations, as 0 and 1 without bias (Li et al. 2015, arXiv 1511.07543);
    - `procrustes`: the (semi-)orthogonal W that maximises tr(W Y), Y the cross-covariance, with the
      bias that fits the means; not scaled, except for `orthogonal` with `scale: true`;
    - `least_squares`: the best map it can be. Exact in float64; where a direction holds less than
      1e-10 of the largest variance, ridge of that size (`closed_forms.least_squares`).

    Args:
        stitch: on the device of the batches.
        start: one of `STARTS`.
        batches: the training set once, (x [B, *sender], y [B, *receiver]), only real rows; not read
            unless `start` is in `DATA_STARTS`.

    Returns:
        The training set's moments, whose `optimum()` needn't be accumulated again; None where the
        data was not read.

    Raises:
        InputError: it can't start so; or there was no batch.

    Example:
        >>> stitch = build_stitch("conv1x1", (64, 8, 8), (32, 4, 4), start="least_squares")
        >>> start_stitch(stitch, "least_squares", batches)
    """
    check_start(stitch, start)
    if start == "identity":
        assert isinstance(stitch, Stitch)
        stitch.start_as_identity()
    if start not in DATA_STARTS:
        return None
    assert isinstance(stitch, AffineStitch)
    fit = LeastSquares(stitch)
    for x, y in batches:
        fit.add(x, y)
    try:
        moments = fit.moments
    except ValueError:
        raise InputError(f"start {start!r} needs training images, and there are none") from None
    if start == "least_squares":
        weight, bias, _ = fit.solution()
    elif start == "procrustes":
        scaled = isinstance(stitch, OrthogonalStitch) and stitch.scale is not None
        weight, bias, _ = procrustes(moments, scaled)
    else:
        weight = correlation_assignment(moments)
        bias = torch.zeros_like(moments.y_mean)
    stitch.set_map(weight, bias, moments)
    return fit
