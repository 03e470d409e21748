"""The number of trials on one GPU: `resources.gpu: auto` measures the largest trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.data.images import Data
from stitch_sweep.plan.packing import PackWidths
from stitch_sweep.plan.prepare import Prepared
from stitch_sweep.plan.settings import settings_per_stitch
from stitch_sweep.stitches.building import build_on_meta
from stitch_sweep.stitches.capacity import capacity
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.gpu_memory import Footprint, format_gib, measure_context
from stitch_sweep.training.workbench import Workbench

HEADROOM = 1.25
"""Memory of a trial in multiples of the measured memory: cells and batches differ a little."""
MOST_TRIALS_PER_GPU = 32
"""Upper limit of `auto`: more trials only wait for each other."""


class LargestTrial(NamedTuple):
    """The study and the settings of a trial that takes the most memory, and the width of its pack."""

    study: Study
    settings: TrialSettings
    pack_width: int


def measure_trial(
    config: Config, data: Data, networks: Mapping[str, nn.Module], trial: LargestTrial
) -> Footprint:
    """Measure a trial's memory by a training of one epoch and its evaluations. Needs a GPU.

    Args:
        config: the configuration.
        data: the images.
        networks: trained or untrained networks, by name.
        trial: the trial to measure.
    """
    context = measure_context()
    study, settings = trial.study, trial.settings
    once = settings.model_copy(
        update={"training": settings.training.model_copy(update={"epochs": 1})}
    )
    bench = Workbench(config, data, networks)
    torch.cuda.reset_peak_memory_stats()
    training = bench.training(
        study.sender,
        study.sender_layer,
        study.receiver,
        study.receiver_layer,
        once,
        pack_width=trial.pack_width,
    )
    while not training.done:
        training.run_epoch()
    training.finish()
    return Footprint(context.total, context.context, torch.cuda.max_memory_reserved())


def find_largest_trial(prepared: Prepared) -> LargestTrial:
    """Find the trial of a sweep that by its sizes takes the most memory.

    The size of a trial counts the stored representations of all images (none above
    `resources.cache_gb`), those of a batch, and the stitch with its gradient and two moments. Among the
    searched settings, the largest batch and the largest stitch count.
    """
    config, data = prepared.config, prepared.data
    images = len(data.train) + len(data.validation) + len(data.test)

    def size(trial: LargestTrial) -> int:
        shapes = (
            prepared.outlines[trial.study.sender].shape(trial.study.sender_layer),
            prepared.outlines[trial.study.receiver].shape(trial.study.receiver_layer),
        )
        terms = trial.settings.loss.terms
        roles = shapes if any(term.name != "task" for term in terms) else shapes[:1]
        stored = [math.prod(shape) * len(data.train) for shape in roles]
        stored = [count for count in stored if 4 * count <= config.resources.cache_gb * 2**30]
        batch = trial.pack_width * trial.settings.training.batch_size * sum(map(math.prod, shapes))
        stitch = build_on_meta(trial.settings.stitch, *shapes)
        parameters = 4 * capacity(stitch).parameters
        return sum(stored) * images // len(data.train) + batch + parameters

    widths = PackWidths(prepared)

    def trial_of(study: Study, settings: TrialSettings) -> LargestTrial:
        batch_size = settings.training.batch_size
        width = widths.width(study.receiver, study.receiver_layer, batch_size)
        return LargestTrial(study, settings, width)

    trials = (
        trial_of(study, _with_largest_batch(config, settings))
        for study in prepared.studies
        for settings in settings_per_stitch(config, study)
    )
    return max(trials, key=size)


def choose_share(footprint: Footprint, cpus: int) -> float:
    """Choose the smallest share of a GPU that a trial fits into, with headroom.

    Args:
        footprint: of the largest trial.
        cpus: number of trials that the CPUs beside one GPU can drive.

    Returns:
        1/n for n trials, rounded down to Ray's ten-thousandths; n is at least 1 and at most
        `MOST_TRIALS_PER_GPU`.
    """
    needed = footprint.context + HEADROOM * footprint.peak
    count = max(1, min(int(footprint.total / needed), cpus, MOST_TRIALS_PER_GPU))
    return math.floor(10_000 / count) / 10_000


def describe_share(share: float, footprint: Footprint) -> str:
    """Return the message about the choice of `gpu: auto`."""
    return (
        f"resources.gpu: auto is {share:g}: the largest trial took {format_gib(footprint.peak)} and a "
        f"CUDA context {format_gib(footprint.context)} of {format_gib(footprint.total)}; with a margin "
        f"of a quarter, {int(1 / share)} fit on a GPU"
    )


def _with_largest_batch(config: Config, settings: TrialSettings) -> TrialSettings:
    searched = config.search.distributions.get("training.batch_size")
    sizes = [settings.training.batch_size, *(searched.representatives() if searched else [])]
    training = settings.training.model_copy(update={"batch_size": max(sizes)})
    return settings.model_copy(update={"training": training})
