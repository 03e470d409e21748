"""Every stitch, its options, and the cells that it joins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.base import AffineStitch, Stitch
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.shapes import Shape
from tests.support.cases import name_value

SHAPES: list[tuple[Shape, Shape]] = [
    ((3, 4, 4), (2, 4, 4)),
    ((4, 4, 4), (4, 4, 4)),
    ((3, 8, 8), (5, 4, 4)),
    ((4, 2, 2), (2, 6, 6)),
    ((2, 3, 3), (3, 1, 1)),
    ((3, 7, 7), (3, 4, 4)),
    ((3, 4, 4), (4, 7, 7)),
    ((4, 7, 5), (4, 4, 9)),
    ((2, 5, 3), (2, 5, 7)),
    ((3, 4, 4), (5,)),
    ((7,), (3, 2, 2)),
    ((6,), (4,)),
    ((3,), (5,)),
    ((6,), (6,)),
    # Sequences of tokens: 9 and 16 are squares of patches; 5, 10 and 17 have a class token too.
    ((5, 3), (5, 3)),
    ((16, 3), (9, 4)),
    ((5, 3), (3, 4, 4)),
    ((2, 3, 3), (17, 4)),
    ((6,), (5, 4)),
    ((10, 3), (4,)),
]

Cell = tuple[str, dict[str, Any], Shape, Shape]
"""A stitch, its options, and the shapes of sender and receiver."""


def options_of(name: str) -> Iterator[dict]:
    """Yield a stitch's defaults, and every other word or truth value of each of its options."""
    yield {}
    for key, field in STITCHES.options(name).model_fields.items():
        values = (True, False) if field.annotation is bool else get_args(field.annotation)
        for value in values:
            if isinstance(value, str | bool) and value != field.default:
                yield {key: value}


def build(name: str, options: dict, sender: Shape, receiver: Shape, **more: Any) -> Stitch:
    """Build a stitch."""
    stitch = build_stitch(name, sender, receiver, options=options, **more)
    assert isinstance(stitch, Stitch)
    return stitch


def _outline_cells() -> Iterator[tuple[Cell, Stitch]]:
    """Yield every cell that a stitch joins, with the stitch on the meta device."""
    for name, options in EVERY_STITCH:
        for shapes in SHAPES:
            try:
                with torch.device("meta"):
                    stitch = build(name, options, *shapes)
            except InputError:
                continue
            yield (name, options, *shapes), stitch


EVERY_STITCH = [(name, options) for name in STITCHES.names() for options in options_of(name)]
_OUTLINES = list(_outline_cells())
EVERY_CELL: list[Cell] = [cell for cell, _ in _OUTLINES]
AFFINE: list[Cell] = [cell for cell, stitch in _OUTLINES if isinstance(stitch, AffineStitch)]

every_stitch = pytest.mark.parametrize(("name", "options"), EVERY_STITCH, ids=name_value)


def every_stitch_of(cells: list[Cell]) -> pytest.MarkDecorator:
    """Parametrize a test over the stitches that have some of the cells."""
    stitches = [s for s in EVERY_STITCH if any(cell[:2] == s for cell in cells)]
    return pytest.mark.parametrize(("name", "options"), stitches, ids=name_value)


def cells_of(name: str, options: dict, cells: list[Cell] = EVERY_CELL) -> list[Cell]:
    """Return the cells of one stitch."""
    return [cell for cell in cells if cell[:2] == (name, options)]


def joined_shapes(name: str, options: dict) -> list[tuple[Shape, Shape]]:
    """Return the pairs of `SHAPES` that a stitch joins."""
    return [(sender, receiver) for _, _, sender, receiver in cells_of(name, options)]


def select_cells(keep: Callable[[Stitch, str], bool], cells: list[Cell] = AFFINE) -> list[Cell]:
    """Return the cells whose stitch and name satisfy a condition that depends on shapes only."""
    among = set(map(id, cells))
    return [cell for cell, stitch in _OUTLINES if id(cell) in among and keep(stitch, cell[0])]


@functools.cache
def cells_for(start: str) -> list[Cell]:
    """Return the cells in which a stitch can have a start."""
    return select_cells(
        lambda stitch, name: stitch.explain_start_refusal(start) is None, EVERY_CELL
    )


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draw standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
