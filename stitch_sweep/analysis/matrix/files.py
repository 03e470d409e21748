"""Write matrices to CSV files and read them back."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import pandas as pd

from stitch_sweep.analysis.matrix.matrix import GAP_AXES, Matrix
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import show
from stitch_sweep.core.untrusted import MIB, UnreadableFileError, read_file
from stitch_sweep.storage.files import write_atomically

CORNER = "sender_layer\\receiver_layer"
"""The top left cell of a matrix whose first row and column contain layer indices."""
LARGEST_FILE = 4 * MIB
"""Bytes of the largest CSV file that is read as a matrix: 400 by 400 cells with every digit."""


def write_matrix(matrix: Matrix, folder: str | Path) -> Path:
    """Write a matrix's values atomically as `<file_name>.csv`.

    The first row contains the receiver layers, the first column the sender layers; in a gap matrix
    they contain the number of removed layers and the first removed layer. Values have every digit, so
    `read_matrix` returns the same numbers. A missing or failed cell is empty.

    Returns:
        The file's path.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    corner = "\\".join(GAP_AXES) if matrix.kind == "knock-out" else CORNER
    writer.writerow([corner, *matrix.values.columns])
    for layer, row in zip(matrix.values.index, matrix.values.to_numpy(), strict=True):
        writer.writerow([layer, *("" if math.isnan(v) else repr(float(v)) for v in row)])
    path = Path(folder) / f"{matrix.file_name}.csv"
    write_atomically(path, lines.getvalue().encode())
    return path


def read_matrix(path: str | Path) -> pd.DataFrame:
    """Read a matrix from a CSV file, with or without layer indices.

    Args:
        path: a file that `write_matrix` wrote, or comma-separated numbers alone, whose rows and
            columns are then numbered from 0. An empty cell or `nan` is a missing value.

    Returns:
        Floats of shape (I, J), indexed by sender layer with receiver layers as columns.

    Raises:
        InputError: the file is missing, larger than `LARGEST_FILE`, empty, not text, ragged or not
            numeric (the message names the line); or its first row or column is ambiguous: it may
            contain layer indices or values.

    Example:
        >>> read_matrix("shared/reference/r1111_r1111.csv").loc[4, 0]  # doctest: +SKIP
        0.92
    """
    path = Path(path)
    try:
        text = read_file(path, LARGEST_FILE).decode("utf-8-sig")
        lines = [
            (number, [cell.strip() for cell in line])
            for number, line in enumerate(csv.reader(io.StringIO(text), strict=True), start=1)
            if line
        ]
    except FileNotFoundError:
        raise InputError(f"{path}: not a readable CSV file (there is no such file)") from None
    except (UnreadableFileError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{path}: not a readable CSV file ({reason})") from error
    if not lines:
        raise InputError(f"{path}: it is empty; expected a matrix of numbers")
    width = len(lines[0][1])
    for number, line in lines:
        if len(line) != width:
            raise InputError(
                f"{path}, line {number}: {len(line)} cells, where the first row has {width}"
            )
    corner = lines[0][1][0]
    if not corner:
        # Otherwise a layer index could be read as a value, or a value as a layer index.
        raise InputError(
            f"{path}: the top left cell is empty; write {CORNER} there if the first row and column "
            "contain layer indices, nan if it is a missing value"
        )
    if corner == CORNER:
        columns = [_layer(path, lines[0][0], cell) for cell in lines[0][1][1:]]
        rows = [_layer(path, number, line[0]) for number, line in lines[1:]]
        lines = [(number, line[1:]) for number, line in lines[1:]]
        if not rows or not columns:
            raise InputError(f"{path}: it contains layer indices and no values")
        if len(set(rows)) < len(rows) or len(set(columns)) < len(columns):
            raise InputError(f"{path}: a layer index occurs twice")
    else:
        _check_unambiguous(path, [line for _, line in lines])
        rows, columns = list(range(len(lines))), list(range(width))
    return pd.DataFrame(
        [[_value(path, number, cell) for cell in line] for number, line in lines],
        index=pd.Index(rows, name="sender_layer"),
        columns=pd.Index(columns, name="receiver_layer"),
        dtype="float64",
    )


def _check_unambiguous(path: Path, lines: list[list[str]]) -> None:
    """Check that neither the first row nor the first column looks like layer indices.

    Raises:
        InputError: the first row or column does: `0,1` may be two layers or two accuracies.
    """
    columns = [list(column) for column in zip(*lines, strict=True)]
    for name, (first, *rest) in (("row", lines), ("column", columns)):
        if _is_count(first) and any(not _is_count([cell]) for cells in rest for cell in cells):
            listed = f"{', '.join(first[:3])}{', ...' if len(first) > 3 else ''}"
            values = ", ".join(f"{cell}.0" for cell in first[:3])
            raise InputError(
                f"{path}: the first {name} is {listed}, which may be layer indices or values. If they "
                f"are indices, remove that {name}, or give both rows and columns indices with "
                f"{CORNER} at the top left; if they are values, write {values}"
            )


def _is_count(cells: list[str]) -> bool:
    """Whether cells are consecutive integers from -1, 0 or 1, written as layer indices are."""
    return any(cells == [str(start + k) for k in range(len(cells))] for start in (-1, 0, 1))


def _layer(path: Path, line: int, text: str) -> int:
    if not re.fullmatch(r"-1|\d{1,9}", text, re.ASCII):
        raise InputError(f"{path}, line {line}: {show(text)} is not a layer index (-1, 0, 1, ...)")
    return int(text)


def _value(path: Path, line: int, text: str) -> float:
    if text == "":
        return math.nan
    try:
        # Python's float also accepts 1_0 and the digits of every script.
        value = float(text) if re.fullmatch(r"[0-9+\-.eE]+|nan", text, re.IGNORECASE) else math.inf
    except ValueError:
        value = math.inf
    if math.isinf(value):
        other = ";" in text or "\t" in text or " " in text
        hint = "; commas separate cells, and decimals have a point" if other else ""
        raise InputError(f"{path}, line {line}: {show(text)} is not a finite number{hint}")
    return value
