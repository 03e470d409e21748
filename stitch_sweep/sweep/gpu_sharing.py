"""The number of workers on one GPU: `resources.gpu: auto` measures the largest trials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.plugins import Plugin
from stitch_sweep.core.registry import Registration
from stitch_sweep.data.batches import choose_batch_size
from stitch_sweep.data.images import Data
from stitch_sweep.plan.packing import PackWidths
from stitch_sweep.plan.prepare import Prepared
from stitch_sweep.plan.settings import settings_per_stitch
from stitch_sweep.stitches.building import build_on_meta
from stitch_sweep.stitches.capacity import capacity
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.gpu_memory import Footprint, format_gib, measure_context
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.pack import Pack
from stitch_sweep.training.workbench import Workbench

HEADROOM = 1.25
"""Memory of a trial in multiples of the measured memory: cells and batches differ a little."""
MOST_TRIALS_PER_GPU = 32
"""Upper limit of `auto`: more trials only wait for each other."""


class LargestPack(NamedTuple):
    """Trials that one worker may train side by side, which together take the most memory.

    Attributes:
        width: number of places.
        members: a study and settings for each place; a study may have several places.
    """

    width: int
    members: list[tuple[Study, TrialSettings]]


def measure_pack(
    config: Config, data: Data, networks: Mapping[str, nn.Module], pack: LargestPack
) -> Footprint:
    """Measure a worker's memory by trainings of one epoch and their evaluations. Needs a GPU.

    Args:
        config: the configuration.
        data: the images.
        networks: trained or untrained networks, by name.
        pack: the trials to train.
    """
    context = measure_context()
    bench = Workbench(config, data, networks)
    torch.cuda.reset_peak_memory_stats()
    train_pack(bench, pack)
    return Footprint(context.total, context.context, torch.cuda.max_memory_reserved())


def measure_pack_remotely(
    config: Config,
    data: Data,
    networks: tuple[Sequence[Plugin | Registration], Mapping[str, nn.Module]],
    pack: LargestPack,
) -> Footprint:
    """Measure a worker's memory in a worker; see `measure_pack`.

    The networks come after the plugins in which their classes may be defined.
    """
    return measure_pack(config, data, networks[1], pack)


def train_pack(bench: Workbench, pack: LargestPack) -> list[StitchTraining]:
    """Train all members of a pack side by side for one epoch, and evaluate them."""
    trainings = []
    for repeat, (study, settings) in enumerate(pack.members):
        training = settings.training.model_copy(update={"epochs": 1})
        trainings.append(
            bench.training(
                study.sender,
                study.sender_layer,
                study.receiver,
                study.receiver_layer,
                settings.model_copy(update={"training": training}),
                repeat,
                pack_width=pack.width,
            )
        )
    joint = Pack(pack.width)
    for member in trainings:
        if not member.done:
            joint.add(member)
    while joint.members:
        for error in joint.run_epoch().values():
            raise error
    for member in trainings:
        member.finish()
    return trainings


def find_largest_pack(prepared: Prepared) -> LargestPack:
    """Find the trials of a sweep that by their sizes take the most memory of one worker.

    The size of a trial counts the stored representations of all images (none above
    `resources.cache_gb`), those of a batch, and the stitch with its gradient and two moments. Among the
    searched settings, the largest batch and the largest stitch count. The members of a pack continue in
    one receiver layer. They come from as many sender layers as there are, the largest first.
    """
    config, data = prepared.config, prepared.data
    images = len(data.train) + len(data.validation) + len(data.test)

    def shapes(study: Study) -> tuple[Shape, Shape]:
        return (
            prepared.shape(study.sender, study.sender_layer),
            prepared.shape(study.receiver, study.receiver_layer),
        )

    def size_of_stored(study: Study, settings: TrialSettings) -> int:
        roles = shapes(study)[: 2 if any(t.name != "task" for t in settings.loss.terms) else 1]
        stored = [math.prod(shape) * len(data.train) for shape in roles]
        stored = [count for count in stored if 4 * count <= config.resources.cache_gb * 2**30]
        return sum(stored) * images // len(data.train)

    def size_in_place(study: Study, settings: TrialSettings) -> int:
        size = choose_batch_size(settings.training.batch_size, len(data.train))
        batch = size * sum(map(math.prod, shapes(study)))
        stitch = build_on_meta(settings.stitch, *shapes(study))
        return batch + 4 * capacity(stitch).parameters

    widths = PackWidths(prepared)
    # For each kind of pass, the largest trial of each sender layer.
    passes: dict[tuple[Any, ...], dict[tuple[str, int], _Sized]] = {}
    for study in prepared.studies:
        for settings in settings_per_stitch(config, study):
            largest = _with_largest_batch(config, settings, len(data.train))
            training = largest.training
            trial = _Sized(
                size_of_stored(study, largest), size_in_place(study, largest), study, largest
            )
            kind = training.batch_size, training.frozen, training.precision
            trials = passes.setdefault((study.receiver, study.receiver_layer, *kind), {})
            sender = study.sender, study.sender_layer
            trials[sender] = max(trials.get(sender, trial), trial, key=_Sized.total)

    def fill(receiver: str, layer: int, batch_size: int, trials: list[_Sized]) -> list[_Sized]:
        ranked = sorted(trials, key=_Sized.total, reverse=True)
        width = widths.width(receiver, layer, batch_size)
        return list(itertools.islice(itertools.cycle(ranked), width))

    def size(members: list[_Sized]) -> int:
        senders = {(m.study.sender, m.study.sender_layer): m.stored for m in members}
        return sum(senders.values()) + sum(member.in_place for member in members)

    packs = [
        fill(receiver, layer, batch_size, list(trials.values()))
        for (receiver, layer, batch_size, *_), trials in passes.items()
    ]
    members = max(packs, key=size)
    return LargestPack(len(members), [(member.study, member.settings) for member in members])


class _Sized(NamedTuple):
    """A trial, with its numbers of values: stored for its sender layer, and in its place of a pack."""

    stored: int
    in_place: int
    study: Study
    settings: TrialSettings

    def total(self) -> int:
        return self.stored + self.in_place


def choose_share(footprint: Footprint, cpus: int) -> float:
    """Choose the smallest share of a GPU that a trial fits into, with headroom.

    Args:
        footprint: of a worker with the largest trials.
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
        f"resources.gpu: auto is {share:g}: the largest trials of a worker took "
        f"{format_gib(footprint.peak)} and a CUDA context {format_gib(footprint.context)} of "
        f"{format_gib(footprint.total)}; with a margin of a quarter, {int(1 / share)} workers fit on a "
        "GPU"
    )


def _with_largest_batch(config: Config, settings: TrialSettings, images: int) -> TrialSettings:
    searched = config.search.distributions.get("training.batch_size")
    sizes = [settings.training.batch_size, *(searched.representatives() if searched else [])]
    largest = max(sizes, key=lambda size: choose_batch_size(size, images))
    training = settings.training.model_copy(update={"batch_size": largest})
    return settings.model_copy(update={"training": training})
