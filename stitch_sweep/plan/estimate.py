"""The estimate of a sweep's time and disk space: `--dry-run`."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from stitch_sweep.config.root import Config
from stitch_sweep.config.training import TrainingConfig
from stitch_sweep.core.errors import check_all
from stitch_sweep.data.batches import choose_batch_size
from stitch_sweep.networks.zoo import Zoo
from stitch_sweep.plan.enqueue import check_enqueued
from stitch_sweep.plan.machine import check_local, check_training, count_local_slots
from stitch_sweep.plan.objectives import check_objectives
from stitch_sweep.plan.prepare import Prepared, prepare
from stitch_sweep.plan.samplers import check_sampler, describe_startup
from stitch_sweep.plan.schedulers import check_scheduler
from stitch_sweep.plan.settings import first_settings
from stitch_sweep.plan.sizes import bound_all_trainings
from stitch_sweep.stitches.building import build_on_meta
from stitch_sweep.tracking.loggers import check_loggers
from stitch_sweep.training.evaluations import evaluation_steps
from stitch_sweep.training.workbench import Workbench

TIMED_CELLS = 3
"""Number of cells that are timed: the first, the middle and the last."""
TIMED_STEPS = 4
"""Number of training steps that are timed for each of them."""
_SIZED_CELLS = 200
"""Number of cells whose stitches' sizes are averaged."""


@dataclass(frozen=True)
class Estimate:
    """The estimated size, time and disk space of a sweep.

    Attributes:
        studies: cells times factor combinations times repeats.
        trials: trials of all studies.
        trainings_at_most: stitches to train; fewer than trials where a study's space has fewer points
            than the study has trials, since equal trials are trained once.
        networks_to_train: networks that the zoo lacks.
        seconds_per_trial: measured on untrained networks on this machine, a few steps of a few cells.
        timed_on: `cpu` or `cuda`.
        hours_one_at_a_time: all stitches, without the networks' training. With a scheduler, an upper
            bound: it stops trials early.
        workers: number of workers that train at the same time; None if it is unknown.
        hours_with_workers: the same on so many workers, each of which trains one stitch at a time: packs
            take less. A study's trials run one after the other, `parallel_per_study` at a time, so the
            longest study is a lower bound.
        disk_megabytes: of the experiment folder, without MLflow's store.
        notes: notes that the sweep would print before its start, such as cells
            whose loss can't train them.
    """

    studies: int
    trials: int
    trainings_at_most: int
    networks_to_train: int
    seconds_per_trial: float
    timed_on: str
    hours_one_at_a_time: float
    workers: int | None
    hours_with_workers: float | None
    disk_megabytes: float
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain data."""
        return asdict(self)


def estimate(
    config: Config,
    address: str | None = None,
    say: Callable[[str], object] = lambda _: None,
    workers: int | None = None,
) -> Estimate:
    """Check a configuration fully and estimate time and disk space; write nothing.

    Args:
        config: the configuration.
        address: of the cluster that will run the sweep, if any: this machine then needs no GPU.
        say: is called with a line before each slow step.
        workers: maximum number of workers at the same time; by default as many as fit on this machine.

    Raises:
        InputError: the sweep wouldn't start.
    """
    local_checks: list[Callable[[], None]] = [
        lambda: check_local(config.resources),
        lambda: check_training(config),
    ]
    check_all(
        lambda: check_objectives(config),
        lambda: check_sampler(config),
        lambda: check_scheduler(config),
        lambda: check_enqueued(config),
        lambda: check_loggers(config.tracking, config.places),
        *(local_checks if address is None else []),
    )
    prepared = prepare(config)
    trials, trainings = prepared.trials, prepared.trainings
    zoo = Zoo(config.zoo)
    seconds = _seconds_per_trial(prepared, say)
    slots = count_local_slots(config.resources) if address is None else None
    present = min(filter(None, (slots, workers)), default=None)
    return Estimate(
        studies=len(prepared.studies),
        trials=trials,
        trainings_at_most=trainings,
        networks_to_train=sum(zoo.find(recipe) is None for recipe in prepared.recipes()),
        seconds_per_trial=round(seconds, 2),
        timed_on=_device(config),
        hours_one_at_a_time=round(seconds * trainings / 3600, 3),
        workers=present,
        hours_with_workers=None
        if present is None
        else round(seconds * _count_rounds(prepared, present) / 3600, 3),
        disk_megabytes=round(_count_bytes(prepared, trials, trainings) / 2**20, 1),
        notes=[*filter(None, [describe_startup(config), *_bound_notes(config)]), *prepared.notes],
    )


def _count_rounds(prepared: Prepared, workers: int) -> int:
    """Return the number of trainings that a worker runs one after the other, at least."""
    config = prepared.config
    counts = bound_all_trainings(config, prepared.studies)
    longest = math.ceil(max(counts) / config.search.parallel_per_study)
    return max(math.ceil(sum(counts) / workers), longest)


def _seconds_per_trial(prepared: Prepared, say: Callable[[str], object]) -> float:
    """Average a few cells' set-up, evaluations, and a few steps scaled up to all."""
    config, studies = prepared.config, prepared.studies
    bench = Workbench(config, prepared.data, prepared.untrained(), _device(config))
    chosen = {round(k * (len(studies) - 1) / (TIMED_CELLS - 1)) for k in range(TIMED_CELLS)}
    seconds = []
    for k in sorted(chosen):
        study = studies[k]
        say(f"timing the first steps of {study.id}, study {k + 1} of {len(studies)}")
        settings = first_settings(config, study)
        began = _now()
        training = bench.training(
            study.sender, study.sender_layer, study.receiver, study.receiver_layer, settings
        )
        set_up = _now() - began
        training.advance(1)  # the first step allocates memory that later steps reuse
        began = _now()
        training.advance(TIMED_STEPS)
        steps = max(1, training.step - 1)
        train = (_now() - began) / steps * training.total_steps
        # A forward pass is about a third of a training step.
        images = choose_batch_size(settings.training.batch_size, len(prepared.data.train))
        per_image = train / max(1, training.total_steps) / images / 3
        validations = _count_validations(settings.training, training.steps_per_epoch)
        validation = validations * len(prepared.data.validation) * per_image
        # The set-up runs each split once, which costs about as much as the evaluation at the end.
        seconds.append(2 * set_up + train + validation)
    return sum(seconds) / len(seconds)


def _count_validations(training: TrainingConfig, steps_per_epoch: int) -> int:
    """Return the number of validations of a training that isn't stopped early, without the last one."""
    within_epoch = evaluation_steps(steps_per_epoch, training.evaluate_every)
    return training.epochs * len(within_epoch) + (training.keep == "best")


def _bound_notes(config: Config) -> Iterator[str]:
    """Note why the estimate is an upper bound, if it is."""
    search = config.search
    if search.scheduler is not None:
        yield (
            f"search.scheduler: {search.scheduler.name} stops trials early, so time and disk space are "
            "upper bounds: they count every trial as if it ran to its end"
        )
    if search.stop is not None and search.stop.ends_studies:
        yield (
            "search.stop: studies may end early, so time and disk space are upper bounds: they count "
            "all trials of a study"
        )


def _now() -> float:
    """Return a time in seconds, after the GPU has finished all of its work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _device(config: Config) -> str:
    return config.resources.device if torch.cuda.is_available() else "cpu"


def _count_bytes(prepared: Prepared, trials: int, trainings: int) -> float:
    """Estimate the bytes of records, tables and kept stitches."""
    config, studies = prepared.config, prepared.studies
    images = len(prepared.data.train)
    steps = math.ceil(images / choose_batch_size(config.training.batch_size, images))
    rows = config.training.epochs * min(4, steps) + _count_validations(config.training, steps)
    record = 300 * rows + 4000 + len(prepared.data.test)
    stitches_kept = {"all": trainings, "best": len(studies), "none": 0}[config.keep_stitches]
    outlines = prepared.outlines
    cells = {(s.sender, s.sender_layer, s.receiver, s.receiver_layer): s for s in studies}.values()
    sizes = []
    for study in itertools.islice(cells, _SIZED_CELLS):
        stitch = build_on_meta(
            first_settings(config, study).stitch,
            outlines[study.sender].shape(study.sender_layer),
            outlines[study.receiver].shape(study.receiver_layer),
        )
        sizes.append(4 * sum(p.numel() for p in stitch.parameters()))
    return 1.6 * trials * record + stitches_kept * sum(sizes) / len(sizes)
