"""Trainings of many kinds, cut off at checkpoints: the cases, and faults that a checkpoint may have."""

from __future__ import annotations

import json
import operator
import random
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stitch_sweep.config.data import DataConfig
from stitch_sweep.config.optimizer import _CLASSES
from stitch_sweep.config.root import Config
from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import LOSSES, STITCHES
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load, make_loaders
from stitch_sweep.networks.families.building import build
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.networks.pretraining import train_network
from stitch_sweep.networks.recipes import Recipe, make_recipe
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.linear import LinearStitch
from stitch_sweep.stitches.shapes import Shape, shape_error
from stitch_sweep.storage.checkpoints import pack, unpack
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.representations import ActivationCache
from tests.support.checkpoints import final_state
from tests.support.digits import DIGITS, TINY
from tests.support.training import STEPS_PER_EPOCH

EPOCHS = 3
CUTS = {
    "boundary": (EPOCHS - 1) * STEPS_PER_EPOCH,
    "middle": (EPOCHS - 2) * STEPS_PER_EPOCH + 3,  # between two rows of the trajectory
}
# The network's own layers, and one whose output is a vector.
LAYERS = ["relu", *(f"layer{k}.0" for k in range(1, 5)), "fc"]

# Options that add to the state of an optimizer.
VARIANTS: list[dict[str, Any]] = [
    {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"name": "adam", "amsgrad": True, "betas": [0.8, 0.99]},
    {"name": "adamw", "fused": True},
    {"name": "rmsprop", "centered": True, "momentum": 0.5},
    {"name": "asgd", "t0": 4.0},
]
SCHEDULES = typing.get_args(ScheduleConfig.model_fields["name"].annotation)
AUGMENTATIONS = typing.get_args(DataConfig.model_fields["augment"].annotation)


@dataclass(frozen=True)
class Case:
    """A training of a stitch: settings, cell and augmentation."""

    training: dict[str, Any] = field(default_factory=dict)
    stitch: str = "paper"
    loss: dict[str, float] = field(default_factory=lambda: {"task": 1.0})
    cell: tuple[int, int] = (3, 4)
    augment: str = "none"

    @property
    def settings(self) -> TrialSettings:
        training = {"epochs": EPOCHS, "batch_size": 64, "log_every": 3, **self.training}
        return TrialSettings.model_validate(
            {"stitch": {"name": self.stitch}, "loss": self.loss, "training": training}
        )


class Noisy(LinearStitch):
    """A stitch that draws from every random generator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(nn.functional.dropout(x, 0.3, self.training))
        if self.training:
            y = y * (1 + 0.1 * random.random()) + 0.1 * np.random.standard_normal()
        return y


def cells_of(stitch: str) -> Iterator[tuple[int, int]]:
    """Yield every cell of the tiny network that a stitch joins."""
    network = FrozenNetwork(build("resnet", 1, 10, TINY), layer_names=LAYERS)
    shapes = {k: network.shape(k, (1, 16, 16)) for k in range(-1, len(LAYERS))}
    for i, sender in shapes.items():
        for j, receiver in shapes.items():
            try:
                build_stitch(stitch, sender, receiver)
            except InputError:
                continue
            yield i, j


def all_cases() -> dict[str, Case]:
    """Return a case for every optimizer, schedule, stitch, augmentation and loss."""
    cases = {f"optimizer {name}": Case({"optimizer": {"name": name}}) for name in sorted(_CLASSES)}
    cases |= {f"optimizer {v}": Case({"optimizer": v}) for v in VARIANTS}
    for name in SCHEDULES:
        for warmup in (0.0, 0.6):  # the latter ends in the last epoch
            schedule = {"name": name, "warmup": warmup}
            cases[f"schedule {name} {warmup}"] = Case({"schedule": schedule})
    for name in STITCHES.names():
        fitting = list(cells_of(name))
        # To a smaller, an equal and a larger map, late in the network, where training is cheap.
        for way in (operator.lt, operator.eq, operator.gt):
            if cells := [cell for cell in fitting if way(*cell)]:
                cases[f"stitch {name} {max(cells)}"] = Case(stitch=name, cell=max(cells))
        for augment in AUGMENTATIONS:
            cases[f"stitch {name} {augment}"] = Case(
                stitch=name, cell=fitting[-1], augment=augment, loss={"mse": 1.0}
            )
    for name in LOSSES.names():
        cases[f"loss {name}"] = Case(loss={name: 1.0}, augment="crop_flip")
    cases["loss all"] = Case(loss=dict.fromkeys(LOSSES.names(), 0.7))
    return cases


NOISY = Case(stitch="noisy", cell=(3, 5))
MOMENTUM = Case({"optimizer": VARIANTS[0]})


# Faults of a checkpoint; the comparison that finds no difference otherwise must find each of them.


def no_momentum(state: dict[str, Any]) -> None:
    for of_parameter in state["optimization"]["optimizer"]["state"].values():
        of_parameter["momentum_buffer"].zero_()


def no_optimizer_state(state: dict[str, Any]) -> None:
    state["optimization"]["optimizer"]["state"] = {}


def step_before(state: dict[str, Any]) -> None:
    state["optimization"]["step"] -= 1


def step_after(state: dict[str, Any]) -> None:
    state["optimization"]["step"] += 1


def last_bit_of_a_weight(state: dict[str, Any]) -> None:
    state["stitch"]["conv.weight"].view(torch.int32).view(-1)[0] ^= 1


def no_running_sums(state: dict[str, Any]) -> None:
    state["interval"] = {}


def no_last_row(state: dict[str, Any]) -> None:
    state["trajectory"].pop()


def torch_generator(state: dict[str, Any]) -> None:
    state["generators"]["torch"] = torch.Generator().manual_seed(1).get_state()


def python_generator(state: dict[str, Any]) -> None:
    state["generators"]["python"][1][-1] = 1


def numpy_generator(state: dict[str, Any]) -> None:
    state["generators"]["numpy"]["state"]["key"] = torch.ones(624, dtype=torch.uint32)


FAULTS: dict[Callable[[dict[str, Any]], None], Case] = {
    no_momentum: MOMENTUM,
    no_optimizer_state: Case(),
    step_before: MOMENTUM,
    step_after: MOMENTUM,
    last_bit_of_a_weight: Case(),
    no_running_sums: Case(),
    no_last_row: Case(),
    torch_generator: NOISY,
    python_generator: NOISY,
    numpy_generator: NOISY,
}


def register_noisy() -> None:
    """Register the noisy stitch."""

    def noisy(sender: Shape, receiver: Shape) -> nn.Module:
        if len(receiver) != 1:
            raise shape_error("noisy", sender, receiver, "a vector")
        return Noisy(sender, receiver)

    STITCHES.register("noisy")(noisy)


def freeze(modules: dict[str, nn.Module]) -> list[FrozenNetwork]:
    """Freeze networks a and b, cut at `LAYERS`."""
    return [FrozenNetwork(modules[k], f"network {k}", LAYERS) for k in "ab"]


def start(case: Case, networks: list[FrozenNetwork], data: Data) -> StitchTraining:
    """Set up the training of a case."""
    loaders = make_loaders(data, 64, seed=5, augment=case.augment)
    return StitchTraining(*networks, *case.cell, loaders, case.settings, seed=5, cache=CACHE)


CACHE = ActivationCache(2**30)


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state as it is read from a file: tuples become lists."""
    return unpack(pack(state))


def resume_all(folder: Path) -> None:
    """In another process: resume every checkpoint in `folder`, and write the final state of each."""
    # A process whose generators aren't fresh.
    torch.rand(7)
    random.random()
    np.random.standard_normal(3)
    register_noisy()
    data = load(DataConfig.model_validate(DIGITS))
    state = unpack((folder / "networks").read_bytes())
    modules = {}
    for name in "ab":
        modules[name] = build("resnet", 1, 10, TINY)
        modules[name].load_state_dict(state[name])
    networks = freeze(modules)
    cases = all_cases() | {fault.__name__: case for fault, case in FAULTS.items()}
    for job in json.loads((folder / "jobs").read_text()):
        running = start(cases[job["case"]], networks, data)
        running.restore((folder / job["file"]).read_bytes())
        (folder / f"{job['file']}.done").write_bytes(pack(final_state(running, networks, data)))
    for path in sorted(folder.glob("zoo.*.epoch*")):
        found = train_zoo(zoo_recipe(path.name.split(".")[1], data), data, path.read_bytes())
        path.with_name(f"{path.name}.done").write_bytes(found[-1].weights)


ZOO: dict[str, tuple[dict[str, Any], str]] = {
    "momentum": (
        {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}},
        "crop_flip",
    ),
    "adam": ({"optimizer": {"name": "adam", "lr": 0.01}}, "none"),
    "fast": ({"recipe": "fast", "augment": "crop_alternating_flip"}, "none"),
}
"""Keys of `pretraining`, and `data.augment`."""


def zoo_recipe(kind: str, data: Data) -> Recipe:
    """Return the recipe of a tiny network; `kind` is a key of `ZOO`."""
    pretraining, augment = ZOO[kind]
    config = Config.model_validate(
        {
            "data": {**DIGITS, "augment": augment},
            "networks": [{"name": "n", "family": "resnet1111", "width": 2}],
            "pairs": [{"sender": "n", "receiver": "n"}],
            "pretraining": {"epochs": 3, "batch_size": 64, **pretraining},
        }
    )
    return make_recipe(config.networks[0], config, data)


def train_zoo(recipe: Recipe, data: Data, resume: bytes | None = None) -> list[Any]:
    """Train a network; return its progress after every epoch."""
    options = {"threads": 1, "resume": resume, "checkpoint_seconds": 0}
    return list(train_network(recipe, data, **options))
