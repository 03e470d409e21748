"""What the checks are run on, and what they find."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stitch_sweep.config import Config, LossConfig, StitchConfig, TrialSettings
from stitch_sweep.data import Data, Loader, make_loaders
from stitch_sweep.data.splits import stratified_sample
from stitch_sweep.errors import InputError
from stitch_sweep.evaluation import CHUNK
from stitch_sweep.frozen import IMAGE_LAYER, FrozenNetwork
from stitch_sweep.stitches import build_stitch
from stitch_sweep.sweep.cells import Cell
from stitch_sweep.training import ActivationCache, StitchResult, StitchTraining

Verdict = Literal["pass", "fail", "warn", "skip"]

EPOCHS = 2
"""No training of a check is longer."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: of the check.
        compared: what with what.
        difference: the largest one; None where there is nothing to subtract.
        verdict: `fail` is a defect, `warn` something to know before trusting a result.
        detail: what is wrong and where, or what is worth knowing; may be empty.
        figures: further numbers, as plain data.
    """

    name: str
    compared: str
    difference: float | None
    verdict: Verdict
    detail: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: an infinite difference is the text `inf`."""
        difference = self.difference
        if difference is not None and not math.isfinite(difference):
            return {**vars(self), "difference": str(difference)}
        return dict(vars(self))


@dataclass(frozen=True)
class Run:
    """A training from start to end.

    Attributes:
        training: as it was when it was done.
        start: the stitch's tensors before the first step.
        result: what came of it.
    """

    training: StitchTraining
    start: dict[str, Tensor]
    result: StitchResult

    def tensors(self) -> dict[str, Tensor]:
        """Everything but times, in the order in which it came about, under names that say what it is."""
        found = {f"the stitch's {name} before the first step": t for name, t in self.start.items()}
        for row in self.result.trajectory:
            where = f"at step {row['step']} ({row['split']})"
            for key, value in row.items():
                if isinstance(value, float) and key != "time":
                    found[f"{key} {where}"] = torch.tensor(value, dtype=torch.float64)
        final = self.result.stitch.state_dict()
        found |= {f"the trained stitch's {name}": t for name, t in final.items()}
        if self.result.predictions is not None:
            found["the test predictions"] = self.result.predictions
        return found


@dataclass(frozen=True)
class Subject:
    """Two networks, images and settings; every check starts from fresh copies of them.

    Args:
        config: whose settings, seed, threads and device hold; its data section plays no part.
        whole: the images.
        modules: the networks by name, on the CPU.
        load_again: builds the same networks anew from what is stored.
        cell: the pair that is stitched.
        images: so many training and test images are used where a check doesn't need all.
    """

    config: Config
    whole: Data
    modules: Mapping[str, nn.Module]
    load_again: Callable[[], Mapping[str, nn.Module]]
    cell: Cell
    images: int

    @property
    def device(self) -> str:
        """Where is computed."""
        return self.config.resources.device

    @cached_property
    def data(self) -> Data:
        """The images cut down to `images`, each class in proportion."""

        def cut(split: str, size: int) -> Any:
            images = getattr(self.whole, split)
            if len(images) <= size:
                return images
            return images.select(stratified_sample(images.labels, size, "sanity", split))

        sizes = {"train": self.images, "validation": max(1, self.images // 4), "test": self.images}
        return replace(self.whole, **{split: cut(split, size) for split, size in sizes.items()})

    @cached_property
    def settings(self) -> TrialSettings:
        """The configuration's own trial settings, with a short training and a row for every step."""
        settings = TrialSettings.model_validate(self.config.settings)
        epochs = max(1, min(settings.training.epochs, EPOCHS))
        training = settings.training.model_copy(update={"epochs": epochs, "log_every": 1})
        return settings.model_copy(update={"training": training})

    @cached_property
    def explicit_settings(self) -> TrialSettings:
        """The same with a learning rate that doesn't come from the loss."""
        training = self.settings.training
        optimizer = training.optimizer.model_copy(update={"lr": training.optimizer.lr or 0.01})
        return self.settings.model_copy(
            update={"training": training.model_copy(update={"optimizer": optimizer})}
        )

    def plain_settings(self, loss: str) -> TrialSettings:
        """`explicit_settings` with the stitch `paper` and one loss."""
        return self.explicit_settings.model_copy(
            update={
                "stitch": StitchConfig.model_validate({"name": "paper"}),
                "loss": LossConfig.model_validate({loss: 1.0}),
            }
        )

    def network(self, name: str, called: str | None = None) -> FrozenNetwork:
        """A fresh copy of a network, frozen.

        Args:
            name: which one.
            called: its name in messages; its own if not given.
        """
        return self.freeze(copy.deepcopy(self.modules[name]), name, called)

    def freeze(self, module: nn.Module, name: str, called: str | None = None) -> FrozenNetwork:
        """A module that has the architecture of the network `name`, on the device and frozen."""
        layers = next(n.layers for n in self.config.networks if n.name == name)
        return FrozenNetwork(module.to(self.device), called or name, layers)

    def loaders(self, data: Data | None = None, batch_size: int | None = None) -> dict[str, Loader]:
        """A loader per split of `data`, or of the images cut down."""
        return make_loaders(
            data or self.data,
            batch_size or self.settings.training.batch_size,
            seed=self.config.seed,
            augment=self.config.data.augment,
            device=self.device,
        )

    def start(
        self,
        sender: FrozenNetwork,
        sender_layer: int,
        receiver: FrozenNetwork,
        receiver_layer: int,
        settings: TrialSettings | None = None,
        *,
        loaders: Mapping[str, Loader] | None = None,
        cache: ActivationCache | None = None,
    ) -> StitchTraining:
        """A training as a sweep starts one, on the images cut down."""
        return StitchTraining(
            sender,
            receiver,
            sender_layer,
            receiver_layer,
            loaders or self.loaders(),
            settings or self.settings,
            seed=self.config.seed,
            threads=self.config.resources.cpu,
            cache=cache,
        )

    def run(self, *args: Any, **options: Any) -> Run:
        """`start`, and on to the end."""
        training = self.start(*args, **options)
        begun = {name: t.detach().cpu().clone() for name, t in training.stitch.state_dict().items()}
        while not training.done:
            training.run_epoch()
        return Run(training, begun, training.finish())

    def cell_networks(self) -> tuple[FrozenNetwork, int, FrozenNetwork, int]:
        """Fresh copies of the cell's networks with their layers, as `start` takes them."""
        cell = self.cell
        sender = self.network(cell.sender)
        receiver = sender if cell.sender == cell.receiver else self.network(cell.receiver)
        return sender, cell.sender_layer, receiver, cell.receiver_layer

    def places(
        self, sender: FrozenNetwork, i: int, receiver: FrozenNetwork, j: int
    ) -> tuple[nn.Module | None, nn.Module | None]:
        """The modules after which the plain loop cuts both networks.

        Raises:
            LookupError: a layer is no module's output, or no feature map.
        """
        for network, layer in ((sender, i), (receiver, j)):
            if len(network.shape(layer, self.data.image_shape)) != 3:
                raise LookupError("the loop written out knows feature maps only")
        return module_at(sender, i), module_at(receiver, j)

    def self_settings(self, network: FrozenNetwork, layer: int) -> TrialSettings:
        """The settings, with a stitch that can join a layer to itself if their own can't."""
        shape = network.shape(layer, self.data.image_shape)
        stitch = self.settings.stitch
        try:
            build_stitch(stitch.name, shape, shape, start=stitch.start, options=stitch.options)
        except InputError:
            name = "paper" if len(shape) == 3 else "linear"
            stitch = StitchConfig.model_validate({"name": name})
        return self.settings.model_copy(update={"stitch": stitch})

    def normalised(self, data: Data, split: str) -> Tensor:
        """The images of a split as the networks see them, float32 [N, C, H, W], in stored order.

        Written out, so that a fault in a loader shows.
        """
        images = getattr(data, split).images.to(self.device)
        mean, std = (t.to(self.device)[:, None, None] for t in (data.mean, data.std))
        return (images.float() / 255 - mean) / std

    @torch.no_grad()
    def outputs(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What `network` makes of images [N, C, H, W], in padded chunks as everywhere, on the CPU."""
        return torch.cat([network(chunk)[:valid].cpu().clone() for chunk, valid in chunks(images)])


def module_at(network: FrozenNetwork, layer: int) -> nn.Module | None:
    """The module whose output a layer is; None for the image.

    Raises:
        LookupError: it is no module's output.
    """
    if layer == IMAGE_LAYER:
        return None
    name = network.layer_names[layer]
    modules = dict(network.network.named_modules())
    if name not in modules:
        raise LookupError(f"layer {name} is not a module's output, and a hook needs one")
    return modules[name]


def chunks(images: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Images [N, ...] in chunks of the evaluation's size, and how many rows of each are real."""
    count = len(images)
    for first in range(0, count, CHUNK):
        at = torch.arange(first, first + CHUNK, device=images.device) % count
        yield images[at], min(CHUNK, count - first)


def joined(
    sender: FrozenNetwork, i: int, stitch: nn.Module, receiver: FrozenNetwork, j: int
) -> Callable[[Tensor], Tensor]:
    """The stitched network, images [B, C, H, W] to logits [B, K]."""
    prefix, suffix = sender.prefix(i), receiver.suffix(j)
    stitch = stitch.to(next(receiver.network.parameters()).device).eval()
    return lambda images: suffix(stitch(prefix(images)))
