"""Validation of an experiment folder's files before a report uses them.

A folder may come from another version, from a damaged disk, or from an untrusted person. A file with
unexpected content is skipped, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stitch_sweep.analysis.results import FACTOR
from stitch_sweep.config.knock_out import KnockOutConfig
from stitch_sweep.core.measures import DIFFERENCES, OUTLIER_SCORES
from stitch_sweep.core.problems import describe_problems

MAX_LAYERS = 10_000
"""A larger number of layers is treated as a mistake."""
_MAX_DEPTH = 50

Layers = Literal["all"] | list[Annotated[int, Field(ge=-1, le=MAX_LAYERS)]]


class _Lenient(BaseModel):
    """A model that checks its fields and accepts any others."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Network(_Lenient):
    name: str
    weights: str = "trained"
    family: str | None = None
    layers: str | list[str] | None = None
    blocks: list[Annotated[int, Field(ge=0, le=MAX_LAYERS)]] | None = None


class _Pair(_Lenient):
    sender: str
    receiver: str
    sender_layers: Layers = "all"
    receiver_layers: Layers = "all"


class _Search(_Lenient):
    cross: dict[str, Any] | None = None
    metric: str = "val_accuracy"
    mode: Literal["max", "min"] = "max"
    objectives: dict[str, Literal["max", "min"]] | None = None


class _Resources(_Lenient):
    cpu: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    gpu: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class FolderConfig(_Lenient):
    """Sections of `config.resolved.yml` that a report reads."""

    seed: int | None = None
    data: dict[str, Any] | None = None
    networks: list[_Network] = []
    pairs: list[_Pair] | None = None
    knock_out: list[KnockOutConfig] | None = None
    search: _Search | None = None
    resources: _Resources | None = None
    tracking: dict[str, Any] | None = None


class _Decides(_Lenient):
    networks: dict[str, Any] | None = None
    plugins: dict[str, str] | None = None


class FolderDescription(_Lenient):
    """Fields of the ledger's description that a report reads."""

    decides: _Decides | None = None
    config: dict[str, Any] | None = None
    trials: Annotated[int, Field(ge=0)] | None = None
    left_out: dict[str, Annotated[int, Field(ge=0)]] | None = None
    versions: dict[str, Any] | None = None
    networks: dict[str, Any] | None = None


class _Check(_Lenient):
    name: str
    verdict: str
    difference: float | str | None = None


class SanityFile(_Lenient):
    """Fields of `sanity.json` that a report reads."""

    checks: list[_Check]
    versions: dict[str, Any] | None = None


def explain_misfit(content: Mapping[str, Any], model: type[BaseModel]) -> str | None:
    """Explain in a clause why plain data does not fit a model; None if it fits.

    Args:
        content: a file's content.
        model: the expected fields.
    """
    if _is_nested_too_deeply(content):
        return f"it is nested more than {_MAX_DEPTH} deep"
    try:
        model.model_validate(content)
    except ValidationError as error:
        return describe_problems(error, model)[0]
    return None


def _is_nested_too_deeply(content: Any) -> bool:
    level = [content]
    for _ in range(_MAX_DEPTH):
        level = [child for value in level for child in _children(value)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    """Return the mappings and lists directly inside a value."""
    if isinstance(value, Mapping):
        members = list(value.values())
    else:
        members = value if isinstance(value, list) else []
    return [member for member in members if isinstance(member, Mapping | list)]


def _are_texts(column: pd.Series) -> bool:
    return all(isinstance(value, str) for value in column.dropna())


def _are_numbers(column: pd.Series) -> bool:
    return types.is_numeric_dtype(column) or bool(column.isna().all())


def _are_whole_numbers(column: pd.Series) -> bool:
    values = column.dropna()
    return not len(values) or (
        types.is_numeric_dtype(column) and bool(((values % 1 == 0) & (abs(values) < 2**31)).all())
    )


def _are_shares(column: pd.Series) -> bool:
    return _are_numbers(column) and bool(column.dropna().between(0, 1).all())


def _are_layers(column: pd.Series) -> bool:
    return _are_whole_numbers(column) and bool(
        column.notna().all() and column.between(-1, MAX_LAYERS).all()
    )


def _are_class_lists(column: pd.Series) -> bool:
    return all(
        types.is_list_like(value) and (not len(value) or np.asarray(value).dtype.kind in "iu")
        for value in column[column.notna()]
    )


def _are_name_lists(column: pd.Series) -> bool:
    return all(
        types.is_list_like(value) and all(isinstance(item, str) for item in value)
        for value in column[column.notna()]
    )


_ColumnKind = tuple[Callable[[pd.Series], bool], str]
_TEXT: _ColumnKind = (_are_texts, "texts")
_NUMBER: _ColumnKind = (_are_numbers, "numbers")
_WHOLE: _ColumnKind = (_are_whole_numbers, "whole numbers")
_SHARE: _ColumnKind = (_are_shares, "numbers from 0 to 1")
_LAYER: _ColumnKind = (_are_layers, f"whole numbers from -1 to {MAX_LAYERS}")
_COLUMNS: dict[str, _ColumnKind] = {
    **dict.fromkeys(
        ("trial", "split", "network", "family", "weights", "options", "sender", "receiver"), _TEXT
    ),
    **dict.fromkeys(
        ("similarity_loss", "task_trial", "similarity_trial", "setting", "evaluator"), _TEXT
    ),
    **dict.fromkeys(("step", "epoch", "loss", "lr", "time", "width"), _NUMBER),
    **dict.fromkeys(DIFFERENCES, _NUMBER),
    **dict.fromkeys(OUTLIER_SCORES, _SHARE),
    **dict.fromkeys(("seed", "parameters", "label", "studies", "trials", "best", "repeat"), _WHOLE),
    "classes": (
        lambda c: _are_whole_numbers(c) and bool((c.dropna() >= 1).all()),
        "whole numbers from 1 on",
    ),
    **dict.fromkeys(("sender_layer", "receiver_layer", "layer"), _LAYER),
    "depth": (
        lambda c: _are_whole_numbers(c) and bool(c.dropna().between(0, MAX_LAYERS).all()),
        f"whole numbers from 0 to {MAX_LAYERS}",
    ),
    **dict.fromkeys(
        ("accuracy", "test_accuracy", "train_accuracy", "val_accuracy", "importance", "p_value"),
        _SHARE,
    ),
    "predictions": (_are_class_lists, "lists of whole numbers"),
    "layers": (_are_name_lists, "lists of texts"),
}


def column_problems(table: pd.DataFrame) -> list[str]:
    """List the columns with unexpected content, a clause each.

    Args:
        table: a table of `measured/`, predictions or trajectories.
    """
    problems = [
        f"column {name} must contain {expected}"
        for name, (fits, expected) in _COLUMNS.items()
        if name in table.columns and not fits(table[name])
    ]
    return problems + [
        f"column {name} must contain texts or numbers"
        for name in map(str, table.columns)
        if name.startswith(FACTOR) and table[name].map(types.is_list_like).any()
    ]
