"""A cell of a matrix, as `--pair` names it on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stitch_sweep.config.networks import SENDERS_ONLY
from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.losses.base import CombinedLoss, explain_missing_teacher
from stitch_sweep.plan.prepare import Prepared
from stitch_sweep.plan.settings import first_settings
from stitch_sweep.plan.validation import explain_untrainable, explain_wrong_head
from stitch_sweep.stitches.building import misfit


@dataclass(frozen=True)
class Cell:
    """A layer of a sender and a layer of a receiver."""

    sender: str
    sender_layer: int
    receiver: str
    receiver_layer: int

    def __str__(self) -> str:
        return f"{self.sender}:{self.sender_layer},{self.receiver}:{self.receiver_layer}"


def parse_cell(pair: str, config: Config) -> Cell:
    """Parse `sender:layer,receiver:layer`.

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


def check_cell(
    prepared: Prepared, cell: Cell, settings: TrialSettings, place: str | None = None
) -> None:
    """Check that a cell's layers exist and that its stitch fits and can be trained.

    Args:
        prepared: the networks.
        cell: the cell.
        settings: of the training.
        place: what messages begin with; by default the option that names the cell.

    Raises:
        InputError: a layer doesn't exist, the receiver can't receive, the stitch can't join the layers,
            or the loss can't train it.
    """
    outlines = prepared.outlines
    place = f"--pair {cell}: " if place is None else place
    if cell.receiver in _only_senders(prepared.config):
        raise InputError(f"{place}{cell.receiver} is a control that only sends: it can't receive")
    if problem := explain_wrong_head(cell.receiver, outlines[cell.receiver], prepared.data):
        raise InputError(f"{place}{problem}")
    sides = ((cell.sender, cell.sender_layer), (cell.receiver, cell.receiver_layer))
    try:
        for name, layer in sides:
            outlines[name].check_layers(name, [layer])
    except InputError as error:
        raise InputError(*(f"{place}{problem}" for problem in error.problems)) from None
    sender, receiver = (outlines[name].shape(layer) for name, layer in sides)
    problem = misfit(settings.stitch, sender, receiver)
    problem = problem or explain_untrainable(
        outlines[cell.receiver], cell.receiver, cell.receiver_layer, settings
    )
    outputs = outlines[cell.sender].outputs
    needs_sender = "sender" in CombinedLoss.from_config(settings.loss).teachers
    if outputs != prepared.data.num_classes and needs_sender:
        problem = problem or explain_missing_teacher(
            f"network {cell.sender!r}", network=outputs is not None
        )
    if problem is not None:
        raise InputError(f"{place}{problem}")


def choose_cell(prepared: Prepared, named: Cell | None) -> tuple[Cell, TrialSettings]:
    """Choose a cell of two networks to examine, and the first settings that a sweep trains it with.

    Args:
        prepared: the configuration.
        named: the cell that the user asked for; None for the middle layers of the first pair whose
            sender is a network.

    Raises:
        InputError: the cell's layers don't exist, the stitch can't join them, or the sender is
            a control that is no network to examine.
    """
    only_senders = _only_senders(prepared.config)
    config = prepared.config
    asked = [(pair.sender, pair.receiver) for pair in config.pairs]
    asked += [(part.network, part.network) for part in config.knock_out]
    pairs = [pair for pair in asked if pair[0] not in only_senders]
    if not pairs if named is None else named.sender in only_senders:
        subject = "every sender" if named is None else f"--pair {named}: {named.sender}"
        raise InputError(
            f"{subject} is a control that only sends, but this command needs two real networks; "
            "use --pair with another sender, or add a pair of networks"
        )
    cells = {
        Cell(study.sender, study.sender_layer, study.receiver, study.receiver_layer): study
        for study in reversed(prepared.studies)
    }
    if named is None:
        of_pair = [c for c in cells if (c.sender, c.receiver) == pairs[0]]
        rows, columns = (
            sorted({getattr(c, side) for c in of_pair})
            for side in ("sender_layer", "receiver_layer")
        )
        middle = (rows[len(rows) // 2], columns[len(columns) // 2])
        named = Cell(pairs[0][0], middle[0], pairs[0][1], middle[1])
        if named not in of_pair:  # a knock-out has cells above the diagonal only
            named = of_pair[len(of_pair) // 2]
    study = cells.get(named)
    settings = (
        TrialSettings.model_validate(config.settings)
        if study is None
        else first_settings(config, study)
    )
    check_cell(prepared, named, settings)
    return named, settings


def _only_senders(config: Config) -> set[str]:
    return {network.name for network in config.networks if network.kind in SENDERS_ONLY}
