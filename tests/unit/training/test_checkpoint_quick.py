"""Checkpoints within one process: resumed after any step, damaged, foreign, and never unpickled."""

from __future__ import annotations

import _pickle
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stitch_sweep.config.data import DataConfig
from stitch_sweep.core.generators import capture_generators, restore_generators
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load, make_loaders
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.networks.pretraining import train_network
from stitch_sweep.networks.zoo import Zoo
from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.checkpoints import pack, unpack
from stitch_sweep.storage.digests import fingerprint
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.training.loop import StitchTraining
from tests.support.checkpoint_cases import Case, freeze, plain, start, train_zoo, zoo_recipe
from tests.support.checkpoints import differences, final_state
from tests.support.digits import DIGITS
from tests.support.training import STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def networks(trained: dict[str, nn.Module]) -> list[FrozenNetwork]:
    return freeze(trained)


@pytest.mark.parametrize("step", range(2 * STEPS_PER_EPOCH + 1))
def test_a_training_can_be_cut_after_any_step(networks, digits, step):
    case = Case({"epochs": 2})
    whole = final_state(start(case, networks, digits), networks, digits)
    running = start(case, networks, digits)
    running.advance(step)
    assert running.step == step
    resumed = start(case, networks, digits)
    resumed.restore(running.checkpoint())
    assert (resumed.step, resumed.epoch) == (step, step // STEPS_PER_EPOCH)
    assert not list(differences(plain(final_state(resumed, networks, digits)), plain(whole)))


def test_generators_go_on_where_they_were():
    def draws() -> list[Any]:
        numbers = [random.random(), random.gauss(), np.random.random(), np.random.standard_normal()]
        return [*numbers, *torch.rand(3).tolist()]

    cpu = torch.device("cpu")
    draws()  # normal numbers are generated in pairs, and the generator stores the second
    state = pack(capture_generators(cpu))
    first = draws()
    assert draws() != first
    restore_generators(unpack(state), cpu)
    assert draws() == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_generators_of_a_gpu_go_on_where_they_were():
    gpu = torch.device("cuda")
    state = pack(capture_generators(gpu))
    first = torch.rand(3, device=gpu)
    restore_generators(unpack(state), gpu)
    assert torch.equal(torch.rand(3, device=gpu), first)


# Foreign and damaged checkpoints


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
    "of Stitch Sweep, but without a training": (lambda data: pack({"stitch": {}}), "foreign"),
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
    zoo, recipe = Zoo(tmp_path), zoo_recipe("adam", digits)
    for p in progress[:2]:
        zoo.store(recipe, p)
    assert zoo.checkpoint(recipe) == progress[1].checkpoint
    assert capfd.readouterr().err == ""
    path = tmp_path / recipe.folder / "checkpoint.safetensors"
    earlier = path.with_name("checkpoint.safetensors.previous")
    path.write_bytes(damage(progress[1].checkpoint))
    epochs = []
    entry = zoo.ensure(
        recipe,
        lambda r, resume: train_network(r, digits, threads=1, resume=resume),
        lambda _, p: epochs.append(p.epoch),
    )
    said = capfd.readouterr().err
    assert said.startswith(f"checkpoint {path}: ")
    assert named in said
    assert said.endswith(f"; the previous checkpoint is used: {earlier}\n")
    assert epochs == [2, 3]
    assert (entry.folder / "weights.safetensors").read_bytes() == progress[-1].weights
    assert sorted(p.name for p in entry.folder.iterdir()) == ["recipe.json", "weights.safetensors"]


def test_where_no_checkpoint_is_whole_a_network_starts_from_the_beginning_and_says_so(
    digits, progress, tmp_path, capfd
):
    zoo, recipe = Zoo(tmp_path), zoo_recipe("adam", digits)
    assert zoo.checkpoint(recipe) is None
    assert capfd.readouterr().err == ""
    for p in progress[:2]:
        zoo.store(recipe, p)
    path = tmp_path / recipe.folder / "checkpoint.safetensors"
    path.unlink()
    path.mkdir()
    path.with_name("checkpoint.safetensors.previous").write_bytes(b"")
    assert zoo.checkpoint(recipe) is None
    assert capfd.readouterr().err == (
        f"checkpoint {path}: can't be read (is not a regular file); "
        f"checkpoint {path}.previous: it is empty; "
        "there is no previous checkpoint: the training of network 'n' starts from the beginning\n"
    )


def test_a_checkpoint_of_another_recipe_is_foreign(digits, progress, tmp_path, capfd):
    recipe, other = zoo_recipe("adam", digits), zoo_recipe("momentum", digits)
    with pytest.raises(CheckpointError, match="another recipe"):
        train_zoo(other, digits, resume=progress[0].checkpoint)
    zoo = Zoo(tmp_path)
    zoo.store(recipe, progress[0])
    (tmp_path / recipe.folder).rename(tmp_path / other.folder)
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
    zoo, recipe, ledger = Zoo(tmp_path / "zoo"), zoo_recipe("adam", digits), Ledger(tmp_path)
    zoo.store(recipe, progress[0])
    ledger.write_checkpoint("t", bomb)
    (path,) = (tmp_path / "zoo").glob("*/checkpoint.safetensors")
    for name in (path, path.with_name(f"{path.name}.previous")):
        name.write_bytes(bomb)
    assert zoo.checkpoint(recipe) is None
    assert capfd.readouterr().err.count("foreign") == 2
    assert [found.data for found in ledger.read_checkpoints("t")] == [bomb]
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)  # the pickle is indeed harmful
    assert (tmp_path / "exploded").exists()


def test_checkpoints_are_read_where_pickle_does_not_work(
    digits, networks, progress, tmp_path, monkeypatch
):
    running = start(Case(), networks, digits)
    running.advance(2)
    ledger, zoo, recipe = Ledger(tmp_path), Zoo(tmp_path / "zoo"), zoo_recipe("adam", digits)
    ledger.write_checkpoint("t", running.checkpoint())
    zoo.store(recipe, progress[1])

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
    assert (
        train_zoo(recipe, digits, resume=zoo.checkpoint(recipe))[-1].weights == progress[-1].weights
    )
