"""One stitching matrix: its values, their state (converged, failed), and its names."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from stitch_sweep.core.measures import BEYOND_LOGITS, short_title

GAP_AXES = ("first_layer", "layers_removed")
"""The names of the rows and columns of a gap matrix."""
_TABLES = ("values", "converged", "failed", "finished")
_LONGEST_NAME = 120


@dataclass(frozen=True, eq=False)
class Matrix:
    """One stitching matrix: I sender layers by J receiver layers, for one factor combination.

    All tables have shape (I, J), indexed by sender layer with receiver layers as columns, both
    ascending; -1 is the image, 0 the stem's output, k the output of the k-th block. In a gap matrix of
    knocked-out layers (see `knock_out.gap_matrix`), rows are the first removed layer and columns the
    number of removed layers.

    Attributes:
        sender: the sender's name.
        receiver: the receiver's name.
        factors: crossed settings: dotted config path -> value (None where it doesn't apply).
        value_name: the column of `values`.
        values: mean over repeats of the best trial's value; NaN where missing or failed.
        converged: False where the best trial of a repeat didn't converge, else NA where that is
            unknown or nothing finished, else True.
        failed: True where trials ran and none finished with a value.
        finished: the number of repeats that each value averages.
        sender_accuracy: the sender's own test accuracy in [0, 1], NaN if unknown.
        receiver_accuracy: the receiver's own test accuracy in [0, 1], NaN if unknown.
        repeats: the number of repeats that the matrix was run with.
        receiver_free: the receiver layers, among those of the columns, after which the receiver is
            linear: their columns say nothing about what it has learned.
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
    receiver_free: frozenset[int] = frozenset()

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
        """Make a matrix whose values alone are known, such as a published matrix.

        Args:
            values: shape (I, J), as `read_matrix` returns it; NaN where a cell is missing.
            sender: the sender's name.
            receiver: the receiver's name; the sender's name for a network stitched to itself.
            factors: settings that distinguish it from other matrices, as in `Matrix.factors`.
            value_name: the column that the values represent.
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
        """Return "knock-out" for a gap matrix, "self-pair" for a network with itself, else "pair"."""
        if list(self.values.axes[0].names) == [GAP_AXES[0]]:
            return "knock-out"
        return "self-pair" if self.sender == self.receiver else "pair"

    @property
    def is_difference(self) -> bool:
        """Whether the values are differences of accuracies, see `excess`."""
        return self.value_name == BEYOND_LOGITS

    @property
    def axes(self) -> tuple[str, str]:
        """Titles of the rows' and the columns' axis."""
        if self.kind == "knock-out":
            return "first layer", "layers removed"
        return "sender layer", "receiver layer"

    @property
    def missing(self) -> pd.DataFrame:
        """True where a cell has neither a value nor a failure: it has not been run."""
        return self.values.isna() & ~self.failed

    @property
    def unconverged(self) -> pd.DataFrame:
        """True where a cell has a value and its stitches are known not to have converged."""
        return ~self.converged.fillna(True).astype(bool) & self.values.notna()

    def without_image(self) -> Matrix:
        """Return the matrix without the row of the image, which is a control.

        Counts and averages over a pair's cells leave that row out.
        """
        if self.kind == "knock-out" or -1 not in self.values.index:
            return self
        return replace(self, **{name: getattr(self, name).drop(index=-1) for name in _TABLES})

    def without_columns(self, layers: Collection[int]) -> Matrix:
        """Return the matrix without the columns of some receiver layers."""
        kept = [k for k in self.values.columns if int(k) not in layers]
        tables = {name: getattr(self, name)[kept] for name in _TABLES}
        return replace(self, receiver_free=self.receiver_free - set(layers), **tables)

    @property
    def value_label(self) -> str:
        """A short title of the values."""
        return short_title(self.value_name)

    @property
    def factor_text(self) -> str:
        """The factor values in one line; empty if nothing was crossed."""
        return ", ".join(f"{name} = {_text(value)}" for name, value in sorted(self.factors.items()))

    @property
    def series(self) -> str:
        """The factor values, and the kind of values if they aren't accuracies, in one line."""
        kind = [self.value_label] if self.is_difference else []
        return ", ".join([*kind, *([self.factor_text] if self.factors else [])])

    @property
    def title(self) -> str:
        """The pair of networks, the kind of matrix and of values, and the factor values in one line."""
        title = f"{self.sender} → {self.receiver} ({self.kind})"
        if self.kind == "knock-out":
            title = f"{self.sender}, layers knocked out"
        return f"{title}, {self.series}" if self.series else title

    @property
    def file_name(self) -> str:
        """A file name without suffix, of letters, digits, `.`, `_` and `-` only.

        Different networks, factors or values have different file names. A hash follows the readable
        part where that part alone is ambiguous.
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
        # "__" separates the parts, and the first "-" a factor from its value. The hash is needed
        # where a part contains either, or where a text looks like a number.
        ambiguous = (
            safe != written
            or len(safe) > _LONGEST_NAME
            or "value" in self.factors
            or any("-" in name or "__" in name or name[:1] == "_" for name, _ in parts)
            or any(not v or "__" in v or v[0] == "_" or v[-1] == "_" for _, v in parts)
            or any(
                isinstance(v, str) and _looks_like_another_type(v) for v in self.factors.values()
            )
        )
        if not ambiguous:
            return safe
        identity = [self.sender, self.receiver, self.value_name, sorted(self.factors.items())]
        digest = hashlib.sha256(json.dumps(identity, default=repr).encode()).hexdigest()[:10]
        return f"{safe[:_LONGEST_NAME]}__{digest}"


def _text(value: Any) -> str:
    """Format a factor's value for titles and file names."""
    return value if isinstance(value, str) else "none" if value is None else repr(value)


def _looks_like_another_type(text: str) -> bool:
    """Whether a text is written as None, a bool or a number is."""
    if text in ("none", "True", "False"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
