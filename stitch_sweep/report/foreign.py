"""What a report needs of an experiment folder's files, each checked before it is used.

A folder may come from another version, from a damaged disk, or from a stranger. A file that isn't what
it should be is left out, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stitch_sweep.analysis.results import FACTOR
from stitch_sweep.config.models import KnockOutConfig
from stitch_sweep.core.problems import describe_problems

MOST_LAYERS = 10_000
"""A network with more layers than this is taken for a mistake."""
_MOST_NESTED = 50

Layers = Literal["all"] | list[Annotated[int, Field(ge=-1, le=MOST_LAYERS)]]


class _Lenient(BaseModel):
    """Named fields are checked, others are left alone."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Network(_Lenient):
    name: str
    weights: str = "trained"
    family: str | None = None
    layers: str | list[str] | None = None
    blocks: list[Annotated[int, Field(ge=0, le=MOST_LAYERS)]] | None = None


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
    """The sections of `config.resolved.yml` that a report reads."""

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


class FolderDescription(_Lenient):
    """The fields of the ledger's description that a report reads."""

    decides: _Decides | None = None
    config: dict[str, Any] | None = None
    trials: Annotated[int, Field(ge=0)] | None = None
    versions: dict[str, Any] | None = None
    networks: dict[str, Any] | None = None


class _Check(_Lenient):
    name: str
    verdict: str
    difference: float | str | None = None


class SanityFile(_Lenient):
    """The fields of `sanity.json` that a report reads."""

    checks: list[_Check]
    versions: dict[str, Any] | None = None


def problem_of(content: Mapping[str, Any], model: type[BaseModel]) -> str | None:
    """What keeps plain data from being used, in a clause; None if nothing does.

    Args:
        content: what a file holds.
        model: what it should be.
    """
    if _is_nested_too_deeply(content):
        return f"it is nested more than {_MOST_NESTED} deep"
    try:
        model.model_validate(content)
    except ValidationError as error:
        return describe_problems(error, model)[0]
    return None


def _is_nested_too_deeply(content: Any) -> bool:
    level = [content]
    for _ in range(_MOST_NESTED):
        level = [
            item
            for value in level
            for item in (
                value.values()
                if isinstance(value, Mapping)
                else value
                if isinstance(value, list)
                else ()
            )
            if isinstance(item, Mapping | list)
        ]
        if not level:
            return False
    return True


def _is_text(column: pd.Series) -> bool:
    return all(isinstance(value, str) for value in column.dropna())


def _is_number(column: pd.Series) -> bool:
    return types.is_numeric_dtype(column) or bool(column.isna().all())


def _is_whole(column: pd.Series) -> bool:
    values = column.dropna()
    return not len(values) or (
        types.is_numeric_dtype(column) and bool(((values % 1 == 0) & (abs(values) < 2**31)).all())
    )


def _is_share(column: pd.Series) -> bool:
    return _is_number(column) and bool(column.dropna().between(0, 1).all())


def _is_layer(column: pd.Series) -> bool:
    return _is_whole(column) and bool(
        column.notna().all() and column.between(-1, MOST_LAYERS).all()
    )


def _is_classes(column: pd.Series) -> bool:
    return all(
        types.is_list_like(value) and (not len(value) or np.asarray(value).dtype.kind in "iu")
        for value in column[column.notna()]
    )


def _is_names(column: pd.Series) -> bool:
    return all(
        types.is_list_like(value) and all(isinstance(item, str) for item in value)
        for value in column[column.notna()]
    )


_Kind = tuple[Callable[[pd.Series], bool], str]
_TEXT: _Kind = (_is_text, "texts")
_NUMBER: _Kind = (_is_number, "numbers")
_WHOLE: _Kind = (_is_whole, "whole numbers")
_SHARE: _Kind = (_is_share, "numbers from 0 to 1")
_LAYER: _Kind = (_is_layer, f"whole numbers from -1 to {MOST_LAYERS}")
_COLUMNS: dict[str, _Kind] = {
    **dict.fromkeys(
        ("trial", "split", "network", "family", "weights", "options", "sender", "receiver"), _TEXT
    ),
    **dict.fromkeys(
        ("similarity_loss", "task_trial", "similarity_trial", "setting", "evaluator"), _TEXT
    ),
    **dict.fromkeys(("step", "epoch", "loss", "lr", "time", "width"), _NUMBER),
    **dict.fromkeys(("ev", "es", "sv", "ev_relative", "es_relative", "sv_relative"), _NUMBER),
    **dict.fromkeys(("seed", "parameters", "label", "studies", "trials", "best"), _WHOLE),
    "classes": (
        lambda c: _is_whole(c) and bool((c.dropna() >= 1).all()),
        "whole numbers from 1 on",
    ),
    **dict.fromkeys(("repeat",), _WHOLE),
    **dict.fromkeys(("sender_layer", "receiver_layer", "layer"), _LAYER),
    "depth": (
        lambda c: _is_whole(c) and bool(c.dropna().between(0, MOST_LAYERS).all()),
        f"whole numbers from 0 to {MOST_LAYERS}",
    ),
    **dict.fromkeys(
        ("accuracy", "test_accuracy", "train_accuracy", "val_accuracy", "importance", "p_value"),
        _SHARE,
    ),
    "predictions": (_is_classes, "lists of whole numbers"),
    "layers": (_is_names, "lists of texts"),
}


def column_problems(table: pd.DataFrame) -> list[str]:
    """The columns of a table that don't hold what their names say, a clause each.

    Args:
        table: one of `measured/`, of predictions or of trajectories.
    """
    problems = [
        f"column {name} must hold {what}"
        for name, (fits, what) in _COLUMNS.items()
        if name in table.columns and not fits(table[name])
    ]
    return problems + [
        f"column {name} must hold texts or numbers"
        for name in map(str, table.columns)
        if name.startswith(FACTOR) and table[name].map(types.is_list_like).any()
    ]
