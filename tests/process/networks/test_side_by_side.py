"""Networks that are trained in processes of their own are those of this process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stitch_sweep.core.errors import DivergedError, StoppedError
from stitch_sweep.networks.pretraining import Progress
from stitch_sweep.networks.recipes import Recipe
from stitch_sweep.networks.side_by_side import ensure_side_by_side
from stitch_sweep.networks.zoo import Zoo
from tests.support.networks_zoo import recipe, train


def children() -> list[int]:
    """Return the numbers of the child processes that still run, without multiprocessing's helpers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and "spawn_main" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:
            continue  # the process ended
    return found


def ignore(network_recipe: Recipe, progress: Progress) -> None:
    """Show nothing."""


def test_two_processes_train_at_once_and_give_the_bits_of_one(digits, tmp_path):
    recipes = [recipe(digits, {"seed": seed}) for seed in (0, 1, 0)]
    together: set[int] = set()

    def count(network_recipe: Recipe, progress: Progress) -> None:
        together.add(len(children()))

    stored = ensure_side_by_side(
        Zoo(tmp_path), recipes, digits, threads=1, slots=2, on_progress=count
    )
    assert max(together) == 2, "one process for each of the two different recipes"
    assert not children()
    assert stored[0] == stored[2] != stored[1]
    for network_recipe, entry in zip(recipes[:2], stored, strict=False):
        alone = train(network_recipe, digits)[-1]
        assert entry.weights_file.read_bytes() == alone.weights
        assert entry.accuracy == alone.accuracy


def test_a_process_that_is_killed_is_named_and_its_training_resumes(digits, tmp_path):
    # So many epochs that the process can't end before it is killed.
    network_recipe, zoo = recipe(digits, pretraining={"epochs": 30}), Zoo(tmp_path)
    begun = train(network_recipe, digits, checkpoint_seconds=0)
    zoo.store(network_recipe, begun[0])
    epochs: list[int] = []

    def kill(killed_recipe: Recipe, progress: Progress) -> None:
        epochs.append(progress.epoch)
        for number in children():
            os.kill(number, signal.SIGKILL)

    options = {"threads": 1, "slots": 2}
    with pytest.raises(StoppedError, match="network 'n': its process died"):
        ensure_side_by_side(zoo, [network_recipe], digits, **options, on_progress=kill)
    assert zoo.find(network_recipe) is None
    (stored,) = ensure_side_by_side(zoo, [network_recipe], digits, **options, on_progress=ignore)
    assert epochs[0] == 2, "the first epoch is that of the checkpoint"
    assert stored.weights_file.read_bytes() == begun[-1].weights


def test_an_error_is_raised_as_it_is_and_the_other_network_is_stored(digits, tmp_path):
    wrong = recipe(digits, pretraining={"optimizer": {"name": "sgd", "lr": 1e30}})
    right, zoo = recipe(digits), Zoo(tmp_path)
    with pytest.raises(DivergedError, match="'n': its training diverged in epoch 1"):
        ensure_side_by_side(zoo, [wrong, right], digits, threads=1, slots=2, on_progress=ignore)
    assert zoo.find(right) is not None
    assert zoo.find(wrong) is None
    assert not children()


def test_an_interrupt_ends_all_processes(digits, tmp_path):
    recipes = [recipe(digits, {"seed": seed}, pretraining={"epochs": 10_000}) for seed in (0, 1)]
    zoo = Zoo(tmp_path)
    main = os.getpid()

    def interrupt(network_recipe: Recipe, progress: Progress) -> None:
        if progress.epoch == 2:
            os.kill(main, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ensure_side_by_side(zoo, recipes, digits, threads=1, slots=2, on_progress=interrupt)
    assert not children()
    assert not any(zoo.find(network_recipe) for network_recipe in recipes)


def test_an_interrupt_after_an_error_of_one_network_ends_the_others(digits, tmp_path):
    wrong = recipe(digits, pretraining={"optimizer": {"name": "sgd", "lr": 1e30}})
    endless = recipe(digits, {"seed": 1}, pretraining={"epochs": 10_000})
    main, zoo = os.getpid(), Zoo(tmp_path)

    def interrupt(network_recipe: Recipe, progress: Progress) -> None:
        if len(children()) == 1:  # the other has ended
            os.kill(main, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ensure_side_by_side(
            zoo, [wrong, endless], digits, threads=1, slots=2, on_progress=interrupt
        )
    assert not children()
    assert not zoo.find(endless)
