"""The key `start` initializes a stitch: randomly, as the identity, or with a closed form from the training
set.

- `random`: torch's default initialization; for `orthogonal`, uniform over rotations and reflections;
  for `permutation`, a random matching.
- `identity`: between equal shapes, a copy of the input, bit for bit; between different sizes, only the
  sizes are matched. Different numbers of channels are refused. The stitches `basic_block` and
  `bottleneck` end in a ReLU by default, so they copy only positive values and set others to 0.
- `permutation`: the one-to-one matching of output channels to entries of r with the largest sum of
  correlations, computed exactly. Weights are 0 and 1, without bias. Between unequal widths, min(C', D)
  channels are matched, and an output channel without a partner is 0.
- `least_squares`: among all maps that the stitch can represent, the one with the least squared error on
  the training set. This is a reduced-rank regression for `lowrank`, the Procrustes solution for
  `orthogonal`, the best matching for `permutation`, and a regression per channel for `affine`. For
  `dora`, the base map is an unrestricted regression.
- `procrustes`: the orthogonal matrix W that maximizes tr(W Y), where Y is the cross-covariance of r and
  the expected representation, with the bias that fits the means. Between unequal widths, W is
  semi-orthogonal.
- `auto`: `least_squares` if the stitch allows it, and `random` otherwise. If a closed form is already
  the optimum of the training, there are no training steps.

The possible starts depend only on the stitch and the shapes, so a sweep checks them before anything
runs. Computing a closed form takes one pass over the training set, without augmentation. If D is above
8192, there is no closed form.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stitch_sweep.config.stitch import DATA_STARTS, STARTS
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.stitches.base import AffineStitch, Stitch
from stitch_sweep.stitches.closed_forms import correlation_assignment, procrustes
from stitch_sweep.stitches.least_squares import LeastSquares
from stitch_sweep.stitches.orthogonal import OrthogonalStitch
from stitch_sweep.stitches.shapes import format_shape

_PHRASES = {"identity": "start as the identity"}


def check_start(stitch: nn.Module, start: str) -> None:
    """Check that a stitch can have a start, from shapes alone.

    Args:
        stitch: as built; it may be on the meta device.
        start: one of `STARTS`.

    Raises:
        InputError: the stitch can't have this start, with the reason; or there is no such start.
    """
    if start not in STARTS:
        raise InputError(f"there is no start {start!r}: {nearest(start, STARTS)}")
    start = choose_start(stitch, start)
    if isinstance(stitch, Stitch):
        reason = stitch.explain_start_refusal(start)
        cell = f" from {format_shape(stitch.sender)} to {format_shape(stitch.receiver)}"
    else:
        reason, cell = None if start == "random" else "it supports only the start 'random'", ""
    if reason is not None:
        raise InputError(f"can't {_PHRASES.get(start, f'start as {start!r}')}{cell}: {reason}")


def choose_start(stitch: nn.Module, start: str) -> str:
    """Return the start that `auto` chooses for a stitch, from shapes alone; other starts unchanged.

    Least squares where the stitch has it, because it needs the fewest steps; random elsewhere.
    """
    if start != "auto":
        return start
    is_random = (
        not isinstance(stitch, Stitch) or stitch.explain_start_refusal("least_squares") is not None
    )
    return "random" if is_random else "least_squares"


@torch.no_grad()
def start_stitch(
    stitch: nn.Module, start: str, batches: Iterable[tuple[Tensor, Tensor]] = ()
) -> LeastSquares | None:
    """Initialize a stitch after it was built.

    The docstring of the module describes the starts. In addition:

    - `permutation` is the assignment of Li et al. 2015 (arXiv 1511.07543).
    - `procrustes` has no scale, except for `orthogonal` with `scale: true`.
    - `least_squares` is exact in float64. Otherwise, there is a ridge if a direction has less than 1e-10
      of the largest variance (see `closed_forms.least_squares`).

    Args:
        stitch: on the device of the batches.
        start: one of `STARTS`.
        batches: the training set once, (x [B, *sender], y [B, *receiver]), without padding; read only if
            `start` is in `DATA_STARTS`, or chooses one of them.

    Returns:
        The accumulated training set, for its `optimum()`; None if the data wasn't read.

    Raises:
        InputError: the stitch can't have this start, or there is no batch.

    Example:
        >>> stitch = build_stitch("conv1x1", (64, 8, 8), (32, 4, 4), start="least_squares")
        >>> start_stitch(stitch, "least_squares", batches)
    """
    check_start(stitch, start)
    start = choose_start(stitch, start)
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
    elif start == "permutation":
        weight = correlation_assignment(moments)
        bias = torch.zeros_like(moments.y_mean)
    else:
        raise NotImplementedError(f"start {start!r} has no implementation")
    stitch.set_map(weight, bias, moments)
    return fit
