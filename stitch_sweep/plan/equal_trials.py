"""Which trials of a study train the same stitch in the same way, and so have the same result.

A result is a function of the study, the sweep's seed and the settings; a trial's number plays no part.
Two trials of one study whose settings differ only in what has no effect therefore have equal results,
bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from stitch_sweep.config.models import StitchConfig, TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.losses.base import CombinedLoss, LossContext
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.storage.ledger import Study


class EffectiveSettings:
    """Settings of trials without what has no effect on the result.

    What has no effect:

    - whether a default is written out: options of a stitch, a loss or an optimizer, the learning
      rate that the loss chooses, upper and lower case in an optimizer's name;
    - of a stitch that is not trained, because `training.epochs` is 0 or because it has no trainable
      parameters: everything under `training`, and the strength of `stitch.l1`.

    Args:
        shape: shape of a network's layer, without the batch, as a function of name and layer; without
            it, stitches without trainable parameters aren't recognized.
    """

    def __init__(self, shape: Callable[[str, int], Shape] | None = None) -> None:
        self._shape = shape
        self._trainable: dict[tuple[str, Shape, Shape], bool] = {}

    def key(self, study: Study, settings: TrialSettings) -> str:
        """A text that is equal for two trials of a study if and only if their settings are."""
        stitch = settings.stitch
        terms = [(term.name, term.weight, term.options) for term in settings.loss.terms]
        found: dict[str, Any] = {
            "stitch": stitch.model_dump(mode="json"),
            "loss": terms,  # in their order, which is the order of the sum
        }
        if self._is_trained(study, settings):
            training = settings.training
            default_lr = CombinedLoss(terms, LossContext()).default_lr(training.optimizer.name)
            found["training"] = {
                **training.model_dump(mode="json"),
                "optimizer": training.optimizer.arguments(default_lr),
            }
        else:
            # Whether there is a penalty decides how convergence is judged.
            found["stitch"]["l1"] = stitch.l1 > 0
        return json.dumps(_with_floats(found), sort_keys=True)

    def _is_trained(self, study: Study, settings: TrialSettings) -> bool:
        return settings.training.epochs > 0 and self._has_parameters(study, settings.stitch)

    def _has_parameters(self, study: Study, stitch: StitchConfig) -> bool:
        if self._shape is None:
            return True
        sender = self._shape(study.sender, study.sender_layer)
        receiver = self._shape(study.receiver, study.receiver_layer)
        key = (stitch.model_dump_json(), sender, receiver)
        if key not in self._trainable:
            try:
                with torch.device("meta"):
                    built = build_stitch(
                        stitch.name, sender, receiver, start=stitch.start, options=stitch.options
                    )
            except InputError:
                return True  # the trial itself says why it can't be trained
            self._trainable[key] = any(p.requires_grad for p in built.parameters())
        return self._trainable[key]


def _with_floats(value: Any) -> Any:
    """The same plain data with whole numbers as floats: an option may be written `0` or `0.0`."""
    if isinstance(value, Mapping):
        return {key: _with_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_floats(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value == float(value):
        return float(value)
    return value
