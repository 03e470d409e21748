from __future__ import annotations

import errno
import io
import itertools
import json
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.checkpoints import (
    CheckpointError,
    ForeignFileError,
    digest,
    fingerprint,
    pack,
    take_up,
    unpack,
)
from stitch_sweep.storage.files import Kept, check_writable, forget, keep, kept, write_atomically

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


def test_a_digest_is_a_function_of_names_types_shapes_bytes_and_text():
    x = torch.arange(6, dtype=torch.int32)
    different = [
        ({"x": x}, ""),
        ({"x": x}, "text"),
        ({"y": x}, ""),
        ({"x": x, "y": x[:0]}, ""),
        ({"x": x.view(torch.float32)}, ""),
        ({"x": x.reshape(2, 3)}, ""),
        ({"x": x.reshape(3, 2)}, ""),
        *(({"x": torch.where(torch.arange(6) == k, x ^ 1, x)}, "") for k in range(6)),
        ({"x": torch.tensor([0.0])}, ""),
        ({"x": torch.tensor([-0.0])}, ""),
    ]
    assert len({digest(named, text) for named, text in different}) == len(different)
    assert digest({"a": x, "b": x + 1}) == digest({"b": x + 1, "a": x})
    assert digest({"x": torch.ones(4, 3).T}) == digest({"x": torch.ones(3, 4)})


class WithHiddenBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("hidden", torch.zeros(1), persistent=False)


def test_a_fingerprint_covers_every_parameter_and_buffer_also_those_not_in_the_state_dict():
    seen = {fingerprint(WithHiddenBuffer())}
    for name in [
        "hidden",
        *("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
        "norm.num_batches_tracked",
    ]:
        module = WithHiddenBuffer()
        with torch.no_grad():
            {**dict(module.named_parameters()), **dict(module.named_buffers())}[name].add_(1)
        seen.add(fingerprint(module))
    assert len(seen) == 7
    assert fingerprint(WithHiddenBuffer()) in seen


# Files


def test_a_file_holds_what_was_written_and_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for data in (b"first", b"", b"second, longer"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_file_has_the_permissions_that_any_new_file_gets(tmp_path):
    write_atomically(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    ours, plain = (stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("ours", "plain"))
    assert ours == plain


def test_a_file_name_as_long_as_the_system_allows_can_be_written(tmp_path):
    write_atomically(tmp_path / ("x" * 255), b"x")


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, function):
    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "file"
    write_atomically(path, b"old")
    for owner in (os, Path):
        if hasattr(owner, function):
            monkeypatch.setattr(owner, function, fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_reader_never_sees_half_a_file_even_when_the_writer_is_killed(tmp_path):
    size = 2**20
    path = tmp_path / "file"
    write = (
        "import sys, itertools; from pathlib import Path\n"
        "from stitch_sweep.storage.files import write_atomically\n"
        "for k in itertools.count():\n"
        f"    write_atomically(Path(sys.argv[1]), bytes([k % 256]) * {size})\n"
    )
    chance = random.Random(0)
    for _ in range(4):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", write, str(path)])
        try:
            seen = set()
            # At least two versions, then until a coin says stop.
            while len(seen) < 2 or chance.random() > 0.2:
                assert writer.poll() is None
                if path.exists():
                    data = path.read_bytes()
                    assert data == data[:1] * size
                    seen.add(data[0])
        finally:
            writer.kill()
        assert writer.wait() == -signal.SIGKILL
        data = path.read_bytes()
        assert data == data[:1] * size


# A checkpoint and the one before it


def contents(path: Path) -> list[bytes | None]:
    return [found.data for found in kept(path)]


@pytest.fixture(params=["hard links", "none"])
def links(request, monkeypatch) -> bool:
    """Whether the file system has hard links."""

    def refuse(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if request.param == "none":
        monkeypatch.setattr(os, "link", refuse)
    return request.param != "none"


def test_the_two_newest_are_kept_and_forgotten_together(tmp_path, links):
    path = tmp_path / "new" / "checkpoint"
    assert kept(path) == []
    versions = [bytes([k]) for k in range(5)]
    for k, data in enumerate(versions):
        keep(path, data)
        assert contents(path) == versions[k::-1][:2]
    assert [found.path.name for found in kept(path)] == ["checkpoint", "checkpoint.previous"]
    assert len(list(path.parent.iterdir())) == 2
    forget(path)
    assert list(path.parent.iterdir()) == []
    forget(path)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_leaves_both_as_they_were(tmp_path, monkeypatch, function, links):
    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "checkpoint"
    for data in (b"first", b"second"):
        keep(path, data)
    monkeypatch.setattr(Path if function == "replace" else os, function, fail)
    with pytest.raises(OSError, match="no space left"):
        keep(path, b"third")
    assert contents(path) == [b"second", b"first"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_in_a_checkpoints_place_is_named_and_left_alone(tmp_path):
    path = tmp_path / "checkpoint"
    for data in (b"first", b"second"):
        keep(path, data)
    path.unlink()
    path.mkdir()
    assert kept(path)[0] == Kept(path, None, "is not a regular file")
    assert contents(path) == [None, b"first"]
    forget(path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


KILLED = """
import os, signal, sys
from pathlib import Path
from stitch_sweep.storage.files import keep

path, left = Path(sys.argv[1]), int(sys.argv[2])
if sys.argv[3] == "no links":
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")
    os.link = refuse

def before(event, arguments):
    global left
    if event in ("open", "os.link", "os.rename", "os.remove"):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

data = b"new" * 100
sys.addaudithook(before)
keep(path, data)
"""


@pytest.mark.parametrize("how", ["links", "no links"])
@pytest.mark.parametrize(
    "found", [[], [b"second"], [b"second", b"first"], [b"damaged", b"first"], [None, b"first"]]
)
def test_killed_before_any_file_operation_a_whole_one_is_left(tmp_path, how, found):
    """`found`: the newest and the one before; a damaged newest must not push a whole one out."""
    whole = {b"first", b"second", b"new" * 100}
    for count in itertools.count():
        path = tmp_path / str(count) / "checkpoint"
        path.parent.mkdir()
        for name, data in zip((path, path.with_name("checkpoint.previous")), found, strict=False):
            if data is not None:
                name.write_bytes(data)
        before = [data for data in found if data in whole]
        done = subprocess.run([sys.executable, "-c", KILLED, path, str(count), how], check=False)
        after = contents(path)
        assert set(after) <= {*whole, b"damaged"}, "nobody ever sees half a file"
        assert len(whole & set(after)) >= min(1, len(before))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert count >= 3, "it was killed before every one of its operations"
    assert after[0] == b"new" * 100
    assert after[1:] == ([found[0]] if found and found[0] else found[1:])
    assert not list(path.parent.glob(".*"))


# Taking one up


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise CheckpointError("no number") from None


A, B = Path("new"), Path("new.previous")


@pytest.mark.parametrize(
    ("found", "taken", "said"),
    [
        ([], None, None),
        ([Kept(A, b"2"), Kept(B, b"1")], 2, None),
        ([Kept(A, b"2"), Kept(B, b"x")], 2, None),
        ([Kept(B, b"1")], 1, None),
        (
            [Kept(A, b"x"), Kept(B, b"1")],
            1,
            "checkpoint new: no number; the one before it is used: new.previous",
        ),
        (
            [Kept(A, None, "Is a directory")],
            None,
            "checkpoint new: can't be read (Is a directory); there is none before it: start again",
        ),
        (
            [Kept(A, b""), Kept(B, b"x")],
            None,
            "checkpoint new: no number; checkpoint new.previous: no number; "
            "there is none before it: start again",
        ),
    ],
)
def test_the_newest_whole_one_is_taken_up_and_the_others_named(found, taken, said):
    assert take_up(found, number, "start again") == (taken, said)


def test_the_safetensors_library_reads_our_files():
    assert torch.equal(load_safetensors(BYTES)["state.weights"], SAMPLE["weights"])
    assert json.loads(BYTES[8:HEADER])["__metadata__"].keys() == {"sha256", "tree"}


@pytest.mark.parametrize("where", ["/proc/x.json", "/proc/deep/er/x.json"])
def test_what_can_not_be_written_is_known_before(where):
    with pytest.raises(InputError, match=r"--output .* can't be written"):
        check_writable(Path(where), "--output")


def test_what_can_be_written_is_left_alone(tmp_path):
    check_writable(tmp_path / "new" / "folder" / "x.json", "--output")
    assert list(tmp_path.iterdir()) == []
