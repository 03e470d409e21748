"""The networks, images and settings that checks run on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.checks.sanity.plain import chunks
from stitch_sweep.config.root import Config
from stitch_sweep.config.stitch import StitchConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import DivergedError
from stitch_sweep.data.images import Data
from stitch_sweep.data.splits import stratified_sample
from stitch_sweep.plan.cells import Cell
from stitch_sweep.stitches.building import misfit
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.training.loop import StitchResult, StitchTraining
from stitch_sweep.training.workbench import Workbench

EPOCHS = 2
"""Maximum length of a check's training."""


@dataclass(frozen=True)
class CompletedTraining:
    """A training from start to end.

    Attributes:
        training: the training in its final state.
        start: the stitch's tensors before the first step.
        result: the training's result.
    """

    training: StitchTraining
    start: dict[str, Tensor]
    result: StitchResult

    @property
    def predictions(self) -> Tensor:
        """Predicted class of every test image, int64 [N]."""
        assert self.result.predictions is not None
        return self.result.predictions

    @property
    def validation(self) -> dict[str, Any]:
        """The trajectory's row of the validation of the trained stitch; empty without validations."""
        rows = [row for row in self.result.trajectory if row["split"] == "validation"]
        kept = [row for row in rows if row.get("kept")] or rows[-1:]
        return kept[0] if kept else {}

    def tensors(self) -> dict[str, Tensor]:
        """Return all results except times, by a descriptive name, in the order of computation."""
        tensors = {
            f"the stitch's {name} before the first step": t for name, t in self.start.items()
        }
        for row in self.result.trajectory:
            place = f"at step {row['step']} ({row['split']})"
            for key, value in row.items():
                if isinstance(value, float) and key != "time":
                    tensors[f"{key} {place}"] = torch.tensor(value, dtype=torch.float64)
        final = self.result.stitch.state_dict()
        tensors |= {f"the trained stitch's {name}": t for name, t in final.items()}
        for key, value in self.result.metrics.items():
            if isinstance(value, float):
                tensors[f"the final {key}"] = torch.tensor(value, dtype=torch.float64)
        return {**tensors, "the test predictions": self.predictions}


@dataclass(frozen=True)
class Subject:
    """Two networks, images and settings; every check starts with fresh copies of them.

    Args:
        config: provides seed, threads, device and cache size; its data section is not used.
        all_data: the images.
        modules: the networks by name, on the CPU; they never run.
        load_again: builds the same networks again from their stored weights.
        cell: the cell to stitch.
        settings: settings of its trial, with the full number of epochs.
        images: number of training and of test images for checks that don't need all.
        is_tiny: whether these are the tiny networks.
    """

    config: Config
    all_data: Data
    modules: Mapping[str, nn.Module]
    load_again: Callable[[], Mapping[str, nn.Module]]
    cell: Cell
    settings: TrialSettings
    images: int
    is_tiny: bool = False

    @property
    def device(self) -> str:
        """Device of the computations."""
        return self.config.resources.device

    @cached_property
    def data(self) -> Data:
        """A sample of `images` training and test images, stratified by class."""

        def sample(split: str, size: int) -> Any:
            images = getattr(self.all_data, split)
            if len(images) <= size:
                return images
            return images.select(stratified_sample(images.labels, size, "sanity", split))

        sizes = {"train": self.images, "validation": max(1, self.images // 4), "test": self.images}
        return replace(self.all_data, **{split: sample(split, n) for split, n in sizes.items()})

    def resize_split(self, data: Data, split: str, size: int) -> Data:
        """Return `data` with exactly `size` images in a split; images repeat where there are fewer."""
        images = getattr(data, split)
        return replace(data, **{split: images.select(torch.arange(size) % len(images))})

    @cached_property
    def short(self) -> TrialSettings:
        """The settings with at most `EPOCHS` epochs, all of them, and a logged row for every step."""
        training = self.settings.training
        epochs = max(1, min(training.epochs, EPOCHS))
        return self.settings.model_copy(
            update={
                "training": training.model_copy(
                    update={"epochs": epochs, "log_every": 1, "patience": None}
                )
            }
        )

    def bench(
        self,
        data: Data | None = None,
        modules: Mapping[str, tuple[nn.Module, str]] | None = None,
        *,
        augment: str | None = None,
        cache_gb: float | None = None,
        device: str | None = None,
    ) -> Workbench:
        """Make a workbench like that of a sweep's worker: fresh networks and an empty cache.

        Args:
            data: images; the sample `data` if not given.
            modules: other networks: name -> (module, name of the network with its architecture).
            augment: replaces the configuration's augmentation.
            cache_gb: replaces the configuration's cache size.
            device: replaces the configuration's device.
        """
        config = self.config
        if modules is None:
            names = dict.fromkeys((self.cell.sender, self.cell.receiver))
            modules = {name: (copy.deepcopy(self.modules[name]), name) for name in names}
        networks = {network.name: network for network in config.networks}
        changes: dict[str, Any] = {
            "networks": [
                networks[architecture].model_copy(update={"name": name})
                for name, (_, architecture) in modules.items()
            ]
        }
        if augment is not None:
            changes["data"] = config.data.model_copy(update={"augment": augment})
        if cache_gb is not None:
            changes["resources"] = config.resources.model_copy(update={"cache_gb": cache_gb})
        return Workbench(
            config.model_copy(update=changes),
            data or self.data,
            {name: module for name, (module, _) in modules.items()},
            device,
        )

    def start(
        self, bench: Workbench, cell: Cell | None = None, settings: TrialSettings | None = None
    ) -> StitchTraining:
        """Start a training as a worker does.

        Args:
            bench: the networks.
            cell: the subject's cell if not given.
            settings: `short` if not given.
        """
        cell = cell or self.cell
        return bench.training(
            cell.sender,
            cell.sender_layer,
            cell.receiver,
            cell.receiver_layer,
            settings or self.short,
        )

    def run(
        self, bench: Workbench, cell: Cell | None = None, settings: TrialSettings | None = None
    ) -> CompletedTraining:
        """Run a training from start to end; arguments as for `start`.

        Raises:
            DivergedError: the training diverges, so its values are meaningless.
        """
        training = self.start(bench, cell, settings)
        return self.complete(training, training.run_epoch)

    def complete(
        self, training: StitchTraining, run_epoch: Callable[[], object]
    ) -> CompletedTraining:
        """Run a training that has just started to its end.

        Args:
            training: the training.
            run_epoch: advances it to the end of its current epoch.

        Raises:
            DivergedError: the training diverges, so its values are meaningless.
        """
        start = {name: t.detach().cpu().clone() for name, t in training.stitch.state_dict().items()}
        while not training.done:
            run_epoch()
        result = training.finish()
        if result.status != "finished":
            raise DivergedError(
                "the training of this check diverges, so the check can't run: "
                "lower training.optimizer.lr"
            )
        return CompletedTraining(training, start, result)

    def self_stitch(self, bench: Workbench, name: str, layer: int) -> tuple[Cell, TrialSettings]:
        """Return the cell from a layer into itself, and settings with a stitch that fits it."""
        shape = bench.networks[name].shape(layer, self.data.image_shape)
        stitch = self.short.stitch
        if misfit(stitch, shape, shape) is not None:
            fitting = "linear" if len(shape) == 1 else "paper"
            stitch = StitchConfig.model_validate({"name": fitting})
        return Cell(name, layer, name, layer), self.short.model_copy(update={"stitch": stitch})

    def shapes(self, bench: Workbench) -> tuple[Shape, Shape]:
        """Return the shapes of the sender's and the receiver's layer, without the batch dimension."""
        cell, image = self.cell, self.data.image_shape
        return (
            bench.networks[cell.sender].shape(cell.sender_layer, image),
            bench.networks[cell.receiver].shape(cell.receiver_layer, image),
        )

    def normalized(self, data: Data, split: str, device: str | None = None) -> Tensor:
        """Return a split's images as networks receive them, float32 [N, C, H, W], in stored order.

        The normalization does not use the loaders, so that their faults show.
        """
        images = getattr(data, split).images.to(device or self.device)
        mean, std = (t.to(images.device)[:, None, None] for t in (data.mean, data.std))
        return (images.float() / 255 - mean) / std

    @torch.no_grad()
    def outputs(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return the outputs for images [N, C, H, W] on the CPU, computed in padded chunks."""
        return torch.cat([network(chunk)[:valid].cpu().clone() for chunk, valid in chunks(images)])

    def stitched(
        self, bench: Workbench, stitch: nn.Module, cell: Cell | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Return the stitched network: images [B, C, H, W] -> logits [B, K]."""
        cell = cell or self.cell
        prefix = bench.networks[cell.sender].prefix(cell.sender_layer)
        suffix = bench.networks[cell.receiver].suffix(cell.receiver_layer)
        stitch = stitch.to(bench.device).eval()
        return lambda images: suffix(stitch(prefix(images)))
