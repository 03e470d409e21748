"""Train a zoo network from its recipe, or make an untrained control."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from stitch_sweep.config.pretraining import PretrainingConfig
from stitch_sweep.core.errors import DivergedError
from stitch_sweep.core.generators import capture_generators, restore_generators
from stitch_sweep.core.seeding import derive, seed_everything
from stitch_sweep.data.batches import CHUNK
from stitch_sweep.data.images import Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.evaluation import evaluate
from stitch_sweep.networks.optimization import Optimization
from stitch_sweep.networks.recipes import Recipe
from stitch_sweep.networks.stem import whiten_stem
from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.checkpoints import FORMAT as CHECKPOINT_FORMAT
from stitch_sweep.storage.checkpoints import pack, unpack

_MEMORY_FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


@dataclass(frozen=True)
class Progress:
    """One epoch of a network's training.

    Attributes:
        epoch: epochs done.
        epochs: epochs in total.
        loss: mean training loss of the epoch, nats; NaN for an untrained network.
        val_accuracy: accuracy on the validation split, in [0, 1].
        checkpoint: state to resume from; None for most epochs.
        weights: the finished network's state; None before the last epoch.
        accuracy: the finished network's accuracy per split; None before the last epoch.
    """

    epoch: int
    epochs: int
    loss: float
    val_accuracy: float
    checkpoint: bytes | None = None
    weights: bytes | None = None
    accuracy: dict[str, float] | None = None


def train_network(
    recipe: Recipe,
    data: Data,
    *,
    threads: int,
    device: str = "cpu",
    resume: bytes | None = None,
    checkpoint_seconds: float = 30.0,
) -> Iterator[Progress]:
    """Train a network (or make an untrained control), epoch by epoch.

    The control `random` has Kaiming fan-out weights and BatchNorm statistics from one pass over the
    training images; `random_raw` keeps the statistics at 0 and 1.

    Args:
        recipe: the recipe of the network.
        data: the images of the recipe.
        threads: torch's intra-op threads.
        device: device of the computation.
        resume: a checkpoint of the same recipe to resume from.
        checkpoint_seconds: smallest time between two checkpoints.

    Yields:
        Progress after every epoch; the last progress contains the weights.

    Raises:
        CheckpointError: `resume` is damaged, or belongs to another recipe.
        DivergedError: the training diverged.
    """
    content = recipe.content
    seed_everything(derive(content["seed"], "network", recipe.title), threads)
    network = recipe.architecture().to(device)
    augment = content["data"].get("augment", "none")
    pretraining = content.get("pretraining", {"batch_size": CHUNK})
    seed = derive(content["seed"], "network data")
    loaders = make_loaders(
        data, pretraining["batch_size"], seed=seed, augment=augment, device=device
    )
    progress = Progress(0, 0, float("nan"), float("nan"))
    if content["weights"] == "random":
        fill_batchnorm_statistics(network, loaders["train"])
    elif content["weights"] == "trained":
        for progress in _train(recipe, network, loaders, resume, checkpoint_seconds):
            if progress.epoch < progress.epochs:
                yield progress
    # As a loaded network, whose stored accuracy this is.
    network.to(memory_format=torch.contiguous_format).eval()
    accuracy = {split: evaluate(network, loader).accuracy for split, loader in loaders.items()}
    yield Progress(
        progress.epochs,
        progress.epochs,
        progress.loss,
        accuracy["validation"],
        weights=pack({"model": dict(network.state_dict())}),
        accuracy=accuracy,
    )


@torch.no_grad()
def fill_batchnorm_statistics(network: nn.Module, loader: Loader) -> None:
    """Set BatchNorm's running statistics to means over one pass of the training images.

    Each chunk's statistics are weighted by its number of images.
    """
    normalizations = [
        m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [m.momentum for m in normalizations]
    for module in normalizations:
        module.reset_running_stats()
    # Dropout is disabled in every later forward pass, so it must not influence the statistics.
    network.eval()
    for module in normalizations:
        module.train()
    seen = 0
    for batch in loader.in_order():
        seen += batch.valid
        for module in normalizations:
            module.momentum = batch.valid / seen
        network(batch.images[: batch.valid])
    for module, momentum in zip(normalizations, momenta, strict=True):
        module.momentum = momentum


def unpack_training_checkpoint(data: bytes, recipe: Recipe) -> dict[str, Any]:
    """Unpack a checkpoint of a network's training.

    Raises:
        CheckpointError: it is damaged, or belongs to another recipe or version.
    """
    state = unpack(data)
    identity = state.get("of")
    if not isinstance(identity, Mapping):
        raise CheckpointError("foreign: no checkpoint of a network's training")
    if identity != _checkpoint_identity(recipe):
        raise CheckpointError("a checkpoint of another recipe or version")
    return state


def _train(
    recipe: Recipe,
    network: nn.Module,
    loaders: Mapping[str, Loader],
    resume: bytes | None,
    checkpoint_seconds: float,
) -> Iterator[Progress]:
    train = loaders["train"]
    pretraining = PretrainingConfig.model_validate(recipe.content["pretraining"])
    epochs = pretraining.epochs
    if pretraining.whiten_stem and resume is None:
        whiten_stem(network, next(train.in_order()).images)
    # Convolutions return the layout of their weights, so images need no conversion.
    network.to(memory_format=_MEMORY_FORMATS[pretraining.memory_format])
    optimization = Optimization(
        network.parameters(),
        pretraining.optimizer,
        pretraining.schedule,
        epochs * len(train),
        default_lr=0.1,
    )
    shortened = torch.autocast(
        train.device.type, torch.bfloat16, enabled=pretraining.precision == "bfloat16"
    )
    if resume is not None:
        state = unpack_training_checkpoint(resume, recipe)
        network.load_state_dict(state["model"])
        optimization.load_state_dict(state["optimization"])
        restore_generators(state["generators"], train.device)
    stored = time.monotonic()
    for epoch in range(optimization.step_count // len(train), epochs):
        network.train()
        total = torch.zeros((), dtype=torch.float64, device=train.device)
        for batch in train.batches(epoch):
            with shortened:
                logits = network(batch.images)
            loss = functional.cross_entropy(
                logits.float(), batch.labels, label_smoothing=pretraining.label_smoothing
            )
            optimization.step(loss)
            total += loss.detach().double() * batch.valid
        mean = (total / len(train.images)).item()
        # The last step may make weights non-finite, which no later loss would show.
        if not (math.isfinite(mean) and all(p.isfinite().all() for p in network.parameters())):
            raise DivergedError(
                f"network {recipe.name!r}: its training diverged in epoch {epoch + 1}; "
                "lower pretraining.optimizer.lr"
            )
        network.eval()
        checkpoint = None
        if time.monotonic() - stored >= checkpoint_seconds and epoch + 1 < epochs:
            stored = time.monotonic()
            checkpoint = pack(
                {
                    "of": _checkpoint_identity(recipe),
                    "model": dict(network.state_dict()),
                    "optimization": optimization.state_dict(),
                    "generators": capture_generators(train.device),
                }
            )
        # The caller evaluates the finished network on all splits.
        finished = epoch + 1 == epochs
        accuracy = float("nan") if finished else evaluate(network, loaders["validation"]).accuracy
        yield Progress(epoch + 1, epochs, mean, accuracy, checkpoint)


def _checkpoint_identity(recipe: Recipe) -> dict[str, Any]:
    """Return the identity that a checkpoint stores, as it is after conversion to JSON and back."""
    content: dict[str, Any] = json.loads(json.dumps(recipe.content))
    return {"format": CHECKPOINT_FORMAT, "recipe": content}
