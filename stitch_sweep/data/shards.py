"""The parquet files of a data set: which split each belongs to, and whether all of them are there."""

from __future__ import annotations

import filecmp
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.patterns import find
from stitch_sweep.core.untrusted import printable
from stitch_sweep.data.scanning import SPLITS, explain_unusable, listed

MOST_MATCHES = 10_000
"""Files and folders that a pattern may match."""

# `train-00000-of-00002.parquet`; older files of the hub have a hash before the suffix.
_OF = re.compile(r"(?P<stem>.*?)(?P<index>\d+)-of-(?P<total>\d+)(-[0-9a-f]+)?")
_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<index>\d+)")


@dataclass
class Shards:
    """The parquet files of a data set.

    Attributes:
        files: of each split, sorted by path.
        others: files and folders that belong to no split, sorted by path.
        part_of_split: folders that hold the first part of a split only.
    """

    files: dict[str, list[Path]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    others: list[Path] = field(default_factory=list)
    part_of_split: list[Path] = field(default_factory=list)


def find_shards(path: str, where: str) -> Shards:
    """The files `train*.parquet` and `test*.parquet`, or `train/0000.parquet` and `test/0000.parquet`.

    Args:
        path: a folder, or a pattern that matches folders or files.
        where: the data set and its path, for messages.

    Raises:
        InputError: nothing matches, or too much; a split has no file; files of a split are missing,
            are there twice, or don't belong together.
    """
    expanded = Path(path).expanduser()
    if expanded.exists():
        matches = [expanded]
    else:
        try:
            matches = list(itertools.islice(find(expanded), MOST_MATCHES + 1))
        except InputError as error:
            raise InputError(*(f"{where}: {problem}" for problem in error.problems)) from None
        if len(matches) > MOST_MATCHES:
            raise InputError(f"{where} matches more than {MOST_MATCHES:,} files and folders")
    try:
        # Without repetitions: a pattern may match a folder and the files in it.
        listing = sorted(set(itertools.chain.from_iterable(map(_contents, matches))))
    except OSError as error:
        raise InputError(f"{where}: {error.filename} cannot be read ({error.strerror})") from None
    if not listing:
        raise InputError(f"{where} does not exist, is empty or matches nothing")
    shards = _sorted_out(listing)
    for split, files in shards.files.items():
        partial = [folder for folder in shards.part_of_split if folder.name == f"partial-{split}"]
        if partial and not files:
            raise InputError(
                f"{where}: {partial[0].name} holds the first part of the {split} split only, as the hub "
                "converts no more of a large data set; download the original files"
            )
        if not files:
            raise InputError(
                f"{where}: no file is named {split}*.parquet or {split}/0000.parquet; found: "
                + listed(sorted({entry.name for entry in listing}), 10)
            )
    problems = [
        f"{printable(file)} {reason}"
        for file in itertools.chain.from_iterable(shards.files.values())
        if (reason := explain_unusable(file))
    ]
    if problems:
        raise InputError(*problems)
    for files in shards.files.values():
        problems += [f"{where}: {problem}" for problem in _incomplete(files)]
        problems += [
            f"{where}: {one.name} and {other.name} have the same content; remove one"
            for one, other in _equal(files)
        ]
    if problems:
        raise InputError(*problems)
    return shards


def _contents(match: Path) -> Iterator[Path]:
    """A matched file; or what is in a matched folder, and in its folders `train` and `test`."""
    if not match.is_dir():
        yield match
        return
    for entry in match.iterdir():
        yield entry
        if entry.name in SPLITS and entry.is_dir():
            yield from entry.iterdir()


def _sorted_out(listing: Iterable[Path]) -> Shards:
    shards = Shards()
    for entry in listing:
        if entry.name.startswith("."):
            continue
        parent = entry.parent.name
        if entry.suffix != ".parquet":
            if entry.name.startswith("partial-"):
                shards.part_of_split.append(entry)
            elif entry.name not in SPLITS and entry.is_dir() and any(entry.glob("*.parquet")):
                shards.others.append(entry)
        elif parent.startswith("partial-"):
            if entry.parent not in shards.part_of_split:
                shards.part_of_split.append(entry.parent)
        elif parent in SPLITS and (entry.name.startswith(parent) or entry.stem.isdecimal()):
            shards.files[parent].append(entry)
        elif (split := next(filter(entry.name.startswith, SPLITS), None)) is not None:
            shards.files[split].append(entry)
        else:
            shards.others.append(entry)
    return shards


def _incomplete(files: list[Path]) -> Iterator[str]:
    """What is wrong with the numbers in the names of a split's files."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        folders[file.parent].append(file)
    for folder in folders.values():
        numbered = {file: match for file in folder if (match := _OF.fullmatch(file.stem))}
        strangers = [file.name for file in folder if file not in numbered]
        if numbered and strangers:
            names = [file.name for file in numbered]
            yield f"{listed(strangers)} beside {listed(names)}; keep either, in a folder of its own"
        elif numbered:
            yield from _incomplete_series(numbered)
        else:
            yield from _gaps({f: m for f in folder if (m := _NUMBERED.fullmatch(f.stem))})


def _incomplete_series(numbered: dict[Path, re.Match[str]]) -> Iterator[str]:
    """Problems of files `train-00000-of-00002.parquet` of one folder."""
    series: dict[str, list[re.Match[str]]] = defaultdict(list)
    for match in numbered.values():
        series[match["stem"]].append(match)
    for stem, members in series.items():
        totals = {int(match["total"]): f"{match.string}.parquet" for match in members}
        if len(totals) > 1:
            yield f"{listed(totals.values())} belong to different sets of files; keep one set"
            continue
        (total,) = totals
        names: dict[int, list[str]] = defaultdict(list)
        for match in members:
            names[int(match["index"])].append(f"{match.string}.parquet")
        for repeated in names.values():
            if len(repeated) > 1:
                yield f"{listed(repeated)} have the same number; keep one"
        if (last := max(names)) >= total:
            yield f"{names[last][0]}: the number is too high; files are counted from 0"
        elif count := total - len(names):
            absent = (k for k in range(total) if k not in names)
            width, written = len(members[0]["index"]), members[0]["total"]
            missing = [
                f"{stem}{k:0{width}}-of-{written}.parquet" for k in itertools.islice(absent, 5)
            ]
            more = " and more" if count > len(missing) else ""
            yield f"{count} of {total} files are missing: {', '.join(missing)}{more}"


def _gaps(numbered: dict[Path, re.Match[str]]) -> Iterator[str]:
    """Problems of files `train-0.parquet` or `train/0000.parquet` of one folder."""
    series: dict[str, dict[int, Path]] = defaultdict(dict)
    for file, match in numbered.items():
        series[match["stem"]][int(match["index"])] = file
    for stem, members in series.items():
        first, last = min(members), max(members)
        if stem and first > 1:
            continue  # years, say: not numbers of files
        start = first if stem else 0  # the hub counts from 0
        if count := last - start + 1 - len(members):
            absent = (k for k in itertools.count(start) if k not in members)
            width = len(members[last].stem) - len(stem)
            names = [f"{stem}{k:0{width}}.parquet" for k in itertools.islice(absent, min(count, 3))]
            more = " and more" if count > len(names) else ""
            yield f"files before {members[last].name} are missing: {', '.join(names)}{more}"


def _equal(files: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Pairs of files with the same bytes."""
    sizes: dict[int, list[Path]] = defaultdict(list)
    for file in files:
        sizes[file.stat().st_size].append(file)
    for same_size in sizes.values():
        for one, other in itertools.pairwise(same_size):
            if filecmp.cmp(one, other, shallow=False):
                yield one, other
