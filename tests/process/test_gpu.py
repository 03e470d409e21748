"""How many trials share a GPU, how much of it each may take, and what happens to one that needs more.

The arithmetic, and the way of a trial that runs out of memory through Ray Tune on GPUs that only Ray
believes in; what measures a real GPU is run where there is one.
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
from hypothesis import given
from hypothesis import strategies as st

from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.sweep import gpu
from stitch_sweep.sweep.gpu import Footprint, allocatable
from stitch_sweep.sweep.packing import HEADROOM, MOST, chosen, largest, packed
from tests.support.sweeps import figures, head, run, write_config

GIB = 2**30


@given(
    total=st.integers(8 * GIB, 180 * GIB),
    context=st.integers(100 * 2**20, GIB),
    peak=st.integers(2**20, 200 * GIB),
    cpus=st.integers(1, 256),
)
def test_trials_that_are_packed_together_fit_with_their_headroom(total, context, peak, cpus):
    share = packed(Footprint(total, context, peak), cpus)
    count = int(1 / share)
    assert share * 10_000 == pytest.approx(round(share * 10_000), abs=1e-9), (
        "Ray knows ten-thousandths"
    )
    assert 1 <= count <= min(cpus, MOST)
    assert count * share <= 1
    if count > 1:
        assert count * (context + HEADROOM * peak) <= total
    if count < min(cpus, MOST):  # as many as fit
        assert (count + 1) * (context + HEADROOM * peak) > total


@given(share=st.floats(0.05, 0.99), total=st.integers(8 * GIB, 180 * GIB))
def test_what_may_be_allocated_and_the_context_are_the_share(share, total):
    context = 300 * 2**20
    assert allocatable(share, total, context) * total + context == pytest.approx(share * total)


def test_a_share_that_the_context_fills_is_refused():
    with pytest.raises(InputError, match=r"0\.01.*0\.24 GiB.*context alone takes 0\.29 GiB"):
        allocatable(0.01, 24 * GIB, 300 * 2**20)


def test_what_auto_chose_is_said_with_its_reason():
    found = Footprint(24 * GIB, GIB // 2, 2 * GIB)
    text = chosen(packed(found, 16), found)
    assert "2.00 GiB" in text
    assert "0.50 GiB of 24.00 GiB" in text
    assert "8 fit" in text


@pytest.mark.parametrize(
    ("error", "short", "broken"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True, False),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            True,
            True,
        ),
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
            False,
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (torch.AcceleratorError("CUDA error: out of memory"), True, True),
        (RuntimeError("CUDA driver error: out of memory"), True, True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True, False),
        (
            RuntimeError(
                "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"
            ),
            True,
            True,
        ),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_INVALID_VALUE"), False, False),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("CUDA out of memory"), False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_failed_is_told_apart(error, short, broken):
    assert gpu.is_out_of_memory(error) == short
    assert gpu.is_broken_device(error) == broken


def test_the_largest_trial_has_the_largest_batch_and_stitch_that_are_searched(tmp_path, zoo):
    space = {
        "training.batch_size": {"type": "categorical", "choices": [16, 128, 64]},
        "stitch.name": {"type": "categorical", "choices": ["lowrank", "conv3x3", "conv1x1"]},
    }
    pair = {"sender": "a", "receiver": "b", "sender_layers": [1, 4], "receiver_layers": [1]}
    config = read_config(write_config(tmp_path, zoo, pairs=[pair], search={"space": space}))
    study, settings = largest(prepare(config))
    assert study.sender_layer == 1
    assert (settings.training.batch_size, settings.stitch.name) == (128, "conv3x3")


def test_what_is_too_large_to_be_kept_does_not_count_as_kept(tmp_path, zoo):
    """Of a small data set's layers all are kept, or none: then only batches are left to compare."""
    sizes = []
    for limit in (1.0, 0.0):
        config = read_config(write_config(tmp_path, zoo, resources={"cache_gb": limit}))
        sizes.append(largest(prepare(config)))
    assert sizes[0].settings.loss.label == "mse", "it keeps what the receiver should see too"
    assert sizes[1].settings.loss.label == "task", "of equals the first"


RUNS_OUT = """
import json, os, sys
from functools import partial
from pathlib import Path
import torch
import stitch_sweep.sweep as sweeps
import stitch_sweep.sweep.trainable as workers
import stitch_sweep.sweep.run as run
from stitch_sweep.cli.main import main
from stitch_sweep.config.models import ResourcesConfig

seen, needs = Path(sys.argv.pop(1)), float(sys.argv.pop(1))
unlucky = sys.argv.pop(1)
broken = seen.with_name("broken")


class Greedy(workers.StitchTrainable):
    "Computes on the CPU; one cell needs a larger share of the GPU than it is given."

    def setup(self, config, shared=None):
        ResourcesConfig.device = property(lambda self: "cpu")
        self.refused = 0
        workers.refusals = lambda: self.refused
        super().setup(config, shared)

    def step(self):
        with seen.open("a") as file:
            file.write(json.dumps([self._spec["trial"], self._gpu]) + "\\n")
        return super().step()

    def _take_up(self):
        if not broken.exists() and self._spec["sender_layer"] == 0:
            broken.write_text(str(os.getpid()))
        if broken.exists() and broken.read_text() == str(os.getpid()):
            # As CUDA does: from now on every call of this process raises it.
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if self._spec["trial"].startswith(unlucky) and self._gpu < needs:
            if self._spec["number"] == 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            # cuDNN takes another algorithm then, and says nothing; the bits are others from now on.
            self.refused += 1
            taken = super()._take_up()
            next(self._training.stitch.parameters()).data.add_(1)
            return taken
        return super()._take_up()


ResourcesConfig.device = property(lambda self: "cpu")
sweeps.run_sweep = partial(sweeps.run_sweep, checkpoint_seconds=0.0)
workers.hold_to = lambda share, context: None
run._gpu = lambda prepared, reporter: (prepared.config.resources.gpu, 0)
workers.StitchTrainable = Greedy
main()
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Path:
    """The sweep that fits into everything."""
    folder = tmp_path_factory.mktemp("plain")
    status, output = run("sweep", few(folder, zoo))
    assert status == 0, output
    return folder


@pytest.fixture(scope="module")
def gpu_cluster() -> Iterator[str]:
    """A cluster with a GPU, as far as Ray is concerned."""
    with head("--num-cpus=2", "--num-gpus=1") as address:
        yield address


def few(folder: Path, zoo: Path, **changes: object) -> Path:
    pairs = [{"sender": "a", "receiver": "b", "sender_layers": [0, 3], "receiver_layers": [1]}]
    return write_config(
        folder, zoo, pairs=pairs, search__cross={}, tracking={"enabled": False}, **changes
    )


def execute(code: str, *arguments: object) -> tuple[int, str]:
    """Exit status and output of a Python program."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def greedy(config: Path, needs: float, cluster: str) -> tuple[int, str, list[tuple[str, float]]]:
    """Exit status, output, and (trial, share) of every step."""
    seen = config.parent / "steps.jsonl"
    arguments = [seen, needs, "a.3-b.1", "sweep", config, "--address", cluster]
    status, output = execute(RUNS_OUT, *arguments)
    assert seen.exists(), output
    steps = [json.loads(line) for line in seen.read_text().splitlines()]
    return status, output, [(trial, share) for trial, share in steps]


def shares(steps: list[tuple[str, float]], trial: str) -> list[float]:
    """The different shares that a trial was given, in order."""
    return list(dict.fromkeys(share for name, share in steps if name == trial))


def test_a_trial_that_needs_more_gets_twice_the_share(plain, zoo, tmp_path, gpu_cluster):
    config = few(tmp_path, zoo, resources={"gpu": 0.5})
    status, output, steps = greedy(config, 1.0, gpu_cluster)
    assert status == 0, output
    again = "tried again: OutOfMemoryError: CUDA out of memory"
    assert f"{again}; it gets twice the share" in output
    assert f"{again}: a library went on with another algorithm" in output
    # A process whose GPU failed takes down no trial but the one it is at, and that one not for good.
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
import stitch_sweep.sweep.run as run
from stitch_sweep.cli.main import main
from stitch_sweep.config.models import ResourcesConfig

broken = Path(sys.argv.pop(1))


def train(recipe, data, threads, device, resume):
    "A GPU that fails, and one that is too small."
    if not broken.exists():
        broken.touch()
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    yield


ResourcesConfig.device = property(lambda self: "cpu")
run._train_remotely = train
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
    assert "its process died, it is trained on (CUDA error: an illegal memory" in output
    assert "a whole GPU has too little memory to train it; lower its pretraining" in output
    assert "Traceback" not in output


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnAGpu:
    def test_a_process_can_not_take_more_than_its_share(self):
        found = gpu.measure_context()
        assert 50 * 2**20 < found.context < 3 * GIB
        code = (
            "import torch\nfrom stitch_sweep.sweep.gpu import hold_to\n"
            f"hold_to(0.25, {found.context})\n"
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
