"""Stratified, seeded choices: the validation cut and the subsets for quick work.

Each class is drawn from with a generator of its own, so what is taken of one class depends on that
class alone, and a smaller subset lies within a larger one as far as the rounding allows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import generator


def allot(counts: Sequence[int], total: int) -> list[int]:
    """Share `total` out among classes in proportion to `counts`, by largest remainder.

    Every class is within one of its exact share, save that a class with images is not left with
    none while `total` suffices for one each: it then gets one from the class that has most.

    Args:
        counts: images there are of each class.
        total: how many to choose, at most `sum(counts)`.

    Example:
        >>> allot([60, 30, 11], 10)
        [6, 3, 1]
    """
    shares = [divmod(count * total, max(sum(counts), 1)) for count in counts]
    given = [whole for whole, _ in shares]
    by_remainder = sorted(range(len(counts)), key=lambda c: -shares[c][1])
    for c in by_remainder[: total - sum(given)]:
        given[c] += 1
    if total >= sum(count > 0 for count in counts):
        for c, count in enumerate(counts):
            if count and not given[c]:
                given[given.index(max(given))] -= 1
                given[c] = 1
    return given


def stratified_sample(labels: Tensor, total: int, *seed: object) -> Tensor:
    """Choose `total` images, each class in proportion.

    Args:
        labels: `N`, int64, classes from 0.
        total: how many to choose, at most N.
        seed: what the random numbers are derived from (see `seeding.derive`).

    Returns:
        `total` indices into `labels`, int64, ascending.
    """
    chosen = []
    for c, take in enumerate(allot(torch.bincount(labels).tolist(), total)):
        members = (labels == c).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator(*seed, c))
        chosen.append(members[order[:take]])
    return torch.cat(chosen).sort().values


def cut_validation(
    labels: Tensor, val_fraction: float, split_seed: int, classes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Cut the official training set into training and validation part.

    Args:
        labels: `N`, int64, of the whole official training set.
        val_fraction: share of the validation part, between 0 and 1.
        split_seed: the cut is a function of `labels`, `val_fraction` and this alone.
        classes: names, for the messages.

    Returns:
        indices of the training part and of the validation part, int64, ascending, disjoint,
        together 0 .. N-1.

    Raises:
        InputError: `val_fraction` isn't between 0 and 1, or a class would be missing in a part.
    """
    if not 0 < val_fraction < 1:
        raise InputError(
            f"data.val_fraction is {val_fraction}; allowed: above 0 and below 1, such as 0.1"
        )
    held_out = stratified_sample(
        labels, round(len(labels) * val_fraction), split_seed, "validation"
    )
    in_validation = torch.zeros(len(labels), dtype=torch.bool)
    in_validation[held_out] = True
    there = torch.bincount(labels, minlength=len(classes)).tolist()
    for part, mask in (("training", ~in_validation), ("validation", in_validation)):
        kept = torch.bincount(labels[mask], minlength=len(classes)).tolist()
        if 0 in kept:
            c = kept.index(0)
            raise InputError(
                f"data.val_fraction is {val_fraction}: class {classes[c]!r}, of which there are "
                f"{there[c]} training images in all, would have none in the {part} part; allowed: "
                "a fraction that leaves every class an image in both parts"
            )
    return (~in_validation).nonzero().flatten(), held_out


def subset(
    labels: Tensor, total: int, split_seed: int, part: str, setting: str, num_classes: int
) -> Tensor:
    """A stratified subset that the user asked for by its size.

    Args:
        labels: `N`, int64, of the part that is chosen from.
        total: how many images.
        split_seed: the choice is a function of `labels`, `total`, `part` and this alone.
        part: "train" or "test".
        setting: the config key, for the message.
        num_classes: smallest size allowed, one image per class.

    Returns:
        `total` indices into `labels`, int64, ascending.

    Raises:
        InputError: `total` is out of range.
    """
    if not num_classes <= total <= len(labels):
        raise InputError(
            f"{setting} is {total}; allowed: {num_classes} (one image per class) to {len(labels)}, "
            f"the images there are in the {part} part"
        )
    return stratified_sample(labels, total, split_seed, part)


def validation_size(train_images: int, val_fraction: float, num_classes: int, there: int) -> int:
    """How many validation images go with a training subset: the same proportion as in full.

    At least one per class, at most as many as there are.
    """
    in_proportion = round(train_images * val_fraction / (1 - val_fraction))
    return min(max(in_proportion, num_classes), there)
