"""The state of a training at its end, and the comparison of two states bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from stitch_sweep.core.generators import capture_generators
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.storage.checkpoints import pack
from stitch_sweep.storage.digests import tensors_of
from stitch_sweep.training.loop import StitchTraining


def final_state(
    running: StitchTraining, networks: list[FrozenNetwork], data: Data
) -> dict[str, Any]:
    """Train to the end, and return everything that decides or describes the result, except times."""
    while not running.done:
        running.run_epoch()
    state = {
        "optimization": running._optimization.state_dict(),
        "generators": capture_generators(running._device),
        "step": running.step,
    }
    result = running.finish()
    sender, receiver = networks
    i, j = running._identity["sender"][1], running._identity["receiver"][1]
    loaders = make_loaders(data, 64, seed=0, device=running._device)
    images = next(loaders["test"].in_order(100)).images
    with torch.no_grad():
        stitched = result.stitch.to(images.device).eval()(sender.prefix(i)(images))
        logits = receiver.suffix(j)(stitched)
    return state | {
        "stitch": tensors_of(result.stitch),
        "logits": logits,
        "status": result.status,
        "metrics": result.metrics,
        "predictions": result.predictions,
        "trajectory": [{k: v for k, v in row.items() if k != "time"} for row in result.trajectory],
    }


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Yield the paths at which two states differ in any bit; -0 is not 0, and 1 is not True."""
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        for key in one:
            yield from differences(one[key], other[key], f"{path}.{key}".removeprefix("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for k, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{path}.{k}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if pack({"": one}) != pack({"": other}):
            yield path
    elif type(one) is not type(other) or repr(one) != repr(other):
        yield path
