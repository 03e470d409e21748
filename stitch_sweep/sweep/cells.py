"""One cell of a matrix, as it is named on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stitch_sweep.config import Config, StitchConfig, TrialSettings
from stitch_sweep.errors import InputError, nearest
from stitch_sweep.sweep.prepare import Prepared, first_settings, misfit


@dataclass(frozen=True)
class Cell:
    """Which layer of which network goes into which."""

    sender: str
    sender_layer: int
    receiver: str
    receiver_layer: int

    def __str__(self) -> str:
        return f"{self.sender}:{self.sender_layer},{self.receiver}:{self.receiver_layer}"


def parse_cell(pair: str, config: Config) -> Cell:
    """The cell that `sender:layer,receiver:layer` means.

    Raises:
        InputError: the text isn't of that form, or names a network that the configuration lacks.
    """
    sides: list[tuple[str, int]] = []
    names = [network.name for network in config.networks]
    parts = pair.split(",")
    for part in parts:
        name, _, layer = part.strip().rpartition(":")
        if len(parts) != 2 or not re.fullmatch(r"-?\d{1,6}", layer):
            raise InputError(
                f"--pair {pair}: write it as sender:layer,receiver:layer, like a:2,b:3"
            )
        if name not in names:
            raise InputError(f"--pair {pair}: no network is named {name!r}: {nearest(name, names)}")
        sides.append((name, int(layer)))
    return Cell(*sides[0], *sides[1])


def check_cell(prepared: Prepared, cell: Cell, stitch: StitchConfig) -> None:
    """See that the layers exist and a stitch can join them.

    Raises:
        InputError: they don't, or it can't.
    """
    outlines = prepared.outlines
    sides = ((cell.sender, cell.sender_layer), (cell.receiver, cell.receiver_layer))
    try:
        for name, layer in sides:
            outlines[name].check_layers(name, [layer])
    except InputError as error:
        raise InputError(*(f"--pair {cell}: {problem}" for problem in error.problems)) from None
    sender, receiver = (outlines[name].shape(layer) for name, layer in sides)
    if (why := misfit(stitch, sender, receiver)) is not None:
        raise InputError(f"--pair {cell}: {why}")


def choose_cell(prepared: Prepared, named: Cell | None) -> tuple[Cell, TrialSettings]:
    """The cell to look at, and the settings under which a sweep first meets it.

    Args:
        prepared: the configuration.
        named: the cell that was asked for; the middle layers of the first pair if none was.

    Raises:
        InputError: the cell's layers don't exist, or the stitch can't join them.
    """
    first = prepared.config.pairs[0]
    cells = {
        Cell(study.sender, study.sender_layer, study.receiver, study.receiver_layer): study
        for study in reversed(prepared.studies)
    }
    if named is None:
        own = [c for c in cells if (c.sender, c.receiver) == (first.sender, first.receiver)]
        rows, columns = (
            sorted({getattr(c, side) for c in own}) for side in ("sender_layer", "receiver_layer")
        )
        middle = (rows[len(rows) // 2], columns[len(columns) // 2])
        named = Cell(first.sender, middle[0], first.receiver, middle[1])
    study = cells.get(named)
    config = prepared.config
    settings = (
        TrialSettings.model_validate(config.settings)
        if study is None
        else first_settings(config, study)
    )
    check_cell(prepared, named, settings.stitch)
    return named, settings
