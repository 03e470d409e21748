"""Trials that run out of GPU memory, or whose GPU fails.

Ray is told of a GPU that doesn't exist, so these tests run on any machine; a few need a real GPU.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.sweep.gpu_memory import measure_context
from tests.support.sweeps import figures, head, run, write_config

RUNS_OUT = """
import json, os, sys
from functools import partial
from pathlib import Path
import torch
import stitch_sweep.sweep.run as sweeps
import stitch_sweep.sweep.trainable as workers
import stitch_sweep.sweep.tuning as tuning
from stitch_sweep.cli.main import main
from stitch_sweep.config.resources import ResourcesConfig

seen, needs = Path(sys.argv.pop(1)), float(sys.argv.pop(1))
unlucky = sys.argv.pop(1)
broken = seen.with_name("broken")


class GreedyTrial(workers.WorkerTrial):
    "One cell needs a larger share of the GPU than it is given."

    def open(self, width, held):
        if not broken.exists() and self.spec["sender_layer"] == 0:
            broken.write_text(str(os.getpid()))
        if broken.exists() and broken.read_text() == str(os.getpid()):
            # As CUDA does: from now on every call of this process raises it.
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        message = super().open(width, held)
        if self.spec["trial"].startswith(unlucky) and self.worker._gpu < needs:
            if self.spec["number"] == 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            # cuDNN takes another algorithm then, and says nothing; the bits are others from now on.
            self.worker.refused += 1
            next(self.training.stitch.parameters()).data.add_(1)
        return message


class Greedy(workers.StitchTrainable):
    "Computes on the CPU."

    def setup(self, config, shared=None):
        ResourcesConfig.device = property(lambda self: "cpu")
        self.refused = 0
        workers.count_refused_allocations = lambda: self.refused
        workers.limit_memory = lambda share, context: None
        workers.WorkerTrial = GreedyTrial
        GreedyTrial.worker = self
        super().setup(config, shared)

    def step(self):
        spec = self._open[0].spec if self._open else self._waiting[0]["spec"]
        with seen.open("a") as file:
            file.write(json.dumps([spec["trial"], self._gpu]) + "\\n")
        return super().step()


ResourcesConfig.device = property(lambda self: "cpu")
sweeps.run_sweep = partial(sweeps.run_sweep, checkpoint_seconds=0.0)
tuning.choose_gpu_share = lambda prepared, reporter: (prepared.config.resources.gpu, 0)
tuning.StitchTrainable = Greedy
main()
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Path:
    """A sweep whose trials all fit on the CPU."""
    folder = tmp_path_factory.mktemp("plain")
    status, output = run("sweep", few(folder, zoo))
    assert status == 0, output
    return folder


@pytest.fixture(scope="module")
def gpu_cluster() -> Iterator[str]:
    """A cluster with a GPU that exists for Ray only."""
    with head("--num-cpus=2", "--num-gpus=1") as address:
        yield address


def few(folder: Path, zoo: Path, **changes: object) -> Path:
    pairs = [{"sender": "a", "receiver": "b", "sender_layers": [0, 3], "receiver_layers": [1]}]
    return write_config(
        folder, zoo, pairs=pairs, search__cross={}, tracking={"enabled": False}, **changes
    )


def execute(code: str, *arguments: object) -> tuple[int, str]:
    """Run a Python program; return its exit status and output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def greedy(config: Path, needs: float, cluster: str) -> tuple[int, str, list[tuple[str, float]]]:
    """Run a sweep with a greedy cell; return exit status, output, and (trial, share) of every step."""
    seen = config.parent / "steps.jsonl"
    arguments = [seen, needs, "a.3-b.1", "sweep", config, "--address", cluster]
    status, output = execute(RUNS_OUT, *arguments)
    assert seen.exists(), output
    steps = [json.loads(line) for line in seen.read_text().splitlines()]
    return status, output, [(trial, share) for trial, share in steps]


def shares(steps: list[tuple[str, float]], trial: str) -> list[float]:
    """Return the different shares that a trial was given, in order."""
    return list(dict.fromkeys(share for name, share in steps if name == trial))


def test_a_trial_that_needs_more_gets_twice_the_share(plain, zoo, tmp_path, gpu_cluster):
    config = few(tmp_path, zoo, resources={"gpu": 0.5})
    status, output, steps = greedy(config, 1.0, gpu_cluster)
    assert status == 0, output
    again = "tried again: OutOfMemoryError: CUDA out of memory"
    assert f"{again}; it gets twice the share" in output
    assert f"{again}: a library continued with another algorithm" in output
    # A failed GPU costs its process only the present trial, which is tried again.
    assert output.count("AcceleratorError: CUDA error: an illegal memory access") == 1
    for record in Ledger(tmp_path).records():
        greedy_one = record["sender_layer"] == 3
        assert shares(steps, record["trial"]) == ([0.5, 1.0] if greedy_one else [0.5])
    assert figures(tmp_path) == figures(plain)


@pytest.mark.long
def test_one_that_needs_more_still_fails_alone(plain, zoo, tmp_path, gpu_cluster):
    config = few(tmp_path, zoo, resources={"gpu": 0.25})
    status, output, steps = greedy(config, 1.0, gpu_cluster)
    assert status == 1, output
    for record in Ledger(tmp_path).records():
        if record["sender_layer"] == 3:
            assert record["status"] == "failed"
            assert "out of memory" in record["error"]
            assert shares(steps, record["trial"]) == [0.25, 0.5]
        else:
            assert record["status"] == "finished"


NO_ROOM = """
import sys
from pathlib import Path
import torch
import stitch_sweep.sweep.network_training as training
from stitch_sweep.cli.main import main
from stitch_sweep.config.resources import ResourcesConfig

broken = Path(sys.argv.pop(1))


def train(recipe, data, threads, device, resume):
    "A GPU that fails, and one that is too small."
    if not broken.exists():
        broken.touch()
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    yield


ResourcesConfig.device = property(lambda self: "cpu")
training.train_network_remotely = train
main()
"""


@pytest.mark.long
def test_a_network_that_needs_more_than_a_gpu_has_stops_the_sweep(tmp_path, gpu_cluster):
    one = [{"sender": "a", "receiver": "a"}]
    config = write_config(
        tmp_path, tmp_path / "zoo", pairs=one, tracking={"enabled": False}, resources={"gpu": 0.5}
    )
    broken = tmp_path / "broken"
    status, said = execute(NO_ROOM, broken, "sweep", config, "--address", gpu_cluster)
    output = " ".join(said.split())
    assert status == 1, output
    assert "its process died; its training resumes (CUDA error: an illegal memory" in output
    assert "a whole GPU has too little memory to train it; lower its pretraining" in output
    assert "Traceback" not in output


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnAGpu:
    def test_a_process_can_not_take_more_than_its_share(self):
        found = measure_context()
        assert 50 * 2**20 < found.context < 3 * 2**30
        code = (
            "import torch\nfrom stitch_sweep.sweep.gpu_memory import limit_memory\n"
            f"limit_memory(0.25, {found.context})\n"
            f"torch.empty(int(0.15 * {found.total}), dtype=torch.uint8, device='cuda')\n"
            "try:\n"
            f"    torch.empty(int(0.15 * {found.total}), dtype=torch.uint8, device='cuda')\n"
            "except torch.OutOfMemoryError:\n    print('refused')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "refused"

    def test_as_many_as_auto_packs_run_side_by_side(self, zoo, tmp_path):
        config = few(tmp_path, zoo, resources={"gpu": "auto"})
        status, output = run("sweep", config)
        assert status == 0, output
        assert "resources.gpu: auto is" in output
        assert math.isclose(len(list(Ledger(tmp_path).records())), 4)
