"""The resources of this machine, and the check that they suffice for a trial."""

from __future__ import annotations

import torch

from stitch_sweep.config.resources import ResourcesConfig
from stitch_sweep.config.root import Config
from stitch_sweep.config.training import FrozenMode, Precision
from stitch_sweep.core.cpus import usable_cpus
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.fast.machine import check_machine, has_bfloat16
from stitch_sweep.plan.settings import possible_trainings


def check_local(resources: ResourcesConfig) -> None:
    """Check that this machine can run one trial.

    Raises:
        InputError: the machine has no GPU, or too few CPUs.
    """
    if resources.gpu_at_most > torch.cuda.device_count():
        raise InputError(
            f"resources.gpu is {format_gpu(resources)}, but this machine has "
            f"{torch.cuda.device_count() or 'no'} GPU that torch can use; "
            "set it to 0, or give --address of a cluster that has one"
        )
    count = usable_cpus()
    if resources.cpu > count:
        raise InputError(f"resources.cpu is {resources.cpu}, but this machine has {count} CPUs")


def count_local_slots(resources: ResourcesConfig) -> int | None:
    """Count the workers that fit on this machine; None if a GPU's share is measured later."""
    if resources.gpu == "auto":
        return None
    cpus = usable_cpus()
    return max(1, count_slots(cpus, torch.cuda.device_count(), resources.cpu, resources.gpu))


def count_slots(cpus: int | float, gpus: int | float, cpu: int, gpu: float) -> int:
    """Count the workers that fit on a machine.

    Args:
        cpus: of the machine.
        gpus: of the machine.
        cpu: CPUs of a worker.
        gpu: GPUs of a worker, or its share of one.
    """
    by_cpu = int(cpus // cpu)
    if gpu == 0:
        return by_cpu
    # A fraction must fit on one GPU: 0.4 fits twice on each, not five times on two.
    per_gpu = int(1 / gpu + 1e-9)
    return min(by_cpu, int(gpus * per_gpu) if gpu <= 1 else int(gpus // gpu))


def check_training(config: Config) -> None:
    """Check that this machine can run the frozen network in every way that a configuration names.

    Raises:
        InputError: it lacks a compiler, or arithmetic in bfloat16.
    """
    trainings = [
        training
        for factors in config.factor_combinations()
        for training in possible_trainings(config, factors, "frozen", "precision")
    ]
    is_compiled = any(training.frozen == "compiled" for training in trainings)
    is_short = any(training.precision == "bfloat16" for training in trainings)
    mode: FrozenMode = "compiled" if is_compiled else "exact"
    precision: Precision = "bfloat16" if is_short else "float32"
    check_machine(mode, precision, config.resources.device)


def pretraining_notes(config: Config) -> list[str]:
    """Return a note for each network that is trained in bfloat16, if this machine has no such arithmetic.

    It isn't refused, because the numbers are the same, and the number format identifies a network in the
    zoo.
    """
    if has_bfloat16(config.resources.device):
        return []
    notes = []
    for network in config.networks:
        pretraining = network.pretraining or config.pretraining
        if network.kind == "trained" and pretraining.precision == "bfloat16":
            notes.append(
                f"network {network.name!r}: this machine has no arithmetic in bfloat16, so its training "
                "can take several times as long as in float32; unless the zoo has the network, set "
                "pretraining.precision: float32"
            )
    return notes


def format_gpu(resources: ResourcesConfig) -> str:
    """Return `resources.gpu` as text."""
    return resources.gpu if isinstance(resources.gpu, str) else f"{resources.gpu:g}"
