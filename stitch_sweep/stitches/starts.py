"""The key `start` initializes a stitch: randomly, as the identity, or with a closed form from the training
set.

- `random`: the usual initialization of torch; for `orthogonal`, uniform over rotations and reflections.
- `identity`: a copy, bit for bit, where shapes are equal; otherwise only the sizes are matched. Between
  different numbers of channels it is refused. A residual block that ends in a ReLU copies what isn't
  negative.
- `permutation`: outputs are matched to inputs so that the sum of correlations is largest, exactly.
  Weights are 0 and 1, without bias. Between unequal widths min(C', D) channels are matched; an output
  without a partner gives 0.
- `least_squares`: the best map of the kind in squared error on the training set. For `lowrank` this is
  reduced-rank regression, for `orthogonal` Procrustes, for `permutation` the assignment of least
  squared error, for `affine` a regression per channel, for `dora` its base without limit of rank.
- `procrustes`: the rotation that maximizes tr(W Y), with the bias that fits the means. Y is the
  cross-covariance. Between unequal widths it is a semi-orthogonal map.
- `auto`: `least_squares` where the stitch has it, and `random` elsewhere. Where a closed form is the
  optimum of the training, no step is taken.

Shapes alone decide which starts are possible, so a sweep checks them before anything runs. The closed
forms read the training set once, without augmentation. Rows of more than 8192 values have none.
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

    - `random`: no change.
    - `identity`: the map that copies, if it exists.
    - `permutation`: the (partial) assignment of outputs to inputs that maximizes the summed
      correlations, with weights 0 and 1 and without bias (Li et al. 2015, arXiv 1511.07543).
    - `procrustes`: the (semi-)orthogonal W that maximizes tr(W Y), Y the cross-covariance, with the
      bias that fits the means; without a scale, except for `orthogonal` with `scale: true`.
    - `least_squares`: the best map that the stitch can represent. Exact in float64; with a ridge if a
      direction has less than 1e-10 of the largest variance (see `closed_forms.least_squares`).
    - `auto`: see `choose_start`.

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
