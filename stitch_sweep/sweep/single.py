"""Train a single pair in this process, without Ray: for a first look, and for debugging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.cells import Cell, check_cell, parse_cell
from stitch_sweep.plan.machine import check_local, check_training
from stitch_sweep.plan.packing import PackWidths
from stitch_sweep.plan.prepare import prepare_networks, provide_networks
from stitch_sweep.stitches.storage import describe_stitch
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.training.loop import StitchResult, StitchTraining
from stitch_sweep.training.workbench import Workbench


def run_pair(config: Config, pair: str, save: Path | None = None) -> dict[str, Any]:
    """Train the stitch of one pair with the configuration's own settings.

    Args:
        config: see `train_cell`.
        pair: `sender:layer,receiver:layer`.
        save: file for the stitch, if any.

    Returns:
        The pair, the status, the seconds, and the final metrics of `StitchTraining.finish`.

    Raises:
        InputError: the pair has another form, or names a network or layer that doesn't exist; or `save`
            is a folder, or a file that is not a stitch.
    """
    if save is not None:
        _check_save(save)
    training, result = train_cell(config, parse_cell(pair, config), f"stitch {pair}")
    if save is not None:
        write_atomically(save, training.pack_stitch({"pair": pair}))
    return {"pair": pair, "status": result.status, "seconds": result.seconds, **result.metrics}


def train_cell(
    config: Config, cell: Cell, title: str, place: str | None = None
) -> tuple[StitchTraining, StitchResult]:
    """Train the stitch of one cell with the configuration's own settings, and show the progress.

    Args:
        config: its factors, searched settings and other cells are ignored; networks outside the cell
            are neither examined nor trained.
        cell: the cell.
        title: name of the training for the progress.
        place: what messages about the cell begin with; see `check_cell`.

    Raises:
        InputError: the networks, the data or the cell can't be used.
    """
    check_local(config.resources)
    check_training(config)
    settings = TrialSettings.model_validate(config.settings)
    prepared = prepare_networks(config, {cell.sender, cell.receiver})
    check_cell(prepared, cell, settings, place)
    with Reporter() as reporter:
        for note in prepared.notes:
            reporter.say(f"note: {note}")
        modules = provide_networks(prepared, reporter.network)
        bench = Workbench(config, prepared.data, modules)
        # Its other places stay empty: the result is that of a sweep.
        width = PackWidths(prepared).width(
            cell.receiver, cell.receiver_layer, settings.training.batch_size
        )
        training = bench.training(
            cell.sender,
            cell.sender_layer,
            cell.receiver,
            cell.receiver_layer,
            settings,
            pack_width=width,
        )
        while not training.done:
            training.run_epoch()
            reporter.step(title, training.epoch, settings.training.epochs)
        return training, training.finish()


def _check_save(path: Path) -> None:
    """Check that `--save` replaces nothing but a stitch."""
    if path.is_dir():
        raise InputError(f"--save {path}: is a folder; name a file")
    if not path.exists():
        return
    try:
        if not path.is_file():
            raise InputError
        describe_stitch(path)
    except InputError:
        raise InputError(
            f"--save {path}: contains no stitch, and would be replaced; name another file"
        ) from None
