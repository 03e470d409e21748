"""Find images that occur more than once in the splits of a data set, equal in every pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement

from stitch_sweep.core.splits import SPLITS
from stitch_sweep.core.untrusted import printable
from stitch_sweep.data.images import Data, Images

_MAX_EXAMPLES = 2  # pairs of equal images that a message names

_Occurrence = tuple[int, int]  # number of an image in its split, label


@dataclass(frozen=True)
class Duplicates:
    """Images of one split that occur earlier in it, or in another split.

    Attributes:
        split: the split whose images are counted.
        origin: the split in which the same pixels occur; equal to `split` for repetitions within it.
        count: number of images of `split` that are not the first with their pixels (within a split),
            or whose pixels occur in `origin`.
        relabeled: number of these images with a different label: within a split, different from the label
            of the first image with these pixels; between splits, different from all labels of these
            pixels in `origin`.
        examples: pairs (image of `split`, image of `origin`), by file name or number; pairs with
            different labels come first.
    """

    split: str
    origin: str
    count: int
    relabeled: int
    examples: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Describe the duplicates in one sentence."""
        is_within = self.split == self.origin
        relation = "repeat an earlier image" if is_within else f"are {self.origin} images too"
        labels = f", {self.relabeled} of them with another label" if self.relabeled else ""
        pairs = "; ".join(f"{image} = {original}" for image, original in self.examples)
        return (
            f"{self.split} images that {relation}, pixel for pixel: {self.count}{labels} ({pairs})"
        )


def find_duplicates(data: Data) -> list[Duplicates]:
    """Count images with equal pixels, within each split and between every two splits.

    Images are compared in the form that networks receive: decoded and resized. Only
    images of the drawn subsets count.

    Returns:
        one entry for each split or two splits with duplicates, in the order train, validation, test.
    """
    occurrences = {split: _group_by_content(getattr(data, split)) for split in SPLITS}
    duplicates = []
    for origin, split in combinations_with_replacement(SPLITS, 2):
        pairs = list(
            _pairs_within(occurrences[split])
            if split == origin
            else _pairs_between(occurrences[split], occurrences[origin])
        )
        if not pairs:
            continue
        pairs.sort(key=lambda pair: not pair[2])
        examples = [
            (_name(data, split, image), _name(data, origin, original))
            for image, original, _ in pairs[:_MAX_EXAMPLES]
        ]
        relabeled = sum(is_relabeled for _, _, is_relabeled in pairs)
        duplicates.append(Duplicates(split, origin, len(pairs), relabeled, tuple(examples)))
    return duplicates


def _group_by_content(images: Images) -> dict[bytes, list[_Occurrence]]:
    """Map the hash of an image's pixels to the number and label of every image with these pixels."""
    pixels = images.images.cpu().contiguous().flatten(1).numpy()
    groups: dict[bytes, list[_Occurrence]] = {}
    for number, (row, label) in enumerate(zip(pixels, images.labels.tolist(), strict=True)):
        groups.setdefault(hashlib.sha256(row).digest(), []).append((number, label))
    return groups


def _pairs_within(groups: dict[bytes, list[_Occurrence]]) -> Iterable[tuple[int, int, bool]]:
    """Iterate over (image, first image with its pixels, whether their labels differ)."""
    for (first, first_label), *repetitions in groups.values():
        for number, label in repetitions:
            yield number, first, label != first_label


def _pairs_between(
    groups: dict[bytes, list[_Occurrence]], origin: dict[bytes, list[_Occurrence]]
) -> Iterable[tuple[int, int, bool]]:
    """Iterate over (image, image of `origin` with equal pixels, whether no such image has its label)."""
    for content in filter(origin.__contains__, groups):  # keeps the order of `groups`
        labels = {label for _, label in origin[content]}
        for number, label in groups[content]:
            yield number, origin[content][0][0], label not in labels


def _name(data: Data, split: str, number: int) -> str:
    files = getattr(data, split).files
    return f"{split} image {number}" if files is None else printable(files[number])
