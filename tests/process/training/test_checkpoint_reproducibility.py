"""Real images, processes killed repeatedly: the same bits as an undisturbed process."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.networks.pretraining import train_network
from stitch_sweep.networks.zoo import Zoo
from stitch_sweep.plan.prepare import Prepared, prepare
from stitch_sweep.storage.checkpoint_files import resume_newest
from stitch_sweep.storage.checkpoints import pack, unpack
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.training.workbench import Workbench
from tests.support.checkpoints import differences, final_state
from tests.support.paths import ROOT, SHARED

CIFAR10 = SHARED / "data" / "cifar10"
KILLS = 6

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not CIFAR10.is_dir(), reason="no CIFAR-10 in ../shared/data/cifar10"),
]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    ),
]
CELLS = {
    f"{i}-{j}-{loss}": (i, j, {loss: 1.0})
    for i, j in ((0, 0), (1, 3), (3, 2))
    for loss in ("task", "mse")
}
STEPS = 9  # between checkpoints, which are mostly in the middle of an epoch


def configuration(device: str) -> Config:
    return Config.model_validate(
        {
            "data": {
                "name": "parquet",
                "path": str(CIFAR10),
                "train_images": 1500,
                "test_images": 300,
                "augment": "crop_flip",
            },
            "networks": [
                {"name": name, "family": "resnet1111", "width": 8, "seed": seed}
                for seed, name in enumerate("ab")
            ],
            "pairs": [{"sender": "a", "receiver": "b"}],
            "pretraining": {
                "epochs": 4,
                "batch_size": 64,
                "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            },
            "training": {"epochs": 3, "batch_size": 64},
            "resources": {"gpu": 0.0 if device == "cpu" else 1.0},
        }
    )


WORK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.process.training import test_checkpoint_reproducibility
test_checkpoint_reproducibility.work(Path(sys.argv[2]), sys.argv[3])
"""


def work(folder: Path, device: str) -> None:
    """In another process: do all missing work in `folder`, and print a line for each step."""
    prepared = prepare(configuration(device))
    config, ledger = prepared.config, Ledger(folder)
    bench = Workbench(config, prepared.data, trained(prepared, folder))
    for name, (i, j, loss) in CELLS.items():
        if (folder / name).exists():
            continue
        settings = TrialSettings.model_validate({**config.settings, "loss": loss})
        training = bench.training("a", i, "b", j, settings)
        _, said = resume_newest(ledger.read_checkpoints(name), training.restore, "starting again")
        print("taken up", name, training.step, said or "", flush=True)
        while not training.done:
            training.advance(STEPS)
            ledger.write_checkpoint(name, training.checkpoint())
            print("step", name, training.step, flush=True)
        networks = [bench.networks[k] for k in "ab"]
        write_atomically(folder / name, pack(final_state(training, networks, prepared.data)))
        ledger.remove_checkpoints(name)
    print("done", flush=True)


def trained(prepared: Prepared, folder: Path) -> dict[str, torch.nn.Module]:
    def train(recipe: Any, resume: bytes | None) -> Any:
        print("taken up" if resume else "begun", recipe.name, flush=True)
        resources = prepared.config.resources
        options = {
            "threads": resources.cpu,
            "device": resources.device,
            "checkpoint_seconds": 0,
        }
        return train_network(recipe, prepared.data, resume=resume, **options)

    zoo = Zoo(folder / "zoo")
    entries = {
        recipe.name: zoo.ensure(
            recipe, train, lambda r, p: print("epoch", r.name, p.epoch, flush=True)
        )
        for recipe in prepared.recipes()
    }
    return prepared.networks(entries)


class Worker:
    """A process that trains in a folder."""

    def __init__(self, folder: Path, device: str) -> None:
        self.errors = folder / "errors"
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORK, str(ROOT), str(folder), device],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def lines(self, count: int | None = None) -> list[str]:
        """Return the next `count` lines of output, or all."""
        found = []
        while count is None or len(found) < count:
            line = self.process.stdout.readline()
            if not line:
                assert self.process.wait() == 0, self.errors.read_text()
                break
            found.append(line.strip())
        return found

    def kill(self) -> None:
        assert self.process.poll() is None, self.errors.read_text()
        self.process.kill()
        self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("device", DEVICES)
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path, device):
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    for folder in (whole, disturbed):
        folder.mkdir()
    undisturbed = Worker(whole, device).lines()
    assert undisturbed[-1] == "done"

    # Not after the last lines, where the process could end before it is killed.
    moments = [0, *sorted(random.Random(7).sample(range(1, len(undisturbed) - 3), KILLS))]
    said = []
    for before, moment in itertools.pairwise(moments):
        worker = Worker(disturbed, device)
        said += worker.lines(moment - before)
        worker.kill()
    last = Worker(disturbed, device).lines()
    assert last[-1] == "done"
    said += last

    starts = {f"taken up {name} 0" for name in CELLS}
    resumed = [line for line in said if line.startswith("taken up") and line not in starts]
    assert any(line in ("taken up a", "taken up b") for line in resumed), "a network was cut off"
    assert len(resumed) >= KILLS // 2, "and stitches were"
    assert not any("checkpoint" in line for line in said), "no kill damages a checkpoint"
    assert "checkpoint" not in (disturbed / "errors").read_text()
    for name in CELLS:
        found, expected = (unpack((folder / name).read_bytes()) for folder in (disturbed, whole))
        assert expected["status"] == "finished"
        assert list(differences(found, expected)) == []
    weights = [
        {path.parent.name: path.read_bytes() for path in folder.glob("zoo/*/weights.safetensors")}
        for folder in (whole, disturbed)
    ]
    assert len(weights[0]) == 2
    assert weights[0] == weights[1]
    assert not list(disturbed.rglob("*.previous"))
