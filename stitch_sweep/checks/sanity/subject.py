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

from stitch_sweep.config.models import Config, LossConfig, StitchConfig, TrialSettings
from stitch_sweep.core.errors import DivergedError
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.data.images import Data
from stitch_sweep.data.splits import stratified_sample
from stitch_sweep.networks.cutting.tracing import submodule
from stitch_sweep.networks.evaluation import CHUNK
from stitch_sweep.networks.frozen import IMAGE_LAYER, FrozenNetwork
from stitch_sweep.plan.cells import Cell
from stitch_sweep.plan.prepare import misfit
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.training.loop import StitchResult, StitchTraining
from stitch_sweep.training.workbench import Workbench

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
        """As JSON can hold it: a number that isn't finite becomes a text, `inf` or `nan`."""
        plain: dict[str, Any] = _finite(dict(vars(self)))
        return plain


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, float) and not math.isfinite(node):
        return str(node)
    return node


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

    @property
    def predictions(self) -> Tensor:
        """int64 [N], the class predicted for every test image."""
        assert self.result.predictions is not None
        return self.result.predictions

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
        for key, value in self.result.metrics.items():
            if isinstance(value, float):
                found[f"the final {key}"] = torch.tensor(value, dtype=torch.float64)
        return {**found, "the test predictions": self.predictions}


@dataclass(frozen=True)
class Subject:
    """Two networks, images and settings; every check starts from fresh copies of them.

    Args:
        config: whose seed, threads, device and cache hold; its data section plays no part.
        whole: the images.
        modules: the networks by name, on the CPU; nobody ever runs them.
        load_again: builds the same networks anew from what is stored.
        cell: the pair that is stitched.
        settings: how, before they are cut short.
        images: so many training and test images are used where a check doesn't need all.
        little: whether these are the little networks.
    """

    config: Config
    whole: Data
    modules: Mapping[str, nn.Module]
    load_again: Callable[[], Mapping[str, nn.Module]]
    cell: Cell
    settings: TrialSettings
    images: int
    little: bool = False

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

    def of_length(self, data: Data, split: str, size: int) -> Data:
        """`data` with a split that has exactly `size` images, some of them twice if need be."""
        images = getattr(data, split)
        return replace(data, **{split: images.select(torch.arange(size) % len(images))})

    @cached_property
    def short(self) -> TrialSettings:
        """The settings with a short training, and a row of the trajectory for every step."""
        training = self.settings.training
        epochs = max(1, min(training.epochs, EPOCHS))
        return self.settings.model_copy(
            update={"training": training.model_copy(update={"epochs": epochs, "log_every": 1})}
        )

    def plain(self, loss: Mapping[str, float]) -> TrialSettings:
        """`short` with the stitch `paper` and this sum of losses, as the loop written out knows them."""
        return self.short.model_copy(
            update={
                "stitch": StitchConfig.model_validate({"name": "paper"}),
                "loss": LossConfig.model_validate(dict(loss)),
            }
        )

    def base_lr(self, settings: TrialSettings) -> float:
        """The learning rate that is given, or the smallest that a term of the loss brings along."""
        optimizer = settings.training.optimizer
        if optimizer.lr is not None:
            return optimizer.lr
        rates: list[Mapping[str, float]] = [
            LOSSES.get(term.name).factory.default_lr  # type: ignore[attr-defined]
            for term in settings.loss.terms
        ]
        return min(rate.get(optimizer.name.lower(), rate[""]) for rate in rates)

    def bench(
        self,
        data: Data | None = None,
        modules: Mapping[str, tuple[nn.Module, str]] | None = None,
        *,
        augment: str | None = None,
        cache_gb: float | None = None,
        device: str | None = None,
    ) -> Workbench:
        """Where a sweep's worker would train: fresh copies of the cell's networks, an empty cache.

        Args:
            data: the images; those cut down if not given.
            modules: other networks: name to module, and whose architecture it has.
            augment: instead of the configuration's.
            cache_gb: instead of the configuration's.
            device: instead of the configuration's.
        """
        config = self.config
        if modules is None:
            names = dict.fromkeys((self.cell.sender, self.cell.receiver))
            modules = {name: (copy.deepcopy(self.modules[name]), name) for name in names}
        networks = {network.name: network for network in config.networks}
        changes: dict[str, Any] = {
            "networks": [
                networks[of].model_copy(update={"name": name}) for name, (_, of) in modules.items()
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
        """A training as a worker starts one; of the subject's cell and settings if not given."""
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
    ) -> Run:
        """`start`, and on to the end.

        Raises:
            DivergedError: the training diverges: nothing can be learned from that.
        """
        training = self.start(bench, cell, settings)
        begun = {name: t.detach().cpu().clone() for name, t in training.stitch.state_dict().items()}
        while not training.done:
            training.run_epoch()
        result = training.finish()
        if result.status != "finished":
            raise DivergedError(
                "a training diverges here, so nothing can be checked: lower training.optimizer.lr"
            )
        return Run(training, begun, result)

    def to_itself(self, bench: Workbench, name: str, layer: int) -> tuple[Cell, TrialSettings]:
        """A layer into itself, with a stitch that can do that if the settings' own can't."""
        shape = bench.networks[name].shape(layer, self.data.image_shape)
        stitch = self.short.stitch
        if misfit(stitch, shape, shape) is not None:
            fitting = "linear" if len(shape) == 1 else "paper"
            stitch = StitchConfig.model_validate({"name": fitting})
        return Cell(name, layer, name, layer), self.short.model_copy(update={"stitch": stitch})

    def shapes(self, bench: Workbench) -> tuple[Shape, Shape]:
        """Of the sender's and of the receiver's layer, without the batch."""
        cell, image = self.cell, self.data.image_shape
        return (
            bench.networks[cell.sender].shape(cell.sender_layer, image),
            bench.networks[cell.receiver].shape(cell.receiver_layer, image),
        )

    def places(self, bench: Workbench) -> tuple[nn.Module | None, nn.Module | None]:
        """The modules after which the plain loop cuts both networks; None for the image.

        Raises:
            LookupError: a layer is no module's output, or no feature map; or the module runs twice.
        """
        if any(len(shape) != 3 for shape in self.shapes(bench)):
            raise LookupError("the loop written out knows feature maps only")
        cell = self.cell
        return (
            self._module(bench.networks[cell.sender], cell.sender_layer),
            self._module(bench.networks[cell.receiver], cell.receiver_layer),
        )

    def _module(self, network: FrozenNetwork, layer: int) -> nn.Module | None:
        if layer == IMAGE_LAYER:
            return None
        name = network.layer_names[layer]
        module = submodule(network.network, name)
        if module is None:
            raise LookupError(f"layer {name} is not a module's output, and a hook needs one")
        calls: list[int] = []
        hook = module.register_forward_hook(lambda *_: calls.append(1))
        with torch.no_grad():
            network.network(self.normalised(self.data, "train")[:1])
        hook.remove()
        if len(calls) != 1:
            raise LookupError(f"the module of layer {name} runs {len(calls)} times in a pass")
        return module

    def normalised(self, data: Data, split: str, device: str | None = None) -> Tensor:
        """The images of a split as the networks see them, float32 [N, C, H, W], in stored order.

        Written out, so that a fault in a loader shows.
        """
        images = getattr(data, split).images.to(device or self.device)
        mean, std = (t.to(images.device)[:, None, None] for t in (data.mean, data.std))
        return (images.float() / 255 - mean) / std

    @torch.no_grad()
    def outputs(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What `network` makes of images [N, C, H, W], in padded chunks as everywhere, on the CPU."""
        return torch.cat([network(chunk)[:valid].cpu().clone() for chunk, valid in chunks(images)])

    def stitched(
        self, bench: Workbench, stitch: nn.Module, cell: Cell | None = None
    ) -> Callable[[Tensor], Tensor]:
        """The stitched network, images [B, C, H, W] to logits [B, K]."""
        cell = cell or self.cell
        prefix = bench.networks[cell.sender].prefix(cell.sender_layer)
        suffix = bench.networks[cell.receiver].suffix(cell.receiver_layer)
        stitch = stitch.to(bench.device).eval()
        return lambda images: suffix(stitch(prefix(images)))


def share_right(logits: Tensor, labels: Tensor) -> float:
    """The share of rows of logits [N, K] that are largest at their label, int64 [N]."""
    return (logits.argmax(dim=1) == labels).double().mean().item()


def chunks(images: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Images [N, ...] in chunks of the evaluation's size, and how many rows of each are real."""
    count = len(images)
    for first in range(0, count, CHUNK):
        at = torch.arange(first, first + CHUNK, device=images.device) % count
        yield images[at], min(CHUNK, count - first)
