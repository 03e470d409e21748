"""Images that occur more than once in the splits of a data set, equal in every pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement

from stitch_sweep.core.untrusted import printable
from stitch_sweep.data.images import SPLITS, Data, Images

EXAMPLES = 2
"""Pairs of equal images that are named."""

_Place = tuple[int, int]  # number in the split, label


@dataclass(frozen=True)
class Duplicates:
    """Images of one split that occur earlier in it, or in another split.

    Attributes:
        split: the split whose images are counted.
        origin: the split in which the same pixels occur; equal to `split` for repetitions within it.
        count: number of images of `split` that are not the first with their pixels (within a split),
            or whose pixels occur in `origin`.
        relabeled: number of those whose label is not among the labels that their pixels have in
            `origin` (within a split: differs from the first one's).
        examples: pairs (image of `split`, image of `origin`), by file name or number; those with
            another label first.
    """

    split: str
    origin: str
    count: int
    relabeled: int
    examples: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """One sentence."""
        within = self.split == self.origin
        what = "repeat an earlier one" if within else f"are {self.origin} images too"
        labels = f", {self.relabeled} of them with another label" if self.relabeled else ""
        named = "; ".join(f"{one} = {other}" for one, other in self.examples)
        return f"{self.split} images that {what}, pixel for pixel: {self.count}{labels} ({named})"


def find_duplicates(data: Data) -> list[Duplicates]:
    """Count images with equal pixels, within each split and between every two.

    Images are compared as networks get them: decoded, resized and cut down to the subsets.

    Returns:
        one entry for each split or two splits with duplicates, in the order train, validation, test.
    """
    places = {split: _by_content(getattr(data, split)) for split in SPLITS}
    found = []
    for origin, split in combinations_with_replacement(SPLITS, 2):
        pairs = (
            _within(places[split]) if split == origin else _between(places[split], places[origin])
        )
        pairs = list(pairs)
        if not pairs:
            continue
        pairs.sort(key=lambda pair: not pair[2])
        names = [
            (_name(data, split, one), _name(data, origin, other))
            for one, other, _ in pairs[:EXAMPLES]
        ]
        relabeled = sum(differs for _, _, differs in pairs)
        found.append(Duplicates(split, origin, len(pairs), relabeled, tuple(names)))
    return found


def _by_content(images: Images) -> dict[bytes, list[_Place]]:
    """The number and label of every image, by a hash of its pixels."""
    pixels = images.images.cpu().contiguous().flatten(1).numpy()
    found: dict[bytes, list[_Place]] = {}
    for number, (row, label) in enumerate(zip(pixels, images.labels.tolist(), strict=True)):
        found.setdefault(hashlib.sha256(row).digest(), []).append((number, label))
    return found


def _within(split: dict[bytes, list[_Place]]) -> Iterable[tuple[int, int, bool]]:
    """(image, first image with its pixels, whether their labels differ)."""
    for (first, label), *others in split.values():
        for number, other in others:
            yield number, first, other != label


def _between(
    split: dict[bytes, list[_Place]], origin: dict[bytes, list[_Place]]
) -> Iterable[tuple[int, int, bool]]:
    """(image of `split`, an image of `origin` with its pixels, whether none there has its label)."""
    for content in filter(origin.__contains__, split):  # in a fixed order
        labels = {label for _, label in origin[content]}
        for number, label in split[content]:
            yield number, origin[content][0][0], label not in labels


def _name(data: Data, split: str, number: int) -> str:
    files = getattr(data, split).files
    return f"{split} image {number}" if files is None else printable(files[number])
