"""Find the parquet files or tars of a data set, sort them into splits, and check that none is missing."""

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
from stitch_sweep.data.names import explain_unusable, join_names
from stitch_sweep.data.sources.base import OFFICIAL_SPLITS

MAX_MATCHES = 10_000
"""Largest number of files and folders that a pattern may match."""

# `train-00000-of-00002.parquet`; older files of the hub have a hash before the suffix.
_NUMBER_OF_TOTAL = re.compile(r"(?P<stem>.*?)(?P<index>\d+)-of-(?P<total>\d+)(-[0-9a-f]+)?")
_BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|[^{},]*(?:,[^{},]*)+)\}")
_NUMBER = re.compile(r"(?P<stem>.*?)(?P<index>\d+)")


@dataclass
class ShardFiles:
    """The files of a data set, each with a part of the images.

    Attributes:
        splits: files of each official split, sorted by path.
        others: files and folders that belong to no split, sorted by path.
        partial_folders: folders that contain only the first part of a split.
    """

    splits: dict[str, list[Path]] = field(
        default_factory=lambda: {split: [] for split in OFFICIAL_SPLITS}
    )
    others: list[Path] = field(default_factory=list)
    partial_folders: list[Path] = field(default_factory=list)

    def notes(self, data_set: str) -> list[str]:
        """Return a note on the files that are skipped, if there are any."""
        skipped = [*self.others, *self.partial_folders]
        if not skipped:
            return []
        return [
            f"{data_set}: files and folders that are neither train nor test are skipped: "
            f"{join_names(entry.name for entry in skipped)}; validation images are cut from the "
            "training images (data.val_fraction)"
        ]


def find_shard_files(path: str, suffix: str, data_set: str) -> ShardFiles:
    """Find `train*.parquet` and `test*.parquet`, or `train/0000.parquet` and `test/0000.parquet`.

    Args:
        path: a folder, or a pattern that matches folders or files. `{000..009}` and `{train,test}` stand
            for each of their values.
        suffix: of the files, such as `.parquet`.
        data_set: the data set and its path, for messages.

    Raises:
        InputError: no file matches, or too many match; a split has no file; or files of a split are
            missing, repeated, or don't belong together.
    """
    entries = _list_matches(path, data_set)
    files = _sort_into_splits(entries, suffix)
    for split, split_files in files.splits.items():
        partial = [folder for folder in files.partial_folders if folder.name == f"partial-{split}"]
        if partial and not split_files:
            raise InputError(
                f"{data_set}: {partial[0].name} contains only the first part of the {split} split, "
                "because the hub converts only a part of a large data set; download the original files"
            )
        if not split_files:
            raise InputError(
                f"{data_set}: no file is named {split}*{suffix} or {split}/0000{suffix}; found: "
                + join_names(sorted({entry.name for entry in entries}), 10)
            )
    problems = [
        f"{printable(file)} {reason}"
        for file in itertools.chain.from_iterable(files.splits.values())
        if (reason := explain_unusable(file))
    ]
    if problems:
        raise InputError(*problems)
    for split_files in files.splits.values():
        problems += [
            f"{data_set}: {problem}" for problem in _numbering_problems(split_files, suffix)
        ]
        problems += [
            f"{data_set}: {first.name} and {second.name} have the same content; remove one"
            for first, second in _equal_pairs(split_files)
        ]
    if problems:
        raise InputError(*problems)
    return files


def expand_braces(pattern: str) -> list[str]:
    """Return the paths that a pattern with braces stands for.

    Example:
        >>> expand_braces("{train,test}-{08..10}.tar")[:4]
        ['train-08.tar', 'train-09.tar', 'train-10.tar', 'test-08.tar']

    Raises:
        InputError: they are more than `MAX_MATCHES`.
    """
    paths, end = [""], 0
    for match in _BRACES.finditer(pattern):
        if match["first"] is None:
            values = match[0][1:-1].split(",")
        else:
            first, last, width = int(match["first"]), int(match["last"]), len(match["first"])
            numbers = range(first, min(last, first + MAX_MATCHES) + 1)
            values = [f"{k:0{width}}" for k in numbers]
        if len(paths) * len(values) > MAX_MATCHES:
            raise InputError(f"{printable(pattern)} stands for more than {MAX_MATCHES:,} paths")
        between = pattern[end : match.start()]
        paths = [f"{path}{between}{value}" for path in paths for value in values]
        end = match.end()
    return [f"{path}{pattern[end:]}" for path in paths]


def _list_matches(path: str, data_set: str) -> list[Path]:
    """List the matched files, and the content of the matched folders, without repetitions."""
    expanded = Path(path).expanduser()
    matches: list[Path] = []
    for pattern in [path] if expanded.exists() else expand_braces(path):
        matches += _find_pattern(Path(pattern).expanduser(), path, data_set)
    if len(matches) > MAX_MATCHES:
        raise InputError(f"{data_set} matches more than {MAX_MATCHES:,} files and folders")
    try:
        # A pattern may match a folder and the files in it; a set keeps each file once.
        entries = sorted(set(itertools.chain.from_iterable(map(_list_match, matches))))
    except OSError as error:
        raise InputError(
            f"{data_set}: {error.filename} cannot be read ({error.strerror})"
        ) from None
    if not entries:
        raise InputError(f"{data_set} does not exist, is empty or matches nothing")
    return entries


def _find_pattern(pattern: Path, path: str, data_set: str) -> list[Path]:
    """Find what one pattern matches. What braces stand for must exist."""
    if pattern.exists():
        return [pattern]
    try:
        matches = list(itertools.islice(find(pattern), MAX_MATCHES + 1))
    except InputError as error:
        raise InputError(*(f"{data_set}: {problem}" for problem in error.problems)) from None
    if not matches and pattern != Path(path).expanduser():
        raise InputError(f"{data_set}: {printable(pattern)} does not exist or matches nothing")
    return matches


def _list_match(match: Path) -> Iterator[Path]:
    """List a matched file; or the content of a matched folder and of its folders `train` and `test`."""
    if not match.is_dir():
        yield match
        return
    for entry in match.iterdir():
        yield entry
        if entry.name in OFFICIAL_SPLITS and entry.is_dir():
            yield from entry.iterdir()


def _sort_into_splits(entries: Iterable[Path], suffix: str) -> ShardFiles:
    files = ShardFiles()
    for entry in entries:
        if entry.name.startswith("."):
            continue
        parent = entry.parent.name
        if entry.suffix != suffix:
            if entry.name.startswith("partial-"):
                files.partial_folders.append(entry)
            elif (
                entry.name not in OFFICIAL_SPLITS
                and entry.is_dir()
                and any(entry.glob(f"*{suffix}"))
            ):
                files.others.append(entry)
        elif parent.startswith("partial-"):
            if entry.parent not in files.partial_folders:
                files.partial_folders.append(entry.parent)
        elif parent in OFFICIAL_SPLITS and (
            entry.name.startswith(parent) or entry.stem.isdecimal()
        ):
            files.splits[parent].append(entry)
        elif (split := next(filter(entry.name.startswith, OFFICIAL_SPLITS), None)) is not None:
            files.splits[split].append(entry)
        else:
            files.others.append(entry)
    return files


def _numbering_problems(files: list[Path], suffix: str) -> Iterator[str]:
    """Iterate over problems with the numbers in the names of a split's files."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        folders[file.parent].append(file)
    for folder in folders.values():
        numbered = {
            file: match for file in folder if (match := _NUMBER_OF_TOTAL.fullmatch(file.stem))
        }
        unnumbered = [file.name for file in folder if file not in numbered]
        if numbered and unnumbered:
            names = [file.name for file in numbered]
            yield (
                f"{join_names(unnumbered)} beside {join_names(names)}; keep one of the two sets, in a "
                "separate folder"
            )
        elif numbered:
            yield from _series_problems(numbered, suffix)
        else:
            yield from _gap_problems(
                {f: m for f in folder if (m := _NUMBER.fullmatch(f.stem))}, suffix
            )


def _series_problems(numbered: dict[Path, re.Match[str]], suffix: str) -> Iterator[str]:
    """Iterate over problems of one folder's files `train-00000-of-00002.parquet`."""
    series: dict[str, list[re.Match[str]]] = defaultdict(list)
    for match in numbered.values():
        series[match["stem"]].append(match)
    for stem, members in series.items():
        totals = {int(match["total"]): f"{match.string}{suffix}" for match in members}
        if len(totals) > 1:
            yield f"{join_names(totals.values())} belong to different sets of files; keep one set"
            continue
        (total,) = totals
        names: dict[int, list[str]] = defaultdict(list)
        for match in members:
            names[int(match["index"])].append(f"{match.string}{suffix}")
        for repeated in names.values():
            if len(repeated) > 1:
                yield f"{join_names(repeated)} have the same number; keep one"
        if (last := max(names)) >= total:
            yield f"{names[last][0]}: the number is too high; files are counted from 0"
        elif count := total - len(names):
            absent = (k for k in range(total) if k not in names)
            width, written_total = len(members[0]["index"]), members[0]["total"]
            missing = [
                f"{stem}{k:0{width}}-of-{written_total}{suffix}"
                for k in itertools.islice(absent, 5)
            ]
            others = " and more" if count > len(missing) else ""
            yield f"{count} of {total} files are missing: {', '.join(missing)}{others}"


def _gap_problems(numbered: dict[Path, re.Match[str]], suffix: str) -> Iterator[str]:
    """Iterate over problems of one folder's files `train-0.parquet` or `train/0000.parquet`."""
    series: dict[str, dict[int, Path]] = defaultdict(dict)
    for file, match in numbered.items():
        series[match["stem"]][int(match["index"])] = file
    for stem, members in series.items():
        first, last = min(members), max(members)
        if stem and first > 1:
            continue  # the numbers don't count files; they may be years
        start = first if stem else 0  # the hub counts from 0
        if count := last - start + 1 - len(members):
            absent = (k for k in itertools.count(start) if k not in members)
            width = len(members[last].stem) - len(stem)
            missing = [
                f"{stem}{k:0{width}}{suffix}" for k in itertools.islice(absent, min(count, 3))
            ]
            others = " and more" if count > len(missing) else ""
            yield f"files before {members[last].name} are missing: {', '.join(missing)}{others}"


def _equal_pairs(files: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Iterate over pairs of files with the same bytes."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in files:
        by_size[file.stat().st_size].append(file)
    for same_size in by_size.values():
        for first, second in itertools.pairwise(same_size):
            if filecmp.cmp(first, second, shallow=False):
                yield first, second
