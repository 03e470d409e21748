"""The plain PyTorch loop on a subject's networks, images and settings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stitch_sweep.checks.sanity import plain
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.config.loss import LossConfig
from stitch_sweep.config.pairs import IMAGE_LAYER
from stitch_sweep.config.stitch import StitchConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.networks.cutting.modules import submodule
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.training.workbench import Workbench

CutModules = tuple[nn.Module | None, nn.Module | None]
"""The modules after which sender and receiver are cut; None for the image."""


def plain_settings(subject: Subject, loss: Mapping[str, float]) -> TrialSettings:
    """Return the subject's short settings with the stitch `paper` and this sum of losses.

    The plain loop runs the receiver as it is, trains in raw coordinates and returns the stitch of the
    last step. The checks `fast network` and `store and load` compare the rest.
    """
    plain = {"coordinates": "raw", "keep": "last", "frozen": "exact", "precision": "float32"}
    return subject.short.model_copy(
        update={
            "stitch": StitchConfig.model_validate({"name": "paper"}),
            "loss": LossConfig.model_validate(dict(loss)),
            "training": subject.short.training.model_copy(update=plain),
        }
    )


def base_learning_rate(settings: TrialSettings) -> float:
    """Return the configured learning rate, or the smallest default of the loss's terms."""
    optimizer = settings.training.optimizer
    if optimizer.lr is not None:
        return optimizer.lr
    rates: list[Mapping[str, float]] = [
        LOSSES.get(term.name).factory.default_lr  # type: ignore[attr-defined]
        for term in settings.loss.terms
    ]
    return min(rate.get(optimizer.name.lower(), rate[""]) for rate in rates)


def find_cut_modules(subject: Subject, bench: Workbench) -> CutModules:
    """Find the modules after which the plain loop cuts both networks.

    Raises:
        LookupError: a layer is not a module's output or not a feature map, or its module runs twice.
    """
    if any(len(shape) != 3 for shape in subject.shapes(bench)):
        raise LookupError("the plain loop supports feature maps only")
    cell = subject.cell
    return (
        _cut_module(subject, bench.networks[cell.sender], cell.sender_layer),
        _cut_module(subject, bench.networks[cell.receiver], cell.receiver_layer),
    )


def _cut_module(subject: Subject, network: FrozenNetwork, layer: int) -> nn.Module | None:
    if layer == IMAGE_LAYER:
        return None
    name = network.layer_names[layer]
    module = submodule(network.network, name)
    if module is None:
        raise LookupError(f"layer {name} is not a module's output, and a hook needs one")
    calls: list[int] = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        network.network(subject.normalized(subject.data, "train")[:1])
    hook.remove()
    if len(calls) != 1:
        raise LookupError(f"the module of layer {name} runs {len(calls)} times in a pass")
    return module


def train_plainly(
    subject: Subject,
    bench: Workbench,
    modules: CutModules,
    settings: TrialSettings,
    start: Mapping[str, Tensor],
    loss: Mapping[str, float],
    *,
    whole: bool,
    cast: torch.dtype | None = None,
    scaled: bool = False,
) -> dict[str, Tensor]:
    """Train the subject's cell with `plain.train`; see there for arguments and result."""
    cell = subject.cell
    return plain.train(
        (bench.networks[cell.sender].network, modules[0]),
        (bench.networks[cell.receiver].network, modules[1]),
        subject.normalized(subject.data, "train"),
        subject.data.train.labels.to(subject.device),
        start,
        loss,
        settings.training,
        base_learning_rate(settings),
        subject.config.seed,
        whole=whole,
        cast=cast,
        scaled=scaled,
    )
