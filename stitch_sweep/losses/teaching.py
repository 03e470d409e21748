"""Which losses can't teach which stitches, known before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import Invariance, Loss
from stitch_sweep.losses.cka import FEWEST

Family = Literal["fixed", "scale", "channel_affine", "orthogonal", "affine", "other"]
"""What a stitch can become by training, apart from fixed pooling and upsampling: nothing but what it is;
one scale; a scale and shift per channel; rotations (permutations too), with scale and shift; any
affine map of its rows; anything else."""

ROWS_PER_CHANNEL = 10
_AFFINE: tuple[Family, ...] = ("scale", "channel_affine", "orthogonal", "affine")


@dataclass(frozen=True)
class Lesson:
    """A stitch and its batches, as far as it matters whether a loss can teach.

    Attributes:
        family: what the stitch can become.
        inputs: values that one output position depends on: C_in k^2 for a k x k convolution.
        channels: of the receiver's layer.
        positions: places of the receiver's layer, H W; 1 for a vector.
        batch: images of a training batch.
        rank_limit: the largest rank of its linear part; None without a limit.
        replication: output positions that are copies of one another, u^2 for upsampling by u.
    """

    family: Family
    inputs: int
    channels: int
    positions: int
    batch: int
    rank_limit: int | None = None
    replication: int = 1

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise ValueError(f"no family of stitches is called {self.family!r}")

    @property
    def rows(self) -> int:
        """Rows of a batch: images times places."""
        return self.batch * self.positions

    @property
    def distinct_rows(self) -> int:
        """Rows of a batch that the stitch can tell apart."""
        return self.rows // self.replication

    @property
    def rank(self) -> int:
        """The largest rank that the stitched representation can have."""
        return min(self.inputs, self.channels, self.rank_limit or self.inputs)

    @property
    def keeps_all(self) -> bool:
        """Affine and injective: what it makes spans what it gets, whatever its weights."""
        return self.family in _AFFINE and self.rank == self.inputs

    @property
    def orbits(self) -> set[Invariance]:
        """The invariances under which everything the stitch can become is the same."""
        if not self.keeps_all:
            return set()
        found: set[Invariance] = {"affine"}
        # Every affine map of one channel is a scale and a shift.
        if self.family in ("scale", "orthogonal") or self.inputs == 1:
            found.add("isotropic")
        if self.family in ("scale", "channel_affine") or self.inputs == 1:
            found.add("channel_affine")
        if self.family == "scale":
            found.add("position_scale")
        return found


def cannot_teach(loss: str, lesson: Lesson) -> str | None:
    """Why the gradient of a loss is 0 for whatever the stitch can become, or None if it isn't.

    A loss can't teach when all a stitch can become is one orbit of what the loss is blind to, or when
    the batch is so small that the loss takes one value whatever it gets. Signs are disregarded: a loss
    that only tells a positive scale from a negative one has no gradient that leads there.

    Args:
        loss: its registered name.
        lesson: the stitch of one cell, and the batches.

    Returns:
        A sentence for the user, without the name of the cell.

    Example:
        >>> cannot_teach("cca", Lesson("affine", inputs=8, channels=8, positions=16, batch=64))
        "'cca' is blind to invertible affine maps, and ..."
    """
    if lesson.family == "fixed":
        return None
    invariance = _loss(loss).invariance
    if loss in ("cca", "pwcca") and lesson.rows <= lesson.channels + 1:
        return (
            f"{loss!r} is 0 whatever the stitch does: a batch of {lesson.batch} images has "
            f"{lesson.rows} rows, and it takes more than {lesson.channels + 1} to compare "
            f"{lesson.channels} channels; use a larger batch_size"
        )
    if loss == "cka" and lesson.batch < FEWEST:
        return f"'cka' needs batches of at least {FEWEST} images, not {lesson.batch}"
    if loss in ("correlation", "svcca") and lesson.rows <= 2:
        return (
            f"{loss!r} of fewer than 3 rows is 1, -1 or undefined, whatever the stitch does: a batch "
            f"of {lesson.batch} images has {lesson.rows}; use a larger batch_size"
        )
    if loss == "cosine" and lesson.channels == 1:
        return "'cosine' of a single channel is 1 or -1, whatever the stitch does"
    if invariance in lesson.orbits:
        return (
            f"{loss!r} is blind to {_WORDS[invariance]}, and all that a stitch of {lesson.inputs} "
            f"inputs and {lesson.channels} channels can learn here is such a map: the loss is the "
            "same whatever its weights"
        )
    return None


def teaching_warnings(loss: str, lesson: Lesson) -> list[str]:
    """What to know of a loss that can teach, but little, or something else.

    Args:
        loss: its registered name.
        lesson: the stitch of one cell, and the batches.

    Returns:
        Sentences for the user; none for a cell that `cannot_teach` refuses.
    """
    if lesson.family == "fixed" or cannot_teach(loss, lesson) is not None:
        return []
    found = []
    wanted = ROWS_PER_CHANNEL * (lesson.inputs + lesson.channels)
    if loss in ("cca", "svcca", "pwcca") and lesson.distinct_rows < wanted:
        chance = chance_level(lesson.distinct_rows, lesson.rank, lesson.channels)
        found.append(
            f"{loss!r} mostly measures chance: a batch of {lesson.batch} images has "
            f"{lesson.distinct_rows} rows, {lesson.inputs} inputs and {lesson.channels} channels ask "
            f"for {wanted}; independent data would already correlate by {chance:.2f} on average"
        )
    if loss == "svcca" and "affine" in lesson.orbits:
        found.append(
            "'svcca' of a stitch that keeps all it gets can only be lowered by giving up variance in "
            "directions that correlate little"
        )
    return found


def chance_level(rows: int, p: int, q: int) -> float:
    """Mean canonical correlation of independent data, for large matrices.

        E rho,   rho^2 distributed as n/(2 pi p) sqrt((l - a)(b - l)) / (l (1 - l)) on [a, b],
        a, b = (sqrt(q/n (1 - p/n)) -+ sqrt(p/n (1 - q/n)))^2,   p <= q,
        and p + q - n of the p correlations equal to 1 where that is positive.

    Args:
        rows: number of rows; one is lost to the means, n = rows - 1.
        p: channels of one side.
        q: channels of the other.

    Source: Wachter 1980, "The limiting empirical measure of multiple discriminant ratios".
    """
    n = rows - 1
    p, q = min(p, q), max(p, q)
    if q >= n:
        return 1.0
    c, d = p / n, q / n
    ends = [(np.sqrt(d * (1 - c)) + sign * np.sqrt(c * (1 - d))) ** 2 for sign in (-1, 1)]
    middle, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    # Midpoints of an angle: the roots at both ends become smooth.
    angles = (np.arange(4096) + 0.5) * np.pi / 4096
    at = middle + half * np.cos(angles)
    density = (half * np.sin(angles)) ** 2 / (at * (1 - at)) / (2 * np.pi * c)
    bulk = float((density * np.sqrt(at)).mean() * np.pi)
    return bulk + max(0, p + q - n) / p


def _loss(name: str) -> type[Loss]:
    return LOSSES.get(name).factory  # type: ignore[return-value]


_WORDS: dict[Invariance, str] = {
    "position_scale": "the scale of every position",
    "channel_affine": "the scale and shift of every channel",
    "isotropic": "rotation, scale and shift",
    "affine": "invertible affine maps",
}
