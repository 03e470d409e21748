"""Trials of a study that train the same stitch in the same way, and therefore have the same result.

A result is a function of the study, the sweep's seed and the settings; a trial's number plays no part.
Two trials of one study whose settings differ only in ineffective values have equal results, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from stitch_sweep.config.stitch import StitchConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.losses.base import CombinedLoss
from stitch_sweep.stitches.base import Stitch
from stitch_sweep.stitches.building import build_on_meta
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.stitches.starts import choose_start
from stitch_sweep.storage.study import Study


class EffectiveSettings:
    """The settings of trials without the values that have no effect on the result.

    The following have no effect:

    - whether a default is written out: options of a stitch, a loss or an optimizer, the learning
      rate that the loss chooses, upper and lower case in an optimizer's name;
    - whether a recipe is named, or its values are written out;
    - whitened coordinates, for a stitch that is trained in raw ones, and `start: auto`, for a stitch
      whose start is then random;
    - for a stitch that is not trained, because `training.epochs` is 0 or because it has no trainable
      parameters: everything under `training`, and the strength of `stitch.l1`.

    Args:
        shape: returns the shape of a network's layer, without the batch, for a name and a layer. Without
            it, stitches without trainable parameters aren't recognized.
    """

    def __init__(self, shape: Callable[[str, int], Shape] | None = None) -> None:
        self._shape = shape
        self._outlines: dict[tuple[str, Shape, Shape], nn.Module | None] = {}

    def key(self, study: Study, settings: TrialSettings) -> str:
        """Return a text that is equal for two trials of a study exactly if their results are equal."""
        stitch, outline = settings.stitch, self._outline(study, settings.stitch)
        effective: dict[str, Any] = {
            "stitch": stitch.model_dump(mode="json"),
            # In their order, which is the order of the sum.
            "loss": [(term.name, term.weight, term.options) for term in settings.loss.terms],
        }
        if outline is not None and choose_start(outline, stitch.start) == "random":
            effective["stitch"]["start"] = "random"
        if settings.training.epochs > 0 and (outline is None or _has_parameters(outline)):
            training = settings.training
            default_lr = CombinedLoss.from_config(settings.loss).default_lr(training.optimizer.name)
            effective["training"] = {
                **training.all_values(),
                "optimizer": training.optimizer.arguments(default_lr),
            }
            del effective["training"]["recipe"]
            if isinstance(outline, Stitch) and outline.explain_raw_coordinates() is not None:
                effective["training"]["coordinates"] = "raw"
            elif training.coordinates == "whitened" and training.optimizer.lr is None:
                effective["training"]["optimizer"]["lr"] = None  # depends on the cell, too
        else:
            # A penalty of any strength changes how convergence is judged.
            effective["stitch"]["l1"] = stitch.l1 > 0
        return json.dumps(_with_floats(effective), sort_keys=True)

    def _outline(self, study: Study, stitch: StitchConfig) -> nn.Module | None:
        """Return the study's stitch without weights; None if shapes aren't known or don't fit it."""
        if self._shape is None:
            return None
        sender = self._shape(study.sender, study.sender_layer)
        receiver = self._shape(study.receiver, study.receiver_layer)
        key = (stitch.model_dump_json(), sender, receiver)
        if key not in self._outlines:
            try:
                self._outlines[key] = build_on_meta(stitch, sender, receiver)
            except InputError:
                self._outlines[key] = None  # the trial itself reports the reason
        return self._outlines[key]


def _has_parameters(stitch: nn.Module) -> bool:
    return any(p.requires_grad for p in stitch.parameters())


def _with_floats(value: Any) -> Any:
    """Return the same plain data with whole numbers as floats: `0` and `0.0` mean the same."""
    if isinstance(value, Mapping):
        return {key: _with_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_floats(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value == float(value):
        return float(value)
    return value
