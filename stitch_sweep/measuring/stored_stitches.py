"""The stored stitches of an experiment folder, calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.config.loss import LossConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.losses.base import CombinedLoss
from stitch_sweep.losses.calibration import Calibration
from stitch_sweep.measuring.chunks import cell_chunks
from stitch_sweep.plan.cells import Cell
from stitch_sweep.stitches.storage import describe_stitch, load_stitch
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.training.workbench import Workbench


@dataclass(frozen=True)
class StoredStitch:
    """A stored stitch on the device, and the map that restores the properties that its loss ignores.

    Attributes:
        module: the stitch.
        calibration: the group of maps that was fitted, or `none`.
        restore: the fitted map.
    """

    module: nn.Module
    calibration: str
    restore: nn.Module = field(default_factory=nn.Identity)

    def __call__(self, representation: Tensor) -> Tensor:
        """Return the calibrated input of the receiver: [B, *receiver shape]."""
        restored: Tensor = self.restore(self.module(representation))
        return restored


class StoredStitches:
    """Loads the stored stitches of an experiment folder, and collects those that are unusable.

    Args:
        ledger: the folder's ledger.
        records: its ended trials, by id.
        bench: the networks.

    Attributes:
        missing: paths of stitches that don't exist.
        problems: the problem of each file that exists but is unusable.
    """

    def __init__(
        self, ledger: Ledger, records: Mapping[str, Mapping[str, Any]], bench: Workbench
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._bench = bench
        self.missing: list[str] = []
        self.problems: list[str] = []

    @torch.no_grad()
    def load(self, cell: Cell, trials: list[str]) -> dict[str, StoredStitch]:
        """Load the usable stitches of trials of one cell, and fit their calibrations."""
        modules = {t: m for t in trials if (m := self._load_module(cell, t)) is not None}
        groups = {trial: self._calibration_group(trial) for trial in modules}
        fits = {t: Calibration(g) for t, g in groups.items() if g != "none"}  # type: ignore[arg-type]
        if fits:
            for sent, expected, valid in cell_chunks(self._bench, cell, "train"):
                for trial, fit in fits.items():
                    fit.add(modules[trial](sent)[:valid], expected[:valid])
        stitches = {}
        for trial, module in modules.items():
            restore: nn.Module = nn.Identity()
            if trial in fits:
                try:
                    restore = fits[trial].fit().to(self._bench.device)
                except ValueError as error:
                    self.problems.append(
                        f"the stitch of trial {trial} can't be calibrated: {error}"
                    )
                    continue
            stitches[trial] = StoredStitch(module, groups[trial], restore)
        return stitches

    def _calibration_group(self, trial: str) -> str:
        return recorded_loss(self._records[trial]["settings"]["loss"]).calibration

    def _load_module(self, cell: Cell, trial: str) -> nn.Module | None:
        trained_trial = self._ledger.trained_trial(trial)
        path = self._ledger.stitch_path(trained_trial)
        if not path.is_file():
            self.missing.append(str(path))
            return None
        try:
            description = describe_stitch(path)
            module = load_stitch(path).to(self._bench.device)
        except InputError as error:
            self.problems.append(str(error))
            return None
        stored_trial = description["about"].get("trial")
        image = self._image_shape
        shapes = [
            list(self._bench.senders[cell.sender].shape(cell.sender_layer, image)),
            list(self._bench.networks[cell.receiver].shape(cell.receiver_layer, image)),
        ]
        if stored_trial != trained_trial:
            self.problems.append(f"{path}: contains the stitch of trial {stored_trial}")
        elif [description["sender"], description["receiver"]] != shapes:
            self.problems.append(
                f"{path}: joins {description['sender']} to {description['receiver']}, but the layers "
                f"of {cell} have the shapes {shapes[0]} and {shapes[1]}"
            )
        else:
            return module
        return None

    @property
    def _image_shape(self) -> tuple[int, ...]:
        return tuple(self._bench.loaders()["test"].images.images.shape[1:])


def recorded_loss(loss: Any) -> CombinedLoss:
    """Build the loss of a trial's record, to read its properties."""
    return CombinedLoss.from_config(LossConfig.model_validate(loss))
