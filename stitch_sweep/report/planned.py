"""The cells that the configurations of an experiment contain."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from stitch_sweep.analysis.networks import layer_counts
from stitch_sweep.analysis.results import CELL, MAX_CELLS, PAIR
from stitch_sweep.config.knock_out import KnockOutConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.report.experiment import Experiment, Part


def planned_cells(experiment: Experiment) -> pd.DataFrame:
    """List the configured cells of all pairs whose layers are known.

    Returns:
        A row per cell, with the columns of `PAIR` and `CELL`.

    Raises:
        InputError: more cells than a matrix may have.
    """
    measured = experiment.table("networks")
    counts = {} if measured is None else layer_counts(measured)
    cells: list[tuple[Any, ...]] = []
    for part in experiment.parts:
        last_layers = _configured_last_layers(part)
        last_layers |= {name: count - 1 for name, count in counts.items()}
        for pair in part.sections("pairs"):
            names = [str(pair.get(role)) for role in PAIR]
            configured = [pair.get(f"{role}_layers", "all") for role in PAIR]
            layers = [
                chosen if isinstance(chosen, list) else range(last_layers.get(name, -1) + 1)
                for chosen, name in zip(configured, names, strict=True)
            ]
            _check_number(len(cells) + math.prod(map(len, layers)))
            cells += [(*names, i, j) for i in layers[0] for j in layers[1]]
        for section in part.sections("knock_out"):
            knock_out = KnockOutConfig.model_validate(section)
            name = knock_out.network
            _check_number(len(cells) + last_layers.get(name, 0) ** 2)
            cells += [(name, name, *cell) for cell in knock_out.cells(last_layers.get(name, -1))]
    return pd.DataFrame(cells, columns=[*PAIR, *CELL])


def _configured_last_layers(part: Part) -> dict[str, int]:
    """Return the last layer of every network whose configuration determines it."""
    last_layers = {}
    for network in part.sections("networks"):
        names, blocks = network.get("layers"), network.get("blocks")
        if isinstance(names, list):
            last_layers[str(network.get("name"))] = len(names) - 1
        elif network.get("family", "resnet") == "resnet" and isinstance(blocks, list):
            last_layers[str(network.get("name"))] = sum(k for k in blocks if isinstance(k, int))
    return last_layers


def _check_number(cells: int) -> None:
    if cells > MAX_CELLS:
        raise InputError(f"the configuration has more than {MAX_CELLS:,} cells")
