"""A table with its caption: shown texts for the page and LaTeX, every digit for CSV."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from stitch_sweep.analysis.tables import csv_text

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A shown column.

    Attributes:
        name: name of the data frame's column.
        title: the column's head.
        format: value -> text; it never gets missing values.
        number: whether the column is aligned to the right.
        error: column with its standard error, which is shown behind the value; empty for none.
    """

    name: str
    title: str
    format: Callable[[Any], str] = str
    number: bool = False
    error: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """A table with its caption.

    Attributes:
        name: file name without suffix.
        title: the title, in a line.
        note: how to read it.
        frame: the data, with every digit.
        columns: the shown columns, in order; the CSV file has all columns of `frame`.
    """

    name: str
    title: str
    note: str
    frame: pd.DataFrame = field(repr=False)
    columns: Sequence[Column] = field(repr=False)

    @property
    def rows(self) -> list[list[str]]:
        """The shown texts."""
        return [
            [_format_cell(column, row) for column in self.columns]
            for row in self.frame.to_dict("records")
        ]

    def csv(self) -> str:
        """Return the table as comma-separated text with a header of column names."""
        return csv_text(self.frame)

    def latex(self) -> str:
        r"""Return a `table` environment with the shown columns; it needs `\usepackage{booktabs}`."""
        # Numbers as column names: titles may occur twice.
        titles: dict[object, str] = {
            k: escape_latex(column.title) for k, column in enumerate(self.columns)
        }
        style = pd.DataFrame(self.rows, columns=range(len(self.columns)), dtype="object").style
        text = (
            style.hide(axis="index")
            .format(lambda text: escape_latex(str(text)))
            .format_index(lambda k: titles[k], axis="columns")
            .to_latex(
                caption=escape_latex(self.title),
                column_format="".join("r" if column.number else "l" for column in self.columns),
                hrules=True,
                position_float="centering",
            )
        )
        return f"% needs \\usepackage{{booktabs}}\n{text}"


def _format_cell(column: Column, row: Mapping[Any, Any]) -> str:
    value = row[column.name]
    if _is_missing(value):
        return MISSING
    error = row[column.error] if column.error else None
    return column.format(value) + ("" if _is_missing(error) else f" ± {column.format(error)}")


def _is_missing(value: Any) -> bool:
    return value is None or (not isinstance(value, list | dict) and bool(pd.isna(value)))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "κ": r"$\kappa$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "−": "$-$",
    "–": "--",
}


def escape_latex(text: str) -> str:
    """Escape text for LaTeX; control characters become spaces.

    pandas escapes ASCII characters only; names and captions have arrows, signs and Greek letters too.
    """
    return "".join(_LATEX.get(c, c if c.isprintable() else " ") for c in text)


def safe_name(text: str) -> str:
    """Convert text to a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "x"
