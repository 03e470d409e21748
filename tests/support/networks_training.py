"""Start and finish the training of one stitch between two networks."""

from __future__ import annotations

from typing import Any

from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.training.loop import StitchResult, StitchTraining


def start_training(
    a, b, i, j, data, loss="task", stitch: Any = "paper", **training: Any
) -> StitchTraining:
    """Start to train a stitch from layer i of network a to layer j of network b."""
    settings = TrialSettings.model_validate(
        {
            "stitch": stitch if isinstance(stitch, dict) else {"name": stitch},
            "loss": {loss: 1.0} if isinstance(loss, str) else loss,
            "training": {"epochs": 1, **training},
        }
    )
    loaders = make_loaders(data, settings.training.batch_size, seed=0)
    a, b = (n if isinstance(n, FrozenNetwork) else FrozenNetwork(n) for n in (a, b))
    return StitchTraining(a, b, i, j, loaders, settings)


def finish_training(training: StitchTraining) -> StitchResult:
    """Run the remaining epochs."""
    while not training.done:
        training.run_epoch()
    return training.finish()
