"""Trained to the end in one go, or stored, taken up by a new process and finished there: the same bits.

One other process takes up every case, since importing torch takes seconds.
"""

from __future__ import annotations

import _pickle
import json
import operator
import os
import pickle
import random
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stitch_sweep.config.models import Config, DataConfig, TrialSettings
from stitch_sweep.config.optimization import _CLASSES, ScheduleConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import LOSSES, STITCHES
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load, make_loaders
from stitch_sweep.networks.families.building import build
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.networks.zoo import Recipe, Zoo, make_recipe, train_network
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.linear import LinearStitch
from stitch_sweep.stitches.shapes import Shape, unfit
from stitch_sweep.storage.checkpoints import (
    CheckpointError,
    fingerprint,
    generators,
    pack,
    set_generators,
    tensors_of,
    unpack,
)
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.training.loop import ActivationCache, StitchTraining
from tests.support.digits import DIGITS, TINY
from tests.support.paths import ROOT

STEPS_PER_EPOCH = 5  # of the 300 images in batches of 64
EPOCHS = 3
CUTS = {
    "boundary": (EPOCHS - 1) * STEPS_PER_EPOCH,
    "middle": (EPOCHS - 2) * STEPS_PER_EPOCH + 3,  # between two rows of the trajectory
}
# The network's own, and one that is a vector.
LAYERS = ["relu", *(f"layer{k}.0" for k in range(1, 5)), "fc"]

# What their defaults leave out of their state.
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
    """A training of a stitch: its settings, its cell, its augmentation."""

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
    """A stitch that draws from every generator that a module might think of."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(nn.functional.dropout(x, 0.3, self.training))
        if self.training:
            y = y * (1 + 0.1 * random.random()) + 0.1 * np.random.standard_normal()
        return y


def cells_of(stitch: str) -> Iterator[tuple[int, int]]:
    """Every cell of the tiny network that a stitch fits."""
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
    cases = {f"optimizer {name}": Case({"optimizer": {"name": name}}) for name in sorted(_CLASSES)}
    cases |= {f"optimizer {v}": Case({"optimizer": v}) for v in VARIANTS}
    for name in SCHEDULES:
        for warmup in (0.0, 0.6):  # the latter ends in the last epoch
            schedule = {"name": name, "warmup": warmup}
            cases[f"schedule {name} {warmup}"] = Case({"schedule": schedule})
    for name in STITCHES.names():
        fitting = list(cells_of(name))
        # To a smaller map, an equal and a larger one, late in the network, where it is cheap.
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


# Faults that a checkpoint might have; each must be found by the comparison that finds none otherwise.


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
    """Put the noisy stitch into the registry."""

    def noisy(sender: Shape, receiver: Shape) -> nn.Module:
        if len(receiver) != 1:
            raise unfit("noisy", sender, receiver, "a vector")
        return Noisy(sender, receiver)

    STITCHES.register("noisy")(noisy)


def freeze(modules: dict[str, nn.Module]) -> list[FrozenNetwork]:
    return [FrozenNetwork(modules[k], f"network {k}", LAYERS) for k in "ab"]


def start(case: Case, networks: list[FrozenNetwork], data: Data) -> StitchTraining:
    loaders = make_loaders(data, 64, seed=5, augment=case.augment)
    return StitchTraining(*networks, *case.cell, loaders, case.settings, seed=5, cache=CACHE)


CACHE = ActivationCache(2**30)


def outcome(running: StitchTraining, networks: list[FrozenNetwork], data: Data) -> dict[str, Any]:
    """Train to the end, and everything that can be said of the result but for times."""
    while not running.done:
        running.run_epoch()
    found = {
        "optimization": running._optimization.state_dict(),
        "generators": generators(running._device),
        "step": running.step,
    }
    result = running.finish()
    sender, receiver = networks
    i, j = running._identity["sender"][1], running._identity["receiver"][1]
    loaders = make_loaders(data, 64, seed=0, device=running._device)
    images = next(loaders["test"].in_order(100)).images
    with torch.no_grad():
        stitched = result.stitch.to(images.device).eval()(sender.prefix(i)(images))
        logits = receiver.suffix(j)(stitched)
    return found | {
        "stitch": tensors_of(result.stitch),
        "logits": logits,
        "status": result.status,
        "metrics": result.metrics,
        "predictions": result.predictions,
        "trajectory": [{k: v for k, v in row.items() if k != "time"} for row in result.trajectory],
    }


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two states differ in any bit, as paths; -0 is not 0, and 1 is not True."""
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        for key in one:
            yield from differences(one[key], other[key], f"{path}.{key}".removeprefix("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for k, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{path}.{k}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if pack({"": one}) != pack({"": other}):
            yield path
    elif type(one) is not type(other) or repr(one) != repr(other):
        yield path


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """A state as it comes out of a file: lists where there were tuples."""
    return unpack(pack(state))


# The other process

OTHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.unit.training import test_checkpoint_quick
test_checkpoint_quick.take_up_all(Path(sys.argv[2]))
"""


def take_up_all(folder: Path) -> None:
    """In another process: take up every checkpoint in `folder`, and write what each came to."""
    # A process that has already done something else.
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
        (folder / f"{job['file']}.done").write_bytes(pack(outcome(running, networks, data)))
    for path in sorted(folder.glob("zoo.*.epoch*")):
        found = train_zoo(zoo_recipe(path.name.split(".")[1], data), data, path.read_bytes())
        path.with_name(f"{path.name}.done").write_bytes(found[-1].weights)


ZOO = {
    "momentum": ({"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}, "crop_flip"),
    "adam": ({"name": "adam", "lr": 0.01}, "none"),
}


def zoo_recipe(kind: str, data: Data) -> Recipe:
    optimizer, augment = ZOO[kind]
    config = Config.model_validate(
        {
            "data": {**DIGITS, "augment": augment},
            "networks": [{"name": "n", "family": "resnet1111", "width": 2}],
            "pairs": [{"sender": "n", "receiver": "n"}],
            "pretraining": {"epochs": 3, "batch_size": 64, "optimizer": optimizer},
        }
    )
    return make_recipe(config.networks[0], config, data)


def train_zoo(of: Recipe, data: Data, resume: bytes | None = None) -> list[Any]:
    options = {"threads": 1, "resume": resume, "checkpoint_seconds": 0}
    return list(train_network(of, data, **options))


@dataclass
class Compared:
    """What the other process came to, beside what came of training straight through."""

    folder: Path
    straight: dict[str, dict[str, Any]]
    zoo: dict[str, bytes]

    def differences(self, case: str, file: str) -> list[str]:
        found = unpack((self.folder / f"{file}.done").read_bytes())
        return list(differences(self.straight[case], found))


@pytest.fixture(scope="module")
def registry() -> Iterator[None]:
    register_noisy()
    yield
    del STITCHES._entries["noisy"]


@pytest.fixture(scope="module")
def networks(trained: dict[str, nn.Module]) -> list[FrozenNetwork]:
    return freeze(trained)


@pytest.fixture(scope="module")
def compared(
    trained: dict[str, nn.Module],
    networks: list[FrozenNetwork],
    digits: Data,
    registry: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Compared:
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "networks").write_bytes(pack({k: dict(n.state_dict()) for k, n in trained.items()}))
    jobs, straight = [], {}
    for name, case in all_cases().items():
        straight[name] = plain(outcome(start(case, networks, digits), networks, digits))
        running = start(case, networks, digits)
        for cut, step in sorted(CUTS.items(), key=lambda item: item[1]):
            running.advance(step - running.step)
            jobs.append({"case": name, "file": f"{len(jobs)}.{cut}"})
            (folder / jobs[-1]["file"]).write_bytes(running.checkpoint())
    again: dict[str, Any] = {}
    for fault, case in FAULTS.items():
        name = fault.__name__
        if repr(case) not in again:
            whole = outcome(start(case, networks, digits), networks, digits)
            again[repr(case)] = plain(whole)
        straight[name] = again[repr(case)]
        running = start(case, networks, digits)
        running.advance(CUTS["middle"])
        state = unpack(running.checkpoint())
        fault(state)
        jobs.append({"case": name, "file": f"fault.{name}"})
        (folder / jobs[-1]["file"]).write_bytes(pack(state))
    (folder / "jobs").write_text(json.dumps(jobs))
    zoo = {}
    for kind in ZOO:
        progress = train_zoo(zoo_recipe(kind, digits), digits)
        zoo[kind] = progress[-1].weights
        for p in progress[:-1]:
            (folder / f"zoo.{kind}.epoch{p.epoch}").write_bytes(p.checkpoint)
    command = [sys.executable, "-c", OTHER, str(ROOT), str(folder)]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    subprocess.run(command, check=True, env=environment)
    return Compared(folder, straight, zoo)


# The comparison


def test_a_training_taken_up_by_a_new_process_ends_with_the_same_bits(compared):
    jobs = json.loads((compared.folder / "jobs").read_text())
    found = {
        (job["case"], job["file"].partition(".")[2]): compared.differences(job["case"], job["file"])
        for job in jobs
        if not job["file"].startswith("fault.")
    }
    assert found.keys() == {(case, cut) for case in all_cases() for cut in CUTS}
    assert {at: paths for at, paths in found.items() if paths} == {}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_fault_in_a_checkpoint_is_found_by_that_comparison(compared, fault):
    assert compared.differences(fault.__name__, f"fault.{fault.__name__}")


@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_network_taken_up_by_a_new_process_ends_with_the_same_bits(compared, kind, epoch):
    found = (compared.folder / f"zoo.{kind}.epoch{epoch}.done").read_bytes()
    assert found == compared.zoo[kind]


@pytest.mark.parametrize("step", range(2 * STEPS_PER_EPOCH + 1))
def test_a_training_can_be_cut_after_any_step(networks, digits, step):
    case = Case({"epochs": 2})
    whole = outcome(start(case, networks, digits), networks, digits)
    running = start(case, networks, digits)
    running.advance(step)
    assert running.step == step
    resumed = start(case, networks, digits)
    resumed.restore(running.checkpoint())
    assert (resumed.step, resumed.epoch) == (step, step // STEPS_PER_EPOCH)
    assert not list(differences(plain(outcome(resumed, networks, digits)), plain(whole)))


def test_generators_go_on_where_they_were():
    def draws() -> list[Any]:
        numbers = [random.random(), random.gauss(), np.random.random(), np.random.standard_normal()]
        return [*numbers, *torch.rand(3).tolist()]

    cpu = torch.device("cpu")
    draws()  # of two normal numbers that are made at once, one is left over
    state = pack(generators(cpu))
    first = draws()
    assert draws() != first
    set_generators(unpack(state), cpu)
    assert draws() == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_generators_of_a_gpu_go_on_where_they_were():
    gpu = torch.device("cuda")
    state = pack(generators(gpu))
    first = torch.rand(3, device=gpu)
    set_generators(unpack(state), gpu)
    assert torch.equal(torch.rand(3, device=gpu), first)


# What doesn't fit, and what isn't whole


def test_a_checkpoint_of_another_training_is_refused_and_changes_nothing(networks, digits):
    case = Case()
    running = start(case, networks, digits)
    running.advance(2)
    data = running.checkpoint()
    loaders = make_loaders(digits, 64, seed=5)
    swapped = networks[::-1]
    others = {
        "sender": start(case, [networks[1], networks[1]], digits),
        "sender, receiver": start(case, swapped, digits),
        "receiver": start(Case(cell=(3, 3)), networks, digits),
        "settings": start(Case(loss={"mse": 1.0}), networks, digits),
        "seed": StitchTraining(*networks, 3, 4, loaders, case.settings, seed=5, repeat=1),
        "threads": StitchTraining(*networks, 3, 4, loaders, case.settings, seed=5, threads=2),
        "augment": start(Case(augment="crop_flip"), networks, digits),
        "labels": start(case, networks, load(DataConfig(**{**DIGITS, "split_seed": 1}))),
    }
    for parts, other in others.items():
        before = fingerprint(other.stitch)
        with pytest.raises(CheckpointError, match=rf"another training \({parts} not the same"):
            other.restore(data)
        assert (fingerprint(other.stitch), other.step) == (before, 0)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "it is empty"),
    "truncated": (lambda data: data[: len(data) // 2], "truncated"),
    "one bit flipped": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "checksum doesn't fit"),
    "pickle": (lambda data: pickle.dumps({"state": 1}), "foreign"),
    "of ours, but nothing to go on from": (lambda data: pack({"stitch": {}}), "foreign"),
}
every_damage = pytest.mark.parametrize(("damage", "named"), DAMAGE.values(), ids=list(DAMAGE))


@every_damage
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(networks, digits, damage, named):
    running = start(Case(), networks, digits)
    running.advance(2)
    fresh = start(Case(), networks, digits)
    before = fingerprint(fresh.stitch)
    with pytest.raises(CheckpointError, match=named):
        fresh.restore(damage(running.checkpoint()))
    assert (fingerprint(fresh.stitch), fresh.step) == (before, 0)


@pytest.fixture(scope="module")
def progress(digits: Data) -> list[Any]:
    return train_zoo(zoo_recipe("adam", digits), digits)


@every_damage
def test_a_network_goes_on_from_the_checkpoint_before_a_damaged_one(
    digits, progress, tmp_path, capfd, damage, named
):
    zoo, of = Zoo(tmp_path), zoo_recipe("adam", digits)
    for p in progress[:2]:
        zoo.store(of, p)
    assert zoo.checkpoint(of) == progress[1].checkpoint
    assert capfd.readouterr().err == ""
    path = tmp_path / of.folder / "checkpoint.safetensors"
    earlier = path.with_name("checkpoint.safetensors.previous")
    path.write_bytes(damage(progress[1].checkpoint))
    epochs = []
    entry = zoo.ensure(
        of,
        lambda r, resume: train_network(r, digits, threads=1, resume=resume),
        lambda _, p: epochs.append(p.epoch),
    )
    said = capfd.readouterr().err
    assert said.startswith(f"checkpoint {path}: ")
    assert named in said
    assert said.endswith(f"; the one before it is used: {earlier}\n")
    assert epochs == [2, 3]
    assert (entry.folder / "weights.safetensors").read_bytes() == progress[-1].weights
    assert sorted(p.name for p in entry.folder.iterdir()) == ["recipe.json", "weights.safetensors"]


def test_where_no_checkpoint_is_whole_a_network_starts_from_the_beginning_and_says_so(
    digits, progress, tmp_path, capfd
):
    zoo, of = Zoo(tmp_path), zoo_recipe("adam", digits)
    assert zoo.checkpoint(of) is None
    assert capfd.readouterr().err == ""
    for p in progress[:2]:
        zoo.store(of, p)
    path = tmp_path / of.folder / "checkpoint.safetensors"
    path.unlink()
    path.mkdir()
    path.with_name("checkpoint.safetensors.previous").write_bytes(b"")
    assert zoo.checkpoint(of) is None
    assert capfd.readouterr().err == (
        f"checkpoint {path}: can't be read (is not a regular file); "
        f"checkpoint {path}.previous: it is empty; "
        "there is none before it: the training of network 'n' starts from the beginning\n"
    )


def test_a_checkpoint_of_another_recipe_is_foreign(digits, progress, tmp_path, capfd):
    of, other = zoo_recipe("adam", digits), zoo_recipe("momentum", digits)
    with pytest.raises(CheckpointError, match="another recipe"):
        train_zoo(other, digits, resume=progress[0].checkpoint)
    zoo = Zoo(tmp_path)
    zoo.store(of, progress[0])
    (tmp_path / of.folder).rename(tmp_path / other.folder)
    assert zoo.checkpoint(other) is None
    assert "another recipe" in capfd.readouterr().err


# Nothing is unpickled


@pytest.fixture
def bomb(tmp_path: Path) -> bytes:
    """A pickle that leaves a file behind when it is opened."""

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    return pickle.dumps(Bomb())


def test_a_pickle_named_like_a_checkpoint_does_nothing(
    digits, networks, progress, tmp_path, bomb, capfd
):
    running = start(Case(), networks, digits)
    with pytest.raises(CheckpointError, match="foreign"):
        running.restore(bomb)
    zoo, of, ledger = Zoo(tmp_path / "zoo"), zoo_recipe("adam", digits), Ledger(tmp_path)
    zoo.store(of, progress[0])
    ledger.write_checkpoint("t", bomb)
    (path,) = (tmp_path / "zoo").glob("*/checkpoint.safetensors")
    for name in (path, path.with_name(f"{path.name}.previous")):
        name.write_bytes(bomb)
    assert zoo.checkpoint(of) is None
    assert capfd.readouterr().err.count("foreign") == 2
    assert [found.data for found in ledger.read_checkpoints("t")] == [bomb]
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)  # it would have
    assert (tmp_path / "exploded").exists()


def test_checkpoints_are_read_where_pickle_does_not_work(
    digits, networks, progress, tmp_path, monkeypatch
):
    running = start(Case(), networks, digits)
    running.advance(2)
    ledger, zoo, of = Ledger(tmp_path), Zoo(tmp_path / "zoo"), zoo_recipe("adam", digits)
    ledger.write_checkpoint("t", running.checkpoint())
    zoo.store(of, progress[1])

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("something was unpickled")

    for module, name in [
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (pickle, "_load"),
        (pickle, "_loads"),
        (pickle, "_Unpickler"),
        (_pickle, "load"),
        (_pickle, "loads"),
        (_pickle, "Unpickler"),
        (torch, "load"),
    ]:
        monkeypatch.setattr(module, name, refuse)
    (found,) = ledger.read_checkpoints("t")
    resumed = start(Case(), networks, digits)
    resumed.restore(found.data)
    assert resumed.step == 2
    assert train_zoo(of, digits, resume=zoo.checkpoint(of))[-1].weights == progress[-1].weights
