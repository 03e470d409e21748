"""One cell of a matrix, as it is named on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stitch_sweep.config.controls import CLASS_ONLY
from stitch_sweep.config.models import Config, TrialSettings
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.plan.prepare import (
    Prepared,
    cell_problem,
    combined,
    first_settings,
    misfit,
    wrong_head,
)
from stitch_sweep.training.loop import no_teacher


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


def check_cell(prepared: Prepared, cell: Cell, settings: TrialSettings) -> None:
    """Check that the layers exist, the receiver can receive, and a stitch can join them and be trained.

    Raises:
        InputError: they don't, or it can't.
    """
    outlines = prepared.outlines
    if cell.receiver in _class_only(prepared.config):
        raise InputError(f"--pair {cell}: {cell.receiver} knows only the class: it can't receive")
    if why := wrong_head(cell.receiver, outlines[cell.receiver], prepared.data):
        raise InputError(f"--pair {cell}: {why}")
    sides = ((cell.sender, cell.sender_layer), (cell.receiver, cell.receiver_layer))
    try:
        for name, layer in sides:
            outlines[name].check_layers(name, [layer])
    except InputError as error:
        raise InputError(*(f"--pair {cell}: {problem}" for problem in error.problems)) from None
    sender, receiver = (outlines[name].shape(layer) for name, layer in sides)
    why = misfit(settings.stitch, sender, receiver)
    why = why or cell_problem(outlines[cell.receiver], cell.receiver, cell.receiver_layer, settings)
    outputs = outlines[cell.sender].outputs
    if outputs != prepared.data.num_classes and "sender" in combined(settings).teachers:
        why = why or no_teacher(f"network {cell.sender!r}", network=outputs is not None)
    if why is not None:
        raise InputError(f"--pair {cell}: {why}")


def _class_only(config: Config) -> set[str]:
    return {network.name for network in config.networks if network.kind == CLASS_ONLY}


def choose_cell(prepared: Prepared, named: Cell | None) -> tuple[Cell, TrialSettings]:
    """The cell of two networks to look at, and the settings under which a sweep first meets it.

    Args:
        prepared: the configuration.
        named: the cell that was asked for; if none was, the middle layers of the first pair whose
            sender is a network.

    Raises:
        InputError: the cell's layers don't exist, the stitch can't join them, or the sender, which knows
            only the class, is no network that could be looked at.
    """
    no_networks = _class_only(prepared.config)
    config = prepared.config
    asked = [(pair.sender, pair.receiver) for pair in config.pairs]
    asked += [(part.network, part.network) for part in config.knock_out]
    pairs = [pair for pair in asked if pair[0] not in no_networks]
    if not pairs if named is None else named.sender in no_networks:
        which = "every sender" if named is None else f"--pair {named}: {named.sender}"
        raise InputError(f"{which} knows only the class; what is looked at here is two networks")
    cells = {
        Cell(study.sender, study.sender_layer, study.receiver, study.receiver_layer): study
        for study in reversed(prepared.studies)
    }
    if named is None:
        own = [c for c in cells if (c.sender, c.receiver) == pairs[0]]
        rows, columns = (
            sorted({getattr(c, side) for c in own}) for side in ("sender_layer", "receiver_layer")
        )
        middle = (rows[len(rows) // 2], columns[len(columns) // 2])
        named = Cell(pairs[0][0], middle[0], pairs[0][1], middle[1])
        if named not in own:  # where layers are knocked out, only cells above the diagonal are
            named = own[len(own) // 2]
    study = cells.get(named)
    settings = (
        TrialSettings.model_validate(config.settings)
        if study is None
        else first_settings(config, study)
    )
    check_cell(prepared, named, settings)
    return named, settings
