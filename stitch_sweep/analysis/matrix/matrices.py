"""Stitching matrices: from a table of trials, to CSV and back."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types

from stitch_sweep.analysis.results import CELL, FACTOR, PAIR, Mode, best_trials, factor_columns
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.problems import show
from stitch_sweep.core.untrusted import MIB, UnreadableFileError, read_file
from stitch_sweep.storage.files import write_atomically

HEADER = "sender_layer\\receiver_layer"
GAP = ("first_layer", "layers_removed")
"""What names the rows and columns of a gap matrix."""
LARGEST_FILE = 4 * MIB
"""Bytes of the largest CSV file that is read as a matrix: 400 by 400 cells with every digit."""
_LONGEST_NAME = 120


@dataclass(frozen=True, eq=False)
class Matrix:
    """One stitching matrix: I sender layers by J receiver layers, for one factor combination.

    All tables have shape (I, J), indexed by sender layer with receiver layers as columns, both
    ascending; -1 is the image, 0 the stem's output, k the output of the k-th block. The gap matrix of
    knocked-out layers (see `knock_out.gap_matrix`) has the first removed layer and the number of
    removed layers in their place.

    Attributes:
        sender: the sender's name.
        receiver: the receiver's name.
        factors: what was crossed: dotted config path -> value (None where it doesn't apply).
        value_name: the column that `values` holds.
        values: mean over repeats of the best trial's value; NaN where missing or failed.
        converged: False where a repeat's best trial didn't converge, else NA where that is
            unknown or nothing finished, else True.
        failed: True where trials ran and no repeat's finished with a value.
        finished: the number of repeats that each value is the mean of.
        sender_accuracy: the sender's own test accuracy in [0, 1], NaN if unknown.
        receiver_accuracy: the receiver's own test accuracy in [0, 1], NaN if unknown.
        repeats: how many repeats the matrix was run with.
    """

    sender: str
    receiver: str
    factors: dict[str, Any]
    value_name: str
    values: pd.DataFrame = field(repr=False)
    converged: pd.DataFrame = field(repr=False)
    failed: pd.DataFrame = field(repr=False)
    finished: pd.DataFrame = field(repr=False)
    sender_accuracy: float
    receiver_accuracy: float
    repeats: int

    @classmethod
    def bare(
        cls,
        values: pd.DataFrame,
        sender: str,
        receiver: str,
        *,
        factors: Mapping[str, Any] | None = None,
        value_name: str = "test_accuracy",
        sender_accuracy: float = math.nan,
        receiver_accuracy: float = math.nan,
    ) -> Matrix:
        """A matrix of which only the values are known, such as a published one.

        Args:
            values: shape (I, J), as `read_matrix` returns it; NaN where a cell is missing.
            sender: the sender's name.
            receiver: the receiver's name; the sender's for a network stitched to itself.
            factors: what to tell it apart by, as in `Matrix.factors`.
            value_name: what the values are.
            sender_accuracy: the sender's own test accuracy.
            receiver_accuracy: the receiver's own test accuracy.
        """
        unknown = values.map(lambda _: pd.NA).astype("boolean")
        return cls(
            sender=sender,
            receiver=receiver,
            factors=dict(factors or {}),
            value_name=value_name,
            values=values,
            converged=unknown,
            failed=pd.DataFrame(False, index=values.index, columns=values.columns),
            finished=values.notna().astype("int64"),
            sender_accuracy=sender_accuracy,
            receiver_accuracy=receiver_accuracy,
            repeats=1,
        )

    @property
    def kind(self) -> Literal["knock-out", "self-pair", "pair"]:
        """Say "knock-out" of a gap matrix, "self-pair" of one network with itself, else "pair"."""
        if list(self.values.axes[0].names) == [GAP[0]]:
            return "knock-out"
        return "self-pair" if self.sender == self.receiver else "pair"

    @property
    def axes(self) -> tuple[str, str]:
        """What rows and columns are, in two words each."""
        if self.kind == "knock-out":
            return "first layer", "layers removed"
        return "sender layer", "receiver layer"

    @property
    def missing(self) -> pd.DataFrame:
        """True where there is neither a value nor a failure: the cell has not been run."""
        return self.values.isna() & ~self.failed

    @property
    def unconverged(self) -> pd.DataFrame:
        """True where there is a value whose stitches are known not to have converged."""
        return ~self.converged.fillna(True).astype(bool) & self.values.notna()

    def without_image(self) -> Matrix:
        """The matrix without the row of the image, a control and no layer of the sender's.

        What is counted or averaged over a pair's cells is so over these.
        """
        if self.kind == "knock-out" or -1 not in self.values.index:
            return self
        tables = ("values", "converged", "failed", "finished")
        return replace(self, **{name: getattr(self, name).drop(index=-1) for name in tables})

    @property
    def value_label(self) -> str:
        """What the values are, in words."""
        return self.value_name.replace("_", " ")

    @property
    def factor_text(self) -> str:
        """The factor values in one line, empty when nothing was crossed."""
        return ", ".join(f"{name} = {_text(value)}" for name, value in sorted(self.factors.items()))

    @property
    def title(self) -> str:
        """Who is stitched to whom, whether that is one network, and under which factor values."""
        title = f"{self.sender} → {self.receiver} ({self.kind})"
        if self.kind == "knock-out":
            title = f"{self.sender}, layers knocked out"
        return f"{title}, {self.factor_text}" if self.factors else title

    @property
    def file_name(self) -> str:
        """A file name without suffix, of letters, digits, `.`, `_` and `-` only.

        Different names, factors or values give different file names. The readable part is
        followed by a hash where it alone could be read in two ways.
        """
        parts = [("", self.sender), ("", self.receiver)]
        if self.kind == "knock-out":
            parts.append(("", "knock-out"))
        if self.value_name != "test_accuracy":
            parts.append(("value", self.value_name))
        parts += sorted((name, _text(value)) for name, value in self.factors.items())
        written = "__".join(f"{name}-{value}" if name else value for name, value in parts)
        safe = re.sub(r"[^A-Za-z0-9._-]", "-", written)
        safe = re.sub(r"^\.+", "-", safe)
        # "__" divides the parts and the first "-" a factor from its value; anything that blurs
        # either, or a text that reads like a number, needs the hash to be told apart.
        unclear = (
            safe != written
            or len(safe) > _LONGEST_NAME
            or "value" in self.factors
            or any("-" in name or "__" in name or name[:1] == "_" for name, _ in parts)
            or any(not v or "__" in v or v[0] == "_" or v[-1] == "_" for _, v in parts)
            or any(isinstance(v, str) and _reads_as_other(v) for v in self.factors.values())
        )
        if not unclear:
            return safe
        identity = [self.sender, self.receiver, self.value_name, sorted(self.factors.items())]
        digest = hashlib.sha256(json.dumps(identity, default=repr).encode()).hexdigest()[:10]
        return f"{safe[:_LONGEST_NAME]}__{digest}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else repr(value)


def _reads_as_other(text: str) -> bool:
    if text in ("none", "True", "False"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plain(value: Any) -> Any:
    """A factor's value as plain Python, None for a missing one."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _known(column: pd.Series) -> float:
    known = column.dropna()
    return float(known.iloc[0]) if len(known) else math.nan


def matrices(
    results: pd.DataFrame,
    value: str = "test_accuracy",
    *,
    metric: str = "val_accuracy",
    mode: Mode = "max",
) -> list[Matrix]:
    """One matrix per sender, receiver and combination of factor values.

    A cell is the mean over repeats of `value` of the trial that `best_trials` chose. The matrices
    of one pair have the same layers: all that any of its trials used.

    Args:
        results: a row per trial, as `load_results` returns it.
        value: the numeric column to show.
        metric: the column that chooses trials.
        mode: whether "max" or "min" of it is best.

    Returns:
        The matrices, sorted by sender, receiver and factor values.

    Raises:
        InputError: no such column, or a metric that can't choose.

    Example:
        >>> matrices(load_results(folder))[0].values.loc[2, 3]  # doctest: +SKIP
        0.91
    """
    numeric = [str(name) for name in results.columns if types.is_numeric_dtype(results[name])]
    if value not in numeric:
        raise InputError(f"value {value!r} is not a numeric column; {nearest(value, numeric)}")
    best = best_trials(results, metric, mode)
    layers = {
        (str(sender), str(receiver)): [sorted({int(k) for k in cells[name]}) for name in CELL]
        for (sender, receiver), cells in best.groupby(PAIR)
    }
    return [
        _matrix(cells, value, pair=pair, factors=factors, layers=layers[pair])
        for pair, factors, cells in best_by_matrix(best)
    ]


def best_by_matrix(
    best: pd.DataFrame,
) -> list[tuple[tuple[str, str], dict[str, Any], pd.DataFrame]]:
    """Divide the best trials into the matrices they make: (sender, receiver), factors, trials."""
    columns = factor_columns(best)
    names = [name.removeprefix(FACTOR) for name in columns]
    return [
        ((str(key[0]), str(key[1])), dict(zip(names, map(_plain, key[2:]), strict=True)), cells)
        for key, cells in best.groupby([*PAIR, *columns], dropna=False)
    ]


def trials_of(results: pd.DataFrame, matrix: Matrix) -> pd.DataFrame:
    """The rows of a table of trials that belong to a matrix: its pair under its factor values."""
    rows = results[(results["sender"] == matrix.sender) & (results["receiver"] == matrix.receiver)]
    for path, value in matrix.factors.items():
        column = rows[f"{FACTOR}{path}"]
        rows = rows[column.isna() if value is None else column == value]
    return rows


def _matrix(
    best: pd.DataFrame,
    value: str,
    *,
    pair: tuple[str, str],
    factors: dict[str, Any],
    layers: list[list[int]],
) -> Matrix:
    rows, columns = (pd.Index(known, name=name) for known, name in zip(layers, CELL, strict=True))

    def table(cells: pd.Series) -> pd.DataFrame:
        return cells.unstack("receiver_layer").reindex(index=rows, columns=columns)

    done = best[best["status"] == "finished"].groupby(CELL)
    finished = table(done[value].count()).fillna(0).astype("int64")
    values = table(done[value].mean().astype("float64"))
    ran = table(best.groupby(CELL).size()).fillna(0) > 0
    # Kleene logic over the repeats: one False makes False, else one unknown makes unknown.
    converged = table(done["converged"].agg(lambda known: known.all(skipna=False)))
    return Matrix(
        sender=pair[0],
        receiver=pair[1],
        factors=factors,
        value_name=value,
        values=values.astype("float64"),
        converged=converged.astype("boolean"),
        failed=ran & (finished == 0),
        finished=finished,
        sender_accuracy=_known(best["sender_accuracy"]),
        receiver_accuracy=_known(best["receiver_accuracy"]),
        repeats=int(best["repeat"].nunique()),
    )


def write_matrix(matrix: Matrix, folder: str | Path) -> Path:
    """Write a matrix's values as `<file_name>.csv`, replacing an earlier one in one step.

    The first row holds the receiver layers, the first column the sender layers (of a gap matrix how many
    layers were removed, and the first of them); values have every
    digit, so that `read_matrix` returns the same numbers; a missing or failed cell is empty.

    Returns:
        The file's path.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    header = "\\".join(GAP) if matrix.kind == "knock-out" else HEADER
    writer.writerow([header, *matrix.values.columns])
    for layer, row in zip(matrix.values.index, matrix.values.to_numpy(), strict=True):
        writer.writerow([layer, *("" if math.isnan(v) else repr(float(v)) for v in row)])
    path = Path(folder) / f"{matrix.file_name}.csv"
    write_atomically(path, lines.getvalue().encode())
    return path


def read_matrix(path: str | Path) -> pd.DataFrame:
    """Read a matrix from CSV: one of ours, or a bare one from anywhere.

    Args:
        path: a file of `write_matrix`, or comma-separated numbers alone, whose rows and columns
            are then numbered from 0. An empty cell or `nan` is a missing value.

    Returns:
        Floats of shape (I, J), indexed by sender layer with receiver layers as columns.

    Raises:
        InputError: the file is missing, larger than `LARGEST_FILE`, empty, not text, ragged or not
            numeric, with the line; or its first row or column may be layer indices or values.

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
        # A layer index would pass for a value, or a value for a layer index.
        raise InputError(
            f"{path}: the top left cell is empty; write {HEADER} there if the first row and column "
            "hold layer indices, nan if it is a missing value"
        )
    if corner == HEADER:
        columns = [_layer(path, lines[0][0], cell) for cell in lines[0][1][1:]]
        rows = [_layer(path, number, line[0]) for number, line in lines[1:]]
        lines = [(number, line[1:]) for number, line in lines[1:]]
        if not rows or not columns:
            raise InputError(f"{path}: it holds layer indices and no values")
        if len(set(rows)) < len(rows) or len(set(columns)) < len(columns):
            raise InputError(f"{path}: a layer index occurs twice")
    else:
        _check_bare(path, [line for _, line in lines])
        rows, columns = list(range(len(lines))), list(range(width))
    return pd.DataFrame(
        [[_value(path, number, cell) for cell in line] for number, line in lines],
        index=pd.Index(rows, name="sender_layer"),
        columns=pd.Index(columns, name="receiver_layer"),
        dtype="float64",
    )


def _check_bare(path: Path, lines: list[list[str]]) -> None:
    """See that neither the first row nor the first column looks like layer indices.

    Raises:
        InputError: one does: `0,1` could be two layers, or two accuracies.
    """
    columns = [list(column) for column in zip(*lines, strict=True)]
    for what, (first, *rest) in (("row", lines), ("column", columns)):
        if _counts(first) and any(not _counts([cell]) for cells in rest for cell in cells):
            listed = f"{', '.join(first[:3])}{', ...' if len(first) > 3 else ''}"
            values = ", ".join(f"{cell}.0" for cell in first[:3])
            raise InputError(
                f"{path}: the first {what} is {listed}, which may be layer indices or values. If they "
                f"are indices, remove that {what}, or give both rows and columns indices with "
                f"{HEADER} at the top left; if they are values, write {values}"
            )


def _counts(cells: list[str]) -> bool:
    """Whether cells are whole numbers that count on from -1, 0 or 1, written as layer indices are."""
    return any(cells == [str(start + k) for k in range(len(cells))] for start in (-1, 0, 1))


def _layer(path: Path, line: int, text: str) -> int:
    if not re.fullmatch(r"-1|\d{1,9}", text, re.ASCII):
        raise InputError(f"{path}, line {line}: {show(text)} is not a layer index (-1, 0, 1, ...)")
    return int(text)


def _value(path: Path, line: int, text: str) -> float:
    if text == "":
        return math.nan
    try:
        # Python's float also takes 1_0 and the digits of every script.
        value = float(text) if re.fullmatch(r"[0-9+\-.eE]+|nan", text, re.IGNORECASE) else math.inf
    except ValueError:
        value = math.inf
    if math.isinf(value):
        other = ";" in text or "\t" in text or " " in text
        hint = "; commas separate cells, and decimals have a point" if other else ""
        raise InputError(f"{path}, line {line}: {show(text)} is not a finite number{hint}")
    return value
