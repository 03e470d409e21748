"""Checkpoints that a new process resumes: the training ends with the same bits as without interruption.

A single other process resumes all cases, because importing torch takes seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.data.images import Data
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.storage.checkpoints import pack, unpack
from tests.support.checkpoint_cases import (
    CUTS,
    FAULTS,
    ZOO,
    all_cases,
    freeze,
    plain,
    register_noisy,
    start,
    train_zoo,
    zoo_recipe,
)
from tests.support.checkpoints import differences, final_state
from tests.support.paths import ROOT

OTHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.support import checkpoint_cases
checkpoint_cases.resume_all(Path(sys.argv[2]))
"""


@dataclass
class Compared:
    """The final states of the other process, and of uninterrupted trainings."""

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
        straight[name] = plain(final_state(start(case, networks, digits), networks, digits))
        running = start(case, networks, digits)
        for cut, step in sorted(CUTS.items(), key=lambda item: item[1]):
            running.advance(step - running.step)
            jobs.append({"case": name, "file": f"{len(jobs)}.{cut}"})
            (folder / jobs[-1]["file"]).write_bytes(running.checkpoint())
    again: dict[str, Any] = {}
    for fault, case in FAULTS.items():
        name = fault.__name__
        if repr(case) not in again:
            whole = final_state(start(case, networks, digits), networks, digits)
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
