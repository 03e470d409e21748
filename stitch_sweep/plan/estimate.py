"""What a sweep would take: `--dry-run`."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from stitch_sweep.config.models import Config
from stitch_sweep.core.errors import check_all
from stitch_sweep.networks.zoo import Zoo
from stitch_sweep.plan.prepare import Prepared, first_settings, prepare
from stitch_sweep.plan.search import check_objectives, check_sampler, startup_note
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.sweep.resources import check_local
from stitch_sweep.tracking.store import check_tracking
from stitch_sweep.training.workbench import Workbench

PROBES = 3
"""Cells that are timed: the first, the middle one, the last."""
STEPS = 4
"""Training steps of each that are timed."""


@dataclass(frozen=True)
class Estimate:
    """What a sweep would take.

    Attributes:
        studies: cells times factor combinations times repeats.
        trials: trials of all studies.
        trainings_at_most: stitches to train; fewer than trials where a study's space has fewer points
            than the study has trials, since equal trials are trained once.
        networks_to_train: networks that the zoo lacks.
        seconds_per_trial: measured on untrained networks on this machine, a few steps of a few cells.
        timed_on: `cpu` or `cuda`.
        hours_one_at_a_time: all stitches, without the networks' training.
        disk_megabytes: of the experiment folder, MLflow's store apart.
        notes: what the sweep would say before it starts, such as cells that a loss can't teach.
    """

    studies: int
    trials: int
    trainings_at_most: int
    networks_to_train: int
    seconds_per_trial: float
    timed_on: str
    hours_one_at_a_time: float
    disk_megabytes: float
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def estimate(
    config: Config, address: str | None = None, say: Callable[[str], object] = lambda _: None
) -> Estimate:
    """Check a configuration fully, and estimate time and disk; nothing is written or trained to an end.

    Args:
        config: the configuration.
        address: of the cluster that is to run it, if any: this machine then needs no GPU.
        say: is told what takes a while.

    Raises:
        InputError: whatever would keep the sweep from starting.
    """
    here: list[Callable[[], None]] = [lambda: check_local(config.resources)]
    check_all(
        lambda: check_objectives(config),
        lambda: check_sampler(config),
        lambda: check_tracking(config.tracking),
        *(here if address is None else []),
    )
    prepared = prepare(config)
    trials, trainings = prepared.trials, prepared.trainings
    zoo = Zoo(config.zoo)
    seconds = _seconds_per_trial(prepared, say)
    return Estimate(
        studies=len(prepared.studies),
        trials=trials,
        trainings_at_most=trainings,
        networks_to_train=sum(zoo.find(recipe) is None for recipe in prepared.recipes()),
        seconds_per_trial=round(seconds, 2),
        timed_on=_device(config),
        hours_one_at_a_time=round(seconds * trainings / 3600, 3),
        disk_megabytes=round(_bytes(prepared, trials, trainings) / 2**20, 1),
        notes=[*filter(None, [startup_note(config)]), *prepared.notes],
    )


def _seconds_per_trial(prepared: Prepared, say: Callable[[str], object]) -> float:
    """Mean over a few cells of: set-up, a few steps scaled up to all, and the evaluations."""
    config, studies = prepared.config, prepared.studies
    bench = Workbench(config, prepared.data, prepared.untrained(), _device(config))
    chosen = {round(k * (len(studies) - 1) / (PROBES - 1)) for k in range(PROBES)}
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
        training.advance(1)  # the first step pays for memory that the others reuse
        began = _now()
        training.advance(STEPS)
        steps = max(1, training.step - 1)
        train = (_now() - began) / steps * training.total_steps
        # A forward pass is about a third of a training step; every epoch ends with the validation set.
        per_image = train / max(1, training.total_steps) / settings.training.batch_size / 3
        validation = settings.training.epochs * len(prepared.data.validation) * per_image
        # Setting up runs each split once, which is what an evaluation at the end costs about.
        seconds.append(2 * set_up + train + validation)
    return sum(seconds) / len(seconds)


def _now() -> float:
    """Seconds, once all that was asked of a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _device(config: Config) -> str:
    return config.resources.device if torch.cuda.is_available() else "cpu"


def _bytes(prepared: Prepared, trials: int, trainings: int) -> float:
    """Records, tables and kept stitches."""
    config, studies = prepared.config, prepared.studies
    steps = math.ceil(len(prepared.data.train) / config.training.batch_size)
    rows = config.training.epochs * (1 + min(4, steps))
    record = 300 * rows + 4000 + len(prepared.data.test)
    kept = {"all": trainings, "best": len(studies), "none": 0}[config.keep_stitches]
    outlines = prepared.outlines
    with torch.device("meta"):
        shapes = {
            (s.sender, s.sender_layer, s.receiver, s.receiver_layer): s for s in studies
        }.values()
        sizes = []
        for study in itertools.islice(shapes, 200):
            settings = first_settings(config, study)
            stitch = build_stitch(
                settings.stitch.name,
                outlines[study.sender].shape(study.sender_layer),
                outlines[study.receiver].shape(study.receiver_layer),
                options=settings.stitch.options,
            )
            sizes.append(4 * sum(p.numel() for p in stitch.parameters()))
    return 1.6 * trials * record + kept * sum(sizes) / len(sizes)
