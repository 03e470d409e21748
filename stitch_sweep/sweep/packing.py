"""How many trials fit on a GPU, from what the largest of them takes: `resources.gpu: auto`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from stitch_sweep.config.models import Config, TrialSettings
from stitch_sweep.data.images import Data
from stitch_sweep.plan.prepare import Prepared, stitch_settings
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.capacity import capacity
from stitch_sweep.storage.ledger import Study
from stitch_sweep.sweep.gpu import Footprint, gib, measure_context
from stitch_sweep.training.workbench import Workbench

HEADROOM = 1.25
"""A trial is given so many times the memory that was measured: cells and batches differ a little."""
MOST = 32
"""Trials on one GPU that `auto` chooses at most: beyond that they only wait for each other."""


class Largest(NamedTuple):
    """A trial that takes as much memory as any: its study and its settings."""

    study: Study
    settings: TrialSettings


def measure_trial(
    config: Config, data: Data, networks: Mapping[str, nn.Module], trial: Largest
) -> Footprint:
    """What a trial takes, from a training of one epoch and its evaluations. Needs a GPU."""
    context = measure_context()
    study, settings = trial
    once = settings.model_copy(
        update={"training": settings.training.model_copy(update={"epochs": 1})}
    )
    bench = Workbench(config, data, networks)
    torch.cuda.reset_peak_memory_stats()
    training = bench.training(
        study.sender, study.sender_layer, study.receiver, study.receiver_layer, once
    )
    while not training.done:
        training.run_epoch()
    training.finish()
    return Footprint(context.total, context.context, torch.cuda.max_memory_reserved())


def largest(prepared: Prepared) -> Largest:
    """The trial that by its sizes takes the most memory, among all that a sweep may meet.

    Counted are the representations that are kept of all images (none that is above
    `resources.cache_gb`), those of a batch, and the stitch with its gradient and two moments; of the
    searched settings the largest batch and the largest stitch.
    """
    config, data = prepared.config, prepared.data
    images = len(data.train) + len(data.validation) + len(data.test)

    def size(trial: Largest) -> int:
        shapes = (
            prepared.outlines[trial.study.sender].shape(trial.study.sender_layer),
            prepared.outlines[trial.study.receiver].shape(trial.study.receiver_layer),
        )
        learns = trial.settings.loss.terms
        roles = shapes if any(term.name != "task" for term in learns) else shapes[:1]
        kept = [math.prod(shape) * len(data.train) for shape in roles]
        kept = [count for count in kept if 4 * count <= config.resources.cache_gb * 2**30]
        batch = trial.settings.training.batch_size * sum(map(math.prod, shapes))
        of = trial.settings.stitch
        with torch.device("meta"):
            stitch = build_stitch(of.name, *shapes, start=of.start, options=of.options)
        parameters = 4 * capacity(stitch).parameters
        return sum(kept) * images // len(data.train) + batch + parameters

    trials = (
        Largest(study, _with_largest_batch(config, settings))
        for study in prepared.studies
        for settings in stitch_settings(config, study)
    )
    return max(trials, key=size)


def _with_largest_batch(config: Config, settings: TrialSettings) -> TrialSettings:
    searched = config.search.distributions.get("training.batch_size")
    sizes = [settings.training.batch_size, *(searched.representatives() if searched else [])]
    training = settings.training.model_copy(update={"batch_size": max(sizes)})
    return settings.model_copy(update={"training": training})


def packed(footprint: Footprint, cpus: int) -> float:
    """The smallest share of a GPU that a trial fits into, with headroom.

    Args:
        footprint: what was measured of the largest trial.
        cpus: trials that the CPUs beside one GPU can drive.

    Returns:
        1/n rounded down to Ray's ten-thousandths, for n trials; at most `MOST`, at least one.
    """
    needed = footprint.context + HEADROOM * footprint.peak
    count = max(1, min(int(footprint.total / needed), cpus, MOST))
    return math.floor(10_000 / count) / 10_000


def chosen(share: float, footprint: Footprint) -> str:
    """What a user is told of `gpu: auto`."""
    return (
        f"resources.gpu: auto is {share:g}: the largest trial took {gib(footprint.peak)} and a CUDA "
        f"context {gib(footprint.context)} of {gib(footprint.total)}; with a quarter more, "
        f"{int(1 / share)} fit on a GPU"
    )
