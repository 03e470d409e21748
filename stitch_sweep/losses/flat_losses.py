"""Before any training, Stitch Sweep lists the cells with a flat loss, which the stitch can't change.

A loss is flat if the maps that a stitch can represent differ only by maps to which the loss is
invariant, or if a batch is so small that the loss has the same value for every stitch. Stitch Sweep
finds both cases from shapes alone. The page of a loss lists its cases under "Flat for".

`cca`, `svcca` and `pwcca` need at least 10 (D + C') distinct positions in a batch, where D and C' are
the stitch's numbers of inputs and outputs at a position. With fewer positions, these losses mostly
measure chance: even independent data have a high canonical correlation. A warning states this
correlation, computed by the law of Wachter 1980. For 4,096 positions and 512 channels in both
representations, the correlation is 0.30.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import Invariance, Loss
from stitch_sweep.losses.cka import MIN_IMAGES

Family = Literal["fixed", "scale", "channel_affine", "orthogonal", "affine", "other"]
"""The maps that a stitch can learn, apart from fixed pooling and upsampling: only itself; one scale; a
scale and shift per channel; rotations (and permutations), with scale and shift; any affine map of its
rows; other maps."""

ROWS_PER_CHANNEL = 10
"""Number of rows per channel. With fewer rows, the CCA family mostly measures chance."""
_AFFINE: tuple[Family, ...] = ("scale", "channel_affine", "orthogonal", "affine")


@dataclass(frozen=True)
class StitchProfile:
    """The properties of a stitch and its batches that decide whether a loss is flat.

    Attributes:
        family: the maps that the stitch can learn.
        inputs: number of values that an output position depends on: C_in k^2 for a k x k convolution.
        channels: channels of the receiver's layer.
        positions: positions of the receiver's layer, H W; 1 for a vector.
        batch: images of a training batch.
        rank_limit: the largest rank of its linear part; None if unlimited.
        replication: number of output positions that are copies of one another, u^2 for upsampling by u.

    Raises:
        ValueError: there is no such family.
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
            allowed = ", ".join(get_args(Family))
            raise ValueError(f"family is {self.family!r}; allowed: {allowed}")

    @property
    def rows(self) -> int:
        """Rows of a batch: images times positions."""
        return self.batch * self.positions

    @property
    def distinct_rows(self) -> int:
        """Rows of a batch that aren't copies of one another."""
        return self.rows // self.replication

    @property
    def rank(self) -> int:
        """Largest possible rank of the stitched representation."""
        return min(self.inputs, self.channels, self.rank_limit or self.inputs)

    @property
    def is_injective(self) -> bool:
        """Whether the stitch is affine and, for almost all weights, injective."""
        return self.family in _AFFINE and self.rank == self.inputs

    @property
    def orbits(self) -> set[Invariance]:
        """The invariances under which all maps that the stitch can learn are equal."""
        if not self.is_injective:
            return set()
        orbits: set[Invariance] = {"affine"}
        # An affine map of a single channel is a scale and a shift.
        if self.family in ("scale", "orthogonal") or self.inputs == 1:
            orbits.add("isotropic")
        if self.family in ("scale", "channel_affine") or self.inputs == 1:
            orbits.add("channel_affine")
        if self.family == "scale":
            orbits.add("position_scale")
        return orbits


def explain_flat_loss(loss: str, profile: StitchProfile) -> str | None:
    """Explain why the gradient of a loss is 0 for all weights of a stitch; None if it isn't.

    Signs are ignored: if a loss distinguishes only positive from negative scales, no gradient leads from
    one sign to the other.

    Args:
        loss: its registered name.
        profile: the stitch of one cell, and the batches.

    Returns:
        A sentence for the user, without the name of the cell.

    Example:
        >>> profile = StitchProfile("affine", inputs=8, channels=8, positions=16, batch=64)
        >>> explain_flat_loss("cca", profile)
        "'cca' is blind to invertible affine maps, and ..."
    """
    if profile.family == "fixed":
        return None
    invariance = _loss(loss).invariance
    if loss in ("cca", "pwcca") and profile.rows <= profile.channels + 1:
        return (
            f"{loss!r} is 0 for every stitch: a batch of {profile.batch} images has {profile.rows} rows, "
            f"but comparing {profile.channels} channels needs more than {profile.channels + 1} rows; "
            "use a larger batch_size"
        )
    if loss == "cka" and profile.batch < MIN_IMAGES:
        return (
            f"'cka' needs batches of at least {MIN_IMAGES} images, not {profile.batch}; "
            "use a larger batch_size"
        )
    if loss in ("correlation", "svcca") and profile.rows <= 2:
        return (
            f"{loss!r} of fewer than 3 rows is 1, -1 or undefined for every stitch: a batch of "
            f"{profile.batch} images has {profile.rows}; use a larger batch_size"
        )
    if loss == "cosine" and profile.channels == 1:
        return "'cosine' of a single channel is 1 or -1 for every stitch; use another loss"
    if invariance in profile.orbits:
        return (
            f"{loss!r} is blind to {_WORDS[invariance]}, and a stitch of {profile.inputs} inputs and "
            f"{profile.channels} channels can learn only such a map here: the loss is the same for all "
            "weights; use another loss or another stitch"
        )
    return None


def weak_loss_warnings(loss: str, profile: StitchProfile) -> list[str]:
    """Describe why a loss that isn't flat may still train a stitch badly.

    Args:
        loss: its registered name.
        profile: the stitch of one cell, and the batches.

    Returns:
        Sentences for the user; none if `explain_flat_loss` returns a reason.
    """
    if profile.family == "fixed" or explain_flat_loss(loss, profile) is not None:
        return []
    warnings = []
    recommended = ROWS_PER_CHANNEL * (profile.inputs + profile.channels)
    if loss in ("cca", "svcca", "pwcca") and profile.distinct_rows < recommended:
        chance = chance_level(profile.distinct_rows, profile.rank, profile.channels)
        warnings.append(
            f"{loss!r} mostly measures chance: a batch of {profile.batch} images has "
            f"{profile.distinct_rows} rows, but {profile.inputs} inputs and {profile.channels} "
            f"channels need {recommended}; with so few rows, independent data have a mean correlation of "
            f"{chance:.2f}. Use a larger batch_size"
        )
    if loss == "svcca" and "affine" in profile.orbits:
        warnings.append(
            "'svcca' of a stitch that keeps its whole input can only be lowered by giving up variance in "
            "directions that correlate little"
        )
    return warnings


def chance_level(rows: int, p: int, q: int) -> float:
    """Compute the mean canonical correlation of independent data, for large matrices.

        E rho,   rho^2 distributed as n/(2 pi p) sqrt((l - a)(b - l)) / (l (1 - l)) on [a, b],
        a, b = (sqrt(q/n (1 - p/n)) -+ sqrt(p/n (1 - q/n)))^2,   p <= q,
        and p + q - n of the p correlations equal to 1 where that is positive.

    Args:
        rows: number of rows; n = rows - 1, because the means use one degree of freedom.
        p: channels of one side.
        q: channels of the other side.

    Source: Wachter 1980, "The limiting empirical measure of multiple discriminant ratios".
    """
    n = rows - 1
    p, q = min(p, q), max(p, q)
    if q >= n:
        return 1.0
    c, d = p / n, q / n
    ends = [(np.sqrt(d * (1 - c)) + sign * np.sqrt(c * (1 - d))) ** 2 for sign in (-1, 1)]
    middle, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    # Integrate over an angle with the midpoint rule: this substitution makes the roots at both ends
    # smooth.
    angles = (np.arange(4096) + 0.5) * np.pi / 4096
    squared = middle + half * np.cos(angles)
    density = (half * np.sin(angles)) ** 2 / (squared * (1 - squared)) / (2 * np.pi * c)
    bulk = float((density * np.sqrt(squared)).mean() * np.pi)
    return bulk + max(0, p + q - n) / p


def _loss(name: str) -> type[Loss]:
    return LOSSES.get(name).factory  # type: ignore[return-value]


_WORDS: dict[Invariance, str] = {
    "position_scale": "the scale of every position",
    "channel_affine": "the scale and shift of every channel",
    "isotropic": "rotation, scale and shift",
    "affine": "invertible affine maps",
}
