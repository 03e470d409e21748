"""Serialization of training states: equal states come back, and damage is noticed."""

from __future__ import annotations

import io
import itertools
import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from stitch_sweep.storage.checkpoint_files import CheckpointError, ForeignFileError
from stitch_sweep.storage.checkpoints import pack, unpack
from stitch_sweep.storage.digests import digest

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
]


@st.composite
def tensors(draw) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    seed = draw(st.integers(0, 1000))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 5
    return values.to(draw(st.sampled_from(DTYPES)))


KEYS = st.one_of(st.text(max_size=4), st.integers(-3, 300), st.sampled_from(["a.b", "a", "b", "1"]))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=6)
)


STATES = st.dictionaries(
    KEYS,
    st.recursive(
        st.one_of(SCALARS, tensors()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def same(x: object, y: object) -> bool:
    if isinstance(x, torch.Tensor):
        return isinstance(y, torch.Tensor) and x.dtype == y.dtype and torch.equal(x, y)
    if isinstance(x, dict):
        return list(map(same, x, y)) == [True] * len(x) and all(same(x[k], y[k]) for k in x)
    if isinstance(x, list):
        return len(x) == len(y) and all(map(same, x, y))
    return type(x) is type(y) and x == y


@settings(max_examples=150)
@given(STATES)
def test_a_state_comes_back_as_it_was(state):
    assert same(state, unpack(pack(state)))


@settings(max_examples=30)
@given(STATES)
def test_equal_states_give_equal_bytes(state):
    assert pack(state) == pack(state)


def test_tensors_whose_paths_look_alike_stay_apart():
    one, two, three = (torch.tensor(float(k)) for k in range(3))
    state = {"a.b": one, "a": {"b": two, "b'": three}}
    assert same(state, unpack(pack(state)))


def test_shared_memory_views_and_special_numbers_survive():
    base = torch.arange(12.0).reshape(3, 4)
    state = {"whole": base, "part": base[:, 1], "turned": base.T, "inf": -float("inf")}
    assert same(state, unpack(pack(state)))
    assert unpack(pack({"x": float("nan")}))["x"] != unpack(pack({"x": float("nan")}))["x"]


@pytest.mark.parametrize(
    "value", [object(), {1.5: 1}, {(1, 2): 1}, {"x": {1}}, b"bytes"], ids=lambda v: type(v).__name__
)
def test_what_cannot_be_stored_is_refused_with_its_path(value):
    with pytest.raises(TypeError, match=r"state\.here"):
        pack({"here": value})


_saved = io.BytesIO()


torch.save({"state": torch.ones(2)}, _saved)


SAVED_BY_TORCH = _saved.getvalue()


SAMPLE = {"weights": torch.arange(6.0), "step": 3, "names": ["a", "b"], "more": {0: torch.ones(2)}}


BYTES = pack(SAMPLE)


HEADER = 8 + int.from_bytes(BYTES[:8], "little")


def test_a_checkpoint_truncated_anywhere_is_noticed():
    for length in range(len(BYTES)):
        with pytest.raises(CheckpointError):
            unpack(BYTES[:length])


@pytest.mark.parametrize(
    "region",
    [range(8), range(8, HEADER), range(HEADER, len(BYTES))],
    ids=["size", "header", "data"],
)
def test_any_flipped_bit_is_noticed(region):
    for place, bit in itertools.product(region, range(8)):
        damaged = bytearray(BYTES)
        damaged[place] ^= 1 << bit
        with pytest.raises(CheckpointError):
            unpack(bytes(damaged))


def test_any_other_byte_is_noticed_or_changes_nothing():
    """White space that fills the header up may become other white space: no reader looks at it."""
    harmless = set()
    for place, value in itertools.product(range(len(BYTES)), range(256)):
        damaged = BYTES[:place] + bytes([value]) + BYTES[place + 1 :]
        try:
            assert same(SAMPLE, unpack(damaged))
        except CheckpointError:
            continue
        if damaged != BYTES:
            harmless.add((BYTES[place : place + 1], bytes([value])))
    assert harmless <= {(b" ", b"\t"), (b" ", b"\n"), (b" ", b"\r")}


def test_what_was_cut_off_is_named_truncated():
    for length in range(1, len(BYTES)):
        with pytest.raises(CheckpointError, match=r"truncated: at least \d+ bytes are missing"):
            unpack(BYTES[:length])


def test_appended_bytes_are_noticed():
    for more in (b"\0", b" ", BYTES):
        with pytest.raises(CheckpointError):
            unpack(BYTES + more)


def test_damage_to_the_tensors_is_named_as_such():
    damaged = BYTES[:-1] + bytes([BYTES[-1] ^ 1])
    with pytest.raises(CheckpointError, match="bytes changed"):
        unpack(damaged)


@pytest.mark.parametrize(
    "data",
    [b"\0" * 100, b"hello, world" * 20, b"PK\x03\x04" + b"x" * 99, b"\xff" * 64, SAVED_BY_TORCH],
)
def test_foreign_bytes_are_no_checkpoint(data):
    with pytest.raises(CheckpointError, match="foreign: not a whole safetensors file"):
        unpack(data)


def test_an_empty_file_is_no_checkpoint():
    with pytest.raises(CheckpointError, match="it is empty"):
        unpack(b"")


@pytest.mark.parametrize("tree", ["[]", "{}", "nonsense", '{"pairs":[["x",{"tensor":"y"}]]}'])
def test_a_tree_that_we_never_wrote_is_no_checkpoint(tree):
    """Even with a checksum that fits."""
    data = save_safetensors({}, metadata={"tree": tree, "sha256": digest({}, tree)})
    with pytest.raises(CheckpointError):
        unpack(data)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_else(data):
    with pytest.raises(CheckpointError):
        unpack(data)


def bare(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "data",
    [
        save_safetensors({"x": torch.ones(2)}),
        save_safetensors({"x": torch.ones(2)}, metadata={"tree": "{}"}),
        bare(b"{}"),
        bare(b'{"__metadata__":null}'),
    ],
)
def test_safetensors_of_other_programs_are_told_apart(data):
    with pytest.raises(ForeignFileError):
        unpack(data)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    for data in (pickle.dumps(Trap()), pickle.dumps({"state": Trap()}, protocol=0)):
        with pytest.raises(CheckpointError):
            unpack(data)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap()))  # the trap works
    assert (tmp_path / "sprung").exists()


def test_the_safetensors_library_reads_our_files():
    assert torch.equal(load_safetensors(BYTES)["state.weights"], SAMPLE["weights"])
    assert json.loads(BYTES[8:HEADER])["__metadata__"].keys() == {"sha256", "tree"}
