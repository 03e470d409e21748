"""Notes, before anything trains, on cells whose loss or learning rate can't train their stitch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from stitch_sweep.config.root import Config
from stitch_sweep.config.stitch import StitchConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.data.batches import choose_batch_size
from stitch_sweep.losses.base import CombinedLoss
from stitch_sweep.losses.flat_losses import StitchProfile, explain_flat_loss, weak_loss_warnings
from stitch_sweep.plan.settings import settings_per_loss, settings_per_stitch
from stitch_sweep.stitches.base import AffineStitch
from stitch_sweep.stitches.building import build_on_meta
from stitch_sweep.stitches.channelwise import ChannelwiseStitch
from stitch_sweep.stitches.dora import DoraStitch
from stitch_sweep.stitches.identity import IdentityStitch
from stitch_sweep.stitches.lowrank import LowRankStitch
from stitch_sweep.stitches.orthogonal import OrthogonalStitch
from stitch_sweep.stitches.permutation import PermutationStitch
from stitch_sweep.stitches.shapes import Shape, channel_axis
from stitch_sweep.storage.study import Study, format_cell

_CELLS_NAMED = 3
"""Number of cells that a note names."""
STABLE_RATE = 2.0
"""Product of learning rate and length of a row above which SGD by `mse` may diverge in raw coordinates.

The step is stable below 2 / h, h the largest eigenvalue of 2/v E[r r^T], r a row of D inputs. Activations
after a ReLU have means far from 0, so h is near its bound, which grows with D; measured on digits, h is
0.4 to 3 times D."""


def teaching_notes(
    config: Config, studies: list[Study], shape: Callable[[str, int], Shape], images: int
) -> list[str]:
    """Write a sentence for each reason why a loss trains a stitch badly or not at all, with its cells.

    Args:
        config: the configuration.
        studies: its studies.
        shape: returns the shape of a network's layer, without the batch, for a name and a layer.
        images: number of training images.
    """
    cells: dict[str, list[str]] = {}
    choices: dict[str, _Choices] = {}
    reasons: dict[tuple[str, Shape, Shape], list[str]] = {}
    for study in studies:
        shapes = (
            shape(study.sender, study.sender_layer),
            shape(study.receiver, study.receiver_layer),
        )
        factors = json.dumps(study.factors, sort_keys=True)
        if factors not in choices:
            choices[factors] = _choices(config, study, images)
        if (factors, *shapes) not in reasons:
            reasons[factors, *shapes] = _reasons(choices[factors], *shapes)
        for reason in reasons[factors, *shapes]:
            cells.setdefault(reason, []).append(format_cell(study.key))
    return [
        f"{_name_cells(list(dict.fromkeys(affected)))}: {reason}"
        for reason, affected in cells.items()
    ]


class _Choices(NamedTuple):
    """The stitches, sums of losses and batch size that a study's search may choose.

    `sgd_rate` is the learning rate of SGD by `mse` in raw coordinates, if a study may train so.
    """

    stitches: list[StitchConfig]
    losses: list[tuple[str, ...]]
    batch_size: int
    sgd_rate: float | None


def _choices(config: Config, study: Study, images: int) -> _Choices:
    stitches = {
        s.stitch.model_dump_json(exclude={"l1"}): s.stitch
        for s in settings_per_stitch(config, study)
    }
    per_loss = list(settings_per_loss(config, study))
    losses = {tuple(term.name for term in s.loss.terms) for s in per_loss}
    batch_size = config.trial_settings(study.factors).training.batch_size
    size = choose_batch_size(batch_size, images)
    # A search finds a rate that fits the cell.
    searched = any(path.startswith("training") for path in config.search.distributions)
    rates = [] if searched else [rate for s in per_loss if (rate := _sgd_rate(s)) is not None]
    return _Choices(list(stitches.values()), sorted(losses), size, max(rates, default=None))


def _sgd_rate(settings: TrialSettings) -> float | None:
    """Return the learning rate of a training by `mse` with SGD in raw coordinates; None for others."""
    training, names = settings.training, [term.name for term in settings.loss.terms]
    by_sgd = training.optimizer.name.lower() == "sgd" and training.coordinates == "raw"
    if not by_sgd or names != ["mse"] or settings.stitch.start == "auto" or training.epochs == 0:
        return None
    lr = training.optimizer.lr
    return CombinedLoss.from_config(settings.loss).default_lr("sgd") if lr is None else lr


def _explain_large_step(stitch: nn.Module, rate: float | None) -> str | None:
    """Explain why SGD may diverge; None if its step is small enough for the stitch."""
    if rate is None or not isinstance(stitch, AffineStitch) or not _is_trained(stitch):
        return None
    if rate * stitch.inputs <= STABLE_RATE:
        return None
    return (
        f"mse with SGD at a learning rate of {rate:g} may diverge, because the stable step is about "
        "2 / D, D the number of inputs of each output channel; `training.recipe: fast` fits the step to "
        "the cell"
    )


def _is_trained(stitch: nn.Module) -> bool:
    return any(p.requires_grad for p in stitch.parameters())


def _reasons(choices: _Choices, sender: Shape, receiver: Shape) -> list[str]:
    """List the reasons why a sum of losses can't train a stitch; warnings where only some terms can't."""
    reasons: dict[str, None] = {}
    for config in choices.stitches:
        stitch = build_on_meta(config, sender, receiver)
        lesson = _lesson(stitch, sender, receiver, choices.batch_size)
        for names in choices.losses:
            flat = [explain_flat_loss(name, lesson) for name in names]
            sentences = (
                [reason for reason in flat if reason]
                if all(flat)
                else [warning for name in names for warning in weak_loss_warnings(name, lesson)]
            )
            reasons |= dict.fromkeys(f"{config.name}: {sentence}" for sentence in sentences)
        if (sentence := _explain_large_step(stitch, choices.sgd_rate)) is not None:
            reasons[f"{config.name}: {sentence}"] = None
    return list(reasons)


def _lesson(stitch: nn.Module, sender: Shape, receiver: Shape, batch: int) -> StitchProfile:
    channels = receiver[channel_axis(receiver)]
    positions = math.prod(receiver) // channels
    affine = isinstance(stitch, AffineStitch)
    if isinstance(stitch, IdentityStitch) or not _is_trained(stitch):
        family = "fixed"
    elif isinstance(stitch, ChannelwiseStitch | PermutationStitch):
        family = "channel_affine"
    elif isinstance(stitch, OrthogonalStitch):
        family = "orthogonal"
    else:
        family = "affine" if affine and not isinstance(stitch, DoraStitch) else "other"
    return StitchProfile(
        family,  # type: ignore[arg-type]
        inputs=stitch.inputs if isinstance(stitch, AffineStitch) else math.prod(sender),
        channels=channels,
        positions=positions,
        batch=batch,
        rank_limit=stitch.rank if isinstance(stitch, LowRankStitch) else None,
        replication=max(1, positions // stitch.positions)
        if isinstance(stitch, AffineStitch)
        else 1,
    )


def _name_cells(cells: list[str]) -> str:
    shown = ", ".join(cells[:_CELLS_NAMED])
    return f"{shown} and {len(cells) - _CELLS_NAMED} more" if len(cells) > _CELLS_NAMED else shown
