from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stitch_sweep.core import seeding
from stitch_sweep.core.seeding import (
    caveats,
    derive,
    generator,
    processor,
    seed_everything,
    settings,
)

PARTS = st.lists(st.one_of(st.integers(), st.text(), st.booleans(), st.none()), max_size=4)


@given(PARTS, PARTS)
def test_a_seed_is_a_function_of_its_parts_alone(parts, others):
    same = [(type(x), x) for x in parts] == [(type(x), x) for x in others]
    assert (derive(*parts) == derive(*others)) == same
    assert 0 <= derive(*parts) < 2**63


def test_a_seed_is_the_same_in_another_process_with_another_hash_seed():
    command = (
        "from stitch_sweep.core.seeding import derive; print(derive(0, 'order', [1, 2], {'b': 1}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", command],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert int(found) == derive(0, "order", [1, 2], {"b": 1})


def test_parts_in_another_order_give_another_seed():
    assert derive(0, 1) != derive(1, 0)
    assert derive("ab") != derive("a", "b")


def test_a_generator_neither_reads_nor_moves_the_global_one():
    before = torch.get_rng_state()
    first = torch.rand(5, generator=generator("x"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(torch.rand(5, generator=generator("x")), first)


def test_seed_everything_makes_every_global_generator_repeat():
    def draw():
        seed_everything(5, threads=1)
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert draw() == draw()


def test_seed_everything_sets_threads_and_asks_for_determinism():
    for threads in (2, 1):
        seed_everything(2**63 - 1, threads=threads)
        assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


class TestWhatRanBefore:
    """Settings of a library or a notebook must not influence results."""

    @pytest.fixture(autouse=True)
    def _afterwards_as_before(self):
        yield
        seed_everything(0, threads=1)

    @pytest.fixture
    def compute(self):
        """The bits of a convolution and a matrix product."""
        numbers = torch.Generator().manual_seed(0)
        images = torch.randn(64, 16, 16, 16, generator=numbers)
        rows = torch.randn(64, 256, generator=numbers)
        torch.manual_seed(0)
        convolution, linear = nn.Conv2d(16, 32, 3), nn.Linear(256, 64)

        def compute() -> tuple[bytes, bytes]:
            seed_everything(0, threads=1)
            with torch.no_grad():
                results = convolution(images), linear(rows)
            first, second = (result.numpy().tobytes() for result in results)
            return first, second

        return compute

    def test_short_cuts_through_shorter_formats(self, compute):
        plain = compute()
        torch.set_float32_matmul_precision("medium")
        assert compute() == plain
        torch.backends.fp32_precision = "tf32"
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        assert compute() == plain
        assert set(settings()["float32"].values()) == {"ieee"}
        # The old settings agree; torch would refuse to read them otherwise.
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32

    def test_denormals_flushed_to_0(self):
        torch.set_flush_denormal(True)
        assert settings()["denormals"] == "flushed"
        assert any("Denormal" in caveat for caveat in caveats("cpu"))
        seed_everything(0, threads=1)
        assert settings()["denormals"] == "kept"

    def test_determinism_switched_off(self):
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = True
        seed_everything(0, threads=1)
        found = settings()
        assert found["deterministic_algorithms"] == "raise"
        assert found["cudnn"] == {"enabled": True, "deterministic": True, "benchmark": False}


class TestCaveats:
    @pytest.fixture(autouse=True)
    def _afterwards_as_before(self):
        seed_everything(0, threads=1)
        yield
        seed_everything(0, threads=1)

    def test_hold_for_this_process(self):
        found = caveats("cpu")
        assert any(processor() in caveat and torch.__version__ in caveat for caveat in found)
        assert any("resources.cpu = 1:" in caveat for caveat in found)
        seed_everything(0, threads=2)
        assert any("resources.cpu = 2:" in caveat for caveat in caveats("cpu"))
        assert not any("CUBLAS" in caveat or "float32" in caveat for caveat in found)

    def test_name_an_operation_without_a_deterministic_implementation(self):
        assert any("raises an error" in caveat for caveat in caveats("cpu"))
        # Such an operation on the CPU.
        with pytest.raises(RuntimeError, match="put_"):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)

    @pytest.mark.parametrize(("warn", "said"), [(False, "are off"), (True, "only warned about")])
    def test_notice_what_was_undone(self, warn, said):
        torch.use_deterministic_algorithms(warn, warn_only=warn)
        found = caveats("cpu")
        assert any(said in caveat for caveat in found)
        assert not any("raises an error" in caveat for caveat in found)

    def test_notice_a_shorter_format(self):
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        assert any("onednn conv bf16" in caveat for caveat in caveats("cpu"))

    @pytest.fixture
    def gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")

    def test_of_a_gpu_that_was_in_use_too_early(self, gpu, monkeypatch):
        early = "before CUBLAS_WORKSPACE_CONFIG was set"
        assert not any(early in caveat for caveat in caveats("cuda"))
        monkeypatch.setattr(seeding, "_cuda_came_first", False)
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)  # it isn't
        seed_everything(0, threads=1)
        seed_everything(0, threads=1)  # the variable is set now, but too late
        assert any(early in caveat for caveat in caveats("cuda"))
        assert any("Some GPU" in caveat for caveat in caveats("cuda"))

    def test_of_a_workspace_that_does_not_repeat(self, gpu, monkeypatch):
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
        seed_everything(0, threads=1)
        assert any("is ':0:0', not :4096:8 or :16:8" in caveat for caveat in caveats("cuda"))


def test_nothing_else_seeds_the_process_or_sets_flags():
    package = Path(seeding.__file__).parents[1]
    forbidden = (
        r"random\.seed|(torch|cuda)\.manual_seed|use_deterministic_algorithms|set_num_threads|allow_tf32|"
        r"set_float32_matmul_precision|cudnn\.(benchmark|deterministic)|set_flush_denormal"
    )
    found = {
        (path.relative_to(package).as_posix(), match.group())
        for path in package.rglob("*.py")
        if path.name != "seeding.py"
        for match in re.finditer(forbidden, path.read_text())
    }
    assert found <= {
        # Within a fork of the generators, which are restored afterwards.
        ("stitches/building.py", "torch.manual_seed"),
        ("stitches/building.py", "cuda.manual_seed"),
        ("networks/construction.py", "torch.manual_seed"),
        ("checks/sanity/plain.py", "torch.manual_seed"),
        # Restores the value afterwards.
        ("sweep/run.py", "set_num_threads"),
        # Restores the value from before the import of FFCV.
        ("data/beton.py", "set_num_threads"),
    }
