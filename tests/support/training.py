"""Trainings of stitches between the tiny networks, and the comparison of their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.storage.digests import fingerprint
from stitch_sweep.training.loop import StitchResult, StitchTraining

STEPS_PER_EPOCH = 5  # of the 300 training images in batches of 64


def settings(
    loss: str | Mapping[str, Any] = "task", *, stitch: Any = "paper", **training: Any
) -> TrialSettings:
    """Make the settings of a training of two epochs; `training` overrides its section."""
    return TrialSettings.model_validate(
        {
            "stitch": stitch if isinstance(stitch, Mapping) else {"name": stitch},
            "loss": {loss: 1.0} if isinstance(loss, str) else dict(loss),
            "training": {"epochs": 2, **training},
        }
    )


def frozen(*networks: nn.Module) -> tuple[FrozenNetwork, ...]:
    """Freeze networks, named `network 0` and so on."""
    return tuple(FrozenNetwork(n, f"network {k}") for k, n in enumerate(networks))


def training(
    a: nn.Module | FrozenNetwork,
    b: nn.Module | FrozenNetwork,
    i: int,
    j: int,
    data: Data,
    chosen: TrialSettings,
    augment: str = "none",
    **options: Any,
) -> StitchTraining:
    """Set up the training of the cell from layer i of a to layer j of b."""
    a, b = (n if isinstance(n, FrozenNetwork) else FrozenNetwork(n) for n in (a, b))
    seed = options.get("seed", 0)
    loaders = make_loaders(data, chosen.training.batch_size, seed=seed, augment=augment)
    return StitchTraining(a, b, i, j, loaders, chosen, **options)


def finished(running: StitchTraining) -> StitchResult:
    """Train to the end, and return the result."""
    while not running.done:
        running.run_epoch()
    return running.finish()


def outcome(result: StitchResult) -> dict[str, Any]:
    """Return everything in a result except times, in a form that `==` compares bit for bit."""
    return {
        "status": result.status,
        "metrics": result.metrics,
        "trajectory": [{k: v for k, v in row.items() if k != "time"} for row in result.trajectory],
        "predictions": None if result.predictions is None else result.predictions.tolist(),
        "stitch": fingerprint(result.stitch),
    }
