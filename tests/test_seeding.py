from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from stitch_sweep.seeding import derive, generator, seed_everything

PARTS = st.lists(st.one_of(st.integers(), st.text(), st.booleans(), st.none()), max_size=4)


@given(PARTS, PARTS)
def test_a_seed_is_a_function_of_its_parts_alone(parts, others):
    same = [(type(x), x) for x in parts] == [(type(x), x) for x in others]
    assert (derive(*parts) == derive(*others)) == same
    assert 0 <= derive(*parts) < 2**63


def test_a_seed_is_the_same_in_another_process_with_another_hash_seed():
    command = "from stitch_sweep.seeding import derive; print(derive(0, 'order', [1, 2], {'b': 1}))"
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
