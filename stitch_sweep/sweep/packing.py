"""How many trials fit on a GPU, from what the largest of them takes: `resources.gpu: auto`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from stitch_sweep.config import Config
from stitch_sweep.data import Data
from stitch_sweep.ledger import Study
from stitch_sweep.sweep.gpu import Footprint, gib, measure_context
from stitch_sweep.sweep.prepare import Prepared, first_settings
from stitch_sweep.sweep.workbench import Workbench

HEADROOM = 1.25
"""A trial is given so many times the memory that was measured: cells and batches differ a little."""
MOST = 32
"""Trials on one GPU that `auto` chooses at most: beyond that they only wait for each other."""


def measure_trial(
    config: Config, data: Data, networks: Mapping[str, nn.Module], study: Study
) -> Footprint:
    """What the largest trial takes, from a training of one epoch and its evaluations. Needs a GPU."""
    context = measure_context()
    settings = first_settings(config, study)
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


def largest(prepared: Prepared) -> Study:
    """The study whose representations are the largest, so that its trials take the most memory."""

    def size(study: Study) -> tuple[int, bool]:
        shapes = (
            prepared.outlines[study.sender].shape(study.sender_layer),
            prepared.outlines[study.receiver].shape(study.receiver_layer),
        )
        learns = first_settings(prepared.config, study).loss
        # Of equals the one whose loss needs the expected representations too.
        return sum(map(math.prod, shapes)), any(term.name != "task" for term in learns.terms)

    return max(prepared.studies, key=size)


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
