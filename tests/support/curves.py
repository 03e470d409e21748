"""Recorded learning curves, and studies driven by a scheduler without training anything."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from stitch_sweep.config.root import Config
from stitch_sweep.plan.schedulers import Scheduler, build_scheduler
from stitch_sweep.storage.study import Study
from tests.support.searches import FLAT, STUDIES, make_config

EPOCHS = 9


def make_curves(count: int, epochs: int = EPOCHS, seed: int = 0) -> list[list[float]]:
    """Make learning curves that rise at different speeds to different levels, with noise; all differ."""
    generator = random.Random(seed)
    curves = []
    for _ in range(count):
        level, speed = generator.uniform(0.2, 0.9), generator.uniform(0.2, 0.9)
        curves.append(
            [
                level * (1 - speed**epoch) + generator.uniform(0, 0.05)
                for epoch in range(1, epochs + 1)
            ]
        )
    return curves


def scheduled_config(
    scheduler: object, samples: int, round_size: int, epochs: int = EPOCHS, **search: object
) -> Config:
    config = make_config(
        FLAT, scheduler=scheduler, samples=samples, parallel_per_study=round_size, **search
    )
    config.training.epochs = epochs
    return config


def scheduler_for(config: Config, study: Study = STUDIES[0]) -> Scheduler:
    scheduler = build_scheduler(config, study)
    assert scheduler is not None
    return scheduler


def run_study(
    scheduler: Scheduler,
    curves: Sequence[Sequence[float]],
    round_size: int,
    *,
    fails: Mapping[int, int] | None = None,
    shuffle: random.Random | None = None,
    later: random.Random | None = None,
) -> list[int]:
    """Run a study as a sweep does: whole rounds, in which trials wait for each other at rungs.

    Args:
        scheduler: decides.
        curves: the search metric of each trial after each epoch, if it runs to its end.
        round_size: number of trials of a round.
        fails: trial -> the epoch after which it fails.
        shuffle: draws the order in which trials arrive and are listed; None for the order of numbers.
        later: draws values that replace those after the decision's epoch, which a scheduler must not
            read; None passes no such values.

    Returns:
        The number of epochs that each trial ran.
    """
    lengths = [(fails or {}).get(n, len(curve)) for n, curve in enumerate(curves)]
    finished: set[int] = set()
    for start in range(0, len(curves), round_size):
        members = range(start, min(start + round_size, len(curves)))
        for epoch in range(1, max(lengths[n] for n in members)):
            arrived = [
                n
                for n in members
                if lengths[n] > epoch and epoch in scheduler.rungs(n, len(curves[n]))
            ]
            if not arrived:
                continue
            histories: dict[int, list[float]] = {}
            numbers = list(range(members.stop))
            if shuffle is not None:
                shuffle.shuffle(arrived)
                shuffle.shuffle(numbers)
            for n in numbers:
                last = lengths[n] if n < start else min(epoch, lengths[n])
                histories[n] = list(curves[n][:last])
                if later is not None and n >= start and lengths[n] > epoch:
                    histories[n] += [later.random() for _ in range(3)]
            for n in scheduler.stops(epoch, arrived, histories, set(finished)):
                lengths[n] = epoch
        finished |= {n for n in members if lengths[n] == len(curves[n])}
    return lengths
