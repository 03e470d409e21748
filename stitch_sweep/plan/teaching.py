"""Which cells of a sweep have a loss that can't teach their stitch, said before anything is trained."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from stitch_sweep.config.models import Config, StitchConfig, TrialSettings, trial_settings
from stitch_sweep.losses.teaching import Lesson, cannot_teach, teaching_warnings
from stitch_sweep.plan.search import combinations
from stitch_sweep.stitches.base import AffineStitch
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.channelwise import ChannelwiseStitch
from stitch_sweep.stitches.dora import DoraStitch
from stitch_sweep.stitches.identity import IdentityStitch
from stitch_sweep.stitches.lowrank import LowRankStitch
from stitch_sweep.stitches.orthogonal import OrthogonalStitch
from stitch_sweep.stitches.permutation import PermutationStitch
from stitch_sweep.stitches.shapes import Shape, channel_axis
from stitch_sweep.storage.ledger import Study

_CELLS_NAMED = 3


def teaching_notes(
    config: Config, studies: list[Study], shape: Callable[[str, int], Shape]
) -> list[str]:
    """A sentence for each reason why a loss teaches nothing, or little, and the cells it holds for.

    Args:
        config: the configuration.
        studies: its cells and factors.
        shape: of a network's layer, without the batch.
    """
    cells: dict[str, list[str]] = {}
    choices: dict[str, _Choices] = {}
    known: dict[tuple[str, Shape, Shape], list[str]] = {}
    for study in studies:
        shapes = (
            shape(study.sender, study.sender_layer),
            shape(study.receiver, study.receiver_layer),
        )
        factors = json.dumps(study.factors, sort_keys=True)
        if factors not in choices:
            choices[factors] = _choices(config, study)
        if (factors, *shapes) not in known:
            known[factors, *shapes] = _reasons(choices[factors], *shapes)
        cell = f"{study.sender}:{study.sender_layer} -> {study.receiver}:{study.receiver_layer}"
        for reason in known[factors, *shapes]:
            cells.setdefault(reason, []).append(cell)
    return [f"{_named(list(dict.fromkeys(found)))}: {reason}" for reason, found in cells.items()]


class _Choices(NamedTuple):
    """What a search may choose, as far as it matters: stitches, sums of losses, the batch size."""

    stitches: list[StitchConfig]
    losses: list[tuple[str, ...]]
    batch_size: int


def _choices(config: Config, study: Study) -> _Choices:
    def under(section: str) -> list[TrialSettings]:
        return [
            trial_settings(config.settings, {**study.factors, **chosen})
            for chosen in combinations(config, study, only=section)
        ]

    stitches = {s.stitch.model_dump_json(exclude={"l1"}): s.stitch for s in under("stitch")}
    losses = {tuple(term.name for term in s.loss.terms) for s in under("loss")}
    batch_size = trial_settings(config.settings, study.factors).training.batch_size
    return _Choices(list(stitches.values()), sorted(losses), batch_size)


def _reasons(choices: _Choices, sender: Shape, receiver: Shape) -> list[str]:
    """Why a sum of losses can't teach a stitch: every term is flat; else what to know of each."""
    found: dict[str, None] = {}
    for of in choices.stitches:
        with torch.device("meta"):
            stitch = build_stitch(of.name, sender, receiver, start=of.start, options=of.options)
        lesson = _lesson(stitch, sender, receiver, choices.batch_size)
        for names in choices.losses:
            flat = [cannot_teach(name, lesson) for name in names]
            why = (
                [reason for reason in flat if reason]
                if all(flat)
                else [w for name in names for w in teaching_warnings(name, lesson)]
            )
            found |= dict.fromkeys(f"{of.name}: {reason}" for reason in why)
    return list(found)


def _lesson(stitch: nn.Module, sender: Shape, receiver: Shape, batch: int) -> Lesson:
    channels = receiver[channel_axis(receiver)]
    places = math.prod(receiver) // channels
    affine = isinstance(stitch, AffineStitch)
    trained = any(p.requires_grad for p in stitch.parameters())
    if isinstance(stitch, IdentityStitch) or not trained:
        family = "fixed"
    elif isinstance(stitch, ChannelwiseStitch | PermutationStitch):
        family = "channel_affine"
    elif isinstance(stitch, OrthogonalStitch):
        family = "orthogonal"
    else:
        family = "affine" if affine and not isinstance(stitch, DoraStitch) else "other"
    return Lesson(
        family,  # type: ignore[arg-type]
        inputs=stitch.inputs if isinstance(stitch, AffineStitch) else math.prod(sender),
        channels=channels,
        positions=places,
        batch=batch,
        rank_limit=stitch.rank if isinstance(stitch, LowRankStitch) else None,
        replication=max(1, places // stitch.positions) if isinstance(stitch, AffineStitch) else 1,
    )


def _named(cells: list[str]) -> str:
    shown = ", ".join(cells[:_CELLS_NAMED])
    return f"{shown} and {len(cells) - _CELLS_NAMED} more" if len(cells) > _CELLS_NAMED else shown
