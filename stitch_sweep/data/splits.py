"""Stratified, seeded choices: the validation cut and subsets.

Every class has a separate random generator. The images chosen from a class therefore depend on that
class only, and a smaller subset is part of a larger subset, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import generator
from stitch_sweep.data.images import Images

_TEST_SHARE = 0.25


def allot(counts: Sequence[int], total: int) -> list[int]:
    """Share `total` among classes in proportion to `counts`, by largest remainder.

    Every class gets its exact share, rounded up or down. There is one exception: if `total` is enough for
    one image of each class, a class with images gets at least one image, at the cost of the largest
    class.

    Args:
        counts: number of images of each class.
        total: number of images to choose, at most `sum(counts)`.

    Example:
        >>> allot([60, 30, 11], 10)
        [6, 3, 1]
    """
    shares = [divmod(count * total, max(sum(counts), 1)) for count in counts]
    allotted = [whole for whole, _ in shares]
    by_remainder = sorted(range(len(counts)), key=lambda c: -shares[c][1])
    for c in by_remainder[: total - sum(allotted)]:
        allotted[c] += 1
    if total >= sum(count > 0 for count in counts):
        for c, count in enumerate(counts):
            if count and not allotted[c]:
                allotted[allotted.index(max(allotted))] -= 1
                allotted[c] = 1
    return allotted


def stratified_sample(labels: Tensor, total: int, *seed: object) -> Tensor:
    """Choose `total` images, each class in proportion.

    Args:
        labels: `N`, int64, classes from 0.
        total: number of images to choose, at most N.
        seed: values from which the random numbers are derived (see `seeding.derive`).

    Returns:
        `total` indices into `labels`, int64, ascending.
    """
    chosen = []
    for c, share in enumerate(allot(torch.bincount(labels).tolist(), total)):
        members = (labels == c).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator(*seed, c))
        chosen.append(members[order[:share]])
    return torch.cat(chosen).sort().values


def cut_test(images: Images, name: str) -> tuple[Images, Images]:
    """Cut a stratified quarter off, always the same, for a data set without official test images.

    Args:
        images: all images.
        name: of the data set; it seeds the cut.

    Returns:
        training images and test images.
    """
    test = stratified_sample(images.labels, round(len(images.labels) * _TEST_SHARE), name, "test")
    in_train = torch.ones(len(images.labels), dtype=torch.bool)
    in_train[test] = False
    return images.select(in_train.nonzero().flatten()), images.select(test)


def cut_validation(
    labels: Tensor, val_fraction: float, split_seed: int, classes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Cut the official training set into a training and a validation part.

    The cut is a function of `labels`, `val_fraction` and `split_seed` only.

    Args:
        labels: `N`, int64, of the whole official training set.
        val_fraction: share of the validation part, between 0 and 1.
        split_seed: seed of the cut.
        classes: names of the classes, for messages.

    Returns:
        indices of the training part and of the validation part, int64, ascending, disjoint,
        together 0 .. N-1.

    Raises:
        InputError: `val_fraction` isn't between 0 and 1, or a part would lack a class.
    """
    if not 0 < val_fraction < 1:
        raise InputError(
            f"data.val_fraction is {val_fraction}; allowed: above 0 and below 1, such as 0.1"
        )
    validation = stratified_sample(
        labels, round(len(labels) * val_fraction), split_seed, "validation"
    )
    in_validation = torch.zeros(len(labels), dtype=torch.bool)
    in_validation[validation] = True
    available = torch.bincount(labels, minlength=len(classes)).tolist()
    for part, mask in (("training", ~in_validation), ("validation", in_validation)):
        counts = torch.bincount(labels[mask], minlength=len(classes)).tolist()
        if 0 in counts:
            c = counts.index(0)
            raise InputError(
                f"data.val_fraction is {val_fraction}: class {classes[c]!r}, which has "
                f"{available[c]} training images in all, would have none in the {part} part; "
                "allowed: a fraction that leaves every class at least one image in both parts"
            )
    return (~in_validation).nonzero().flatten(), validation


def choose_subset(
    labels: Tensor, total: int, split_seed: int, part: str, setting: str, num_classes: int
) -> Tensor:
    """Choose a stratified subset of the size that the configuration requests.

    The choice is a function of `labels`, `total`, `split_seed` and `part` only.

    Args:
        labels: `N`, int64, of the images to choose from.
        total: number of images.
        split_seed: seed of the choice.
        part: "train" or "test".
        setting: the configuration key, for messages.
        num_classes: smallest size allowed, one image per class.

    Returns:
        `total` indices into `labels`, int64, ascending.

    Raises:
        InputError: `total` is out of range.
    """
    if not num_classes <= total <= len(labels):
        raise InputError(
            f"{setting} is {total}; allowed: {num_classes} (one image per class) to {len(labels)} "
            f"(all images of the {part} part)"
        )
    return stratified_sample(labels, total, split_seed, part)


def validation_size(
    train_images: int, val_fraction: float, num_classes: int, available: int
) -> int:
    """Return the number of validation images for a training subset: in proportion to the full set.

    The number is at least one per class and at most `available`.
    """
    in_proportion = round(train_images * val_fraction / (1 - val_fraction))
    return min(max(in_proportion, num_classes), available)
