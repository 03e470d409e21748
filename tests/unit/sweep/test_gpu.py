"""The share of a GPU that a trial gets, and the errors of a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.sweep.gpu_errors import is_broken_device, is_out_of_memory
from stitch_sweep.sweep.gpu_memory import Footprint, allocatable
from stitch_sweep.sweep.gpu_sharing import (
    HEADROOM,
    MOST_TRIALS_PER_GPU,
    choose_share,
    describe_share,
    find_largest_pack,
    train_pack,
)
from stitch_sweep.training.workbench import Workbench
from tests.support.sweeps import write_config

GIB = 2**30


@given(
    total=st.integers(8 * GIB, 180 * GIB),
    context=st.integers(100 * 2**20, GIB),
    peak=st.integers(2**20, 200 * GIB),
    cpus=st.integers(1, 256),
)
def test_trials_that_are_packed_together_fit_with_their_headroom(total, context, peak, cpus):
    share = choose_share(Footprint(total, context, peak), cpus)
    count = int(1 / share)
    assert share * 10_000 == pytest.approx(round(share * 10_000), abs=1e-9), (
        "Ray knows ten-thousandths"
    )
    assert 1 <= count <= min(cpus, MOST_TRIALS_PER_GPU)
    assert count * share <= 1
    if count > 1:
        assert count * (context + HEADROOM * peak) <= total
    if count < min(cpus, MOST_TRIALS_PER_GPU):  # no more would fit
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
    text = describe_share(choose_share(found, 16), found)
    assert "2.00 GiB" in text
    assert "0.50 GiB of 24.00 GiB" in text
    assert "8 workers fit" in text


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
    assert is_out_of_memory(error) == short
    assert is_broken_device(error) == broken


def test_the_largest_trial_has_the_largest_batch_and_stitch_that_are_searched(tmp_path):
    space = {
        "training.batch_size": {"type": "categorical", "choices": [16, 128, 64]},
        "stitch.name": {"type": "categorical", "choices": ["lowrank", "conv3x3", "conv1x1"]},
    }
    pair = {"sender": "a", "receiver": "b", "sender_layers": [1, 4], "receiver_layers": [1]}
    config = read_config(
        write_config(tmp_path, tmp_path / "zoo", pairs=[pair], search={"space": space})
    )
    study, settings = find_largest_pack(prepare(config)).members[0]
    assert study.sender_layer == 1
    assert (settings.training.batch_size, settings.stitch.name) == (128, "conv3x3")


def test_what_is_too_large_to_be_kept_does_not_count_as_kept(tmp_path):
    """The cache holds all layers of a small data set, or none; then only batches differ."""
    sizes = []
    for limit in (1.0, 0.0):
        config = read_config(
            write_config(tmp_path, tmp_path / "zoo", resources={"cache_gb": limit})
        )
        _, settings = find_largest_pack(prepare(config)).members[0]
        sizes.append(settings.loss.label)
    assert sizes[0] == "mse", "it keeps what the receiver should see too"
    assert sizes[1] == "task", "of equals the first"


def test_a_pack_is_measured_with_all_its_members(tmp_path):
    """They come from the largest sender layers into one layer, and are trained side by side."""
    pair = {"sender": "a", "receiver": "b", "sender_layers": [1, 3, 4], "receiver_layers": [1, 4]}
    changes = {"pairs": [pair], "resources": {"pack": 4}, "loss": {"task": 1.0}, "search": {}}
    prepared = prepare(read_config(write_config(tmp_path, tmp_path / "zoo", **changes)))
    pack = find_largest_pack(prepared)
    assert pack.width == 4
    layers = [(study.sender_layer, study.receiver_layer) for study, _ in pack.members]
    assert layers == [(1, 1), (3, 1), (4, 1), (1, 1)]
    bench = Workbench(prepared.config, prepared.data, prepared.untrained())
    trainings = train_pack(bench, pack)
    assert {training.step for training in trainings} == {trainings[0].steps_per_epoch}
    ends = [training.trajectory[-1]["loss"] for training in trainings]
    assert len(set(ends)) == 4, "the two of one study start differently"
