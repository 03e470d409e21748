"""Images and labels that were read from the files of a data set, put together into a `Source`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.decoding import decode, stack_splits
from stitch_sweep.data.images import Images
from stitch_sweep.data.names import join_names, normalize_name
from stitch_sweep.data.sources.base import Source


@dataclass(frozen=True, eq=False)
class Shard:
    """The content of one file.

    Attributes:
        file: the file.
        columns: names of the image and the label column, or of the kinds of files in an archive.
        encoded: an encoded image per row.
        labels: int64, a label per row.
        classes: class names in the file's metadata; None if it has none.
        rows: a name of each row for messages; None for its number.
    """

    file: Path
    columns: tuple[str, str]
    encoded: list[bytes]
    labels: Tensor
    classes: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None

    def place(self, row: int) -> str:
        """Return file and row for a message."""
        return f"{self.file}, {f'row {row}' if self.rows is None else self.rows[row]}"


def assemble(
    splits: Mapping[str, Sequence[Shard]],
    image_size: int | None,
    data_set: str,
    further_notes: Iterable[str] = (),
) -> Source:
    """Decode the images of all files, and check that their labels and class names agree.

    Args:
        splits: the files of `train` and `test`.
        image_size: see `decoding.resize`.
        data_set: the data set and its path, for messages.
        further_notes: notes on the files.

    Raises:
        InputError: a split has no rows; files have different columns or class names; an image can't be
            read; or labels have gaps or no class name.
    """
    for split, shards in splits.items():
        if not any(len(shard.labels) for shard in shards):
            raise InputError(f"{data_set}: the {split} files have no rows")
    all_shards = [shard for shards in splits.values() for shard in shards]
    classes, notes = _agree_on_classes(all_shards, data_set)
    labels = {split: torch.cat([s.labels for s in shards]) for split, shards in splits.items()}
    if classes is None:
        _check_labels(splits["train"], None)
        values = labels["train"].unique().tolist()
        if values != list(range(len(values))):
            raise InputError(
                f"{data_set}: training labels are {len(values)} values from {values[0]} to "
                f"{values[-1]}; allowed without class names: 0 to {len(values) - 1}, without gaps"
            )
        classes = tuple(map(str, values))
    _check_labels(all_shards, len(classes))
    decoded = {split: _decode_shards(shards, image_size) for split, shards in splits.items()}
    made = {
        split: Images(images, labels[split])
        for split, images in stack_splits(decoded, data_set).items()
    }
    return Source(made["train"], made["test"], classes, (*notes, *further_notes))


def _decode_shards(shards: Sequence[Shard], image_size: int | None) -> list[Tensor]:
    rows = [
        (shard.place(row), content) for shard in shards for row, content in enumerate(shard.encoded)
    ]
    return decode(rows, image_size)


def _agree_on_classes(
    shards: Sequence[Shard], data_set: str
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return the class names of all files (None if no file has any), and notes on their spelling.

    Raises:
        InputError: files have different columns or class names.
    """
    first, problems = shards[0], []
    named = next((shard for shard in shards if shard.classes is not None), first)
    respelled = []
    for shard in shards[1:]:
        if shard.columns != first.columns:
            problems.append(
                f"{shard.file} has its images and labels in the columns "
                f"{' and '.join(shard.columns)}, {first.file} in {' and '.join(first.columns)}; set "
                "image_column and label_column to columns that are in all files"
            )
        if shard.classes is None or named.classes is None or shard.classes == named.classes:
            continue
        if list(map(normalize_name, shard.classes)) == list(map(normalize_name, named.classes)):
            respelled.append(shard.file.name)
        else:
            problems.append(_explain_difference(shard, named))
    if problems:
        raise InputError(*problems)
    notes = []
    if respelled:
        notes.append(
            f"{data_set}: class names of {join_names(respelled)} are those of {named.file.name} in "
            "another Unicode form (NFC or NFD); both are read as the same classes"
        )
    return named.classes, notes


def _explain_difference(shard: Shard, reference: Shard) -> str:
    """Describe how the class names of a file differ from those of another file."""
    names, expected = shard.classes or (), reference.classes or ()
    remedy = "a label would mean different classes in the two files; write both with the same names"
    if len(names) != len(expected):
        return (
            f"{shard.file} has {len(names)} class names, {reference.file} has {len(expected)}; "
            f"{remedy}"
        )
    label = next(
        k for k, pair in enumerate(zip(names, expected, strict=True)) if len(set(pair)) > 1
    )
    return (
        f"{shard.file}: label {label} is class {names[label]!r}, in {reference.file} it is "
        f"{expected[label]!r}; {remedy}"
    )


def _check_labels(shards: Iterable[Shard], num_classes: int | None) -> None:
    """Check that every label belongs to a class.

    Args:
        shards: the files.
        num_classes: None if the number isn't known yet; only negative labels are refused then.

    Raises:
        InputError: with the first wrong label of each file.
    """
    problems = []
    for shard in shards:
        invalid = shard.labels < 0
        if num_classes is not None:
            invalid |= shard.labels >= num_classes
        if not invalid.any():
            continue
        row = int(invalid.nonzero()[0])
        label = int(shard.labels[row])
        allowed = "0 and more" if num_classes is None else f"0 to {num_classes - 1}"
        hint = "; -1 stands for a hidden label: use a file with labels" if label == -1 else ""
        problems.append(f"{shard.place(row)}: label {label}; allowed: {allowed}{hint}")
    if problems:
        raise InputError(*problems)
