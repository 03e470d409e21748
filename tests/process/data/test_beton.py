"""The file of a split: FFCV's writer and reader agree with it, damage is noticed, processes share it."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stitch_sweep.data.images import Images
from stitch_sweep.storage.digests import digest
from tests.support.ffcv import assert_equal, betons, make_both
from tests.support.image_files import random_images


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("shape", [(23, 3, 16), (2049, 1, 32), (40, 3, 224)], ids=str)
def test_the_file_is_what_ffcv_itself_writes_and_reads(ffcv, tmp_path, monkeypatch, shape):
    import ffcv.writer
    from ffcv.fields import IntField, NDArrayField
    from ffcv.loader import Loader as OriginalLoader

    class InThisProcess:
        """Replaces the process of FFCV's writer, which would be forked from this one."""

        def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
            self.start = lambda: target(*args)

    images = random_images(*shape)
    make_both(images, tmp_path)
    (path,) = betons(tmp_path)
    fields = {
        "image": NDArrayField(np.dtype("u1"), tuple(images.images.shape[1:])),
        "label": IntField(),
    }
    pairs = list(zip(images.images.numpy(), images.labels.tolist(), strict=True))
    monkeypatch.setattr(ffcv.writer, "Process", InThisProcess)
    page_size = int(ffcv_header(path)["page_size"])
    original = tmp_path / "original"
    writer = ffcv.writer.DatasetWriter(str(original), fields, page_size, num_workers=1)
    writer.from_indexed_dataset(pairs)
    assert path.read_bytes() == original.read_bytes()

    threads = torch.get_num_threads()
    try:
        loader = OriginalLoader(str(path), 7, num_workers=1, drop_last=False, seed=0)
        # Cloned at once, because FFCV reuses the memory.
        batches = [[part.clone() for part in batch] for batch in loader]
    finally:
        torch.set_num_threads(threads)
    pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(pixels, images.images)
    assert torch.equal(labels[:, 0], images.labels)


def ffcv_header(path: Path) -> np.void:
    from ffcv.types import HeaderType

    return np.fromfile(path, HeaderType, count=1)[0]


@pytest.mark.usefixtures("ffcv")
def test_the_file_is_written_once_and_named_after_its_content(tmp_path):
    images = random_images(23)
    make_both(images, tmp_path)
    (path,) = betons(tmp_path)
    assert path.stem == digest({"images": images.images, "labels": images.labels})
    before = path.stat()
    make_both(images, tmp_path)
    make_both(Images(images.images.clone(), images.labels.clone()), tmp_path)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    # Other pixels, and other labels, get files of their own.
    make_both(Images(images.images.flip(0), images.labels), tmp_path)
    make_both(Images(images.images, images.labels.flip(0)), tmp_path)
    assert len(betons(tmp_path)) == 3


@pytest.mark.usefixtures("ffcv")
def test_one_split_can_lie_in_two_folders(tmp_path):
    images = random_images(23)
    for name in ("one", "two"):
        plain, other = make_both(images, tmp_path / name)
        assert len(betons(tmp_path / name)) == 1
        assert_equal(other.batches(0), plain.batches(0))


def truncate(content: bytes) -> bytes:
    return content[:-1]


def alter_an_image(content: bytes) -> bytes:
    return content[: 2**21 + 5] + bytes([content[2**21 + 5] ^ 1]) + content[2**21 + 6 :]


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"something else",
        lambda content: content + b"\0",
        alter_an_image,
        lambda content: bytes([content[0] ^ 1]) + content[1:],
    ],
    ids=["cut", "half", "empty", "foreign", "longer", "image", "header"],
)
def test_a_damaged_file_is_written_again(tmp_path, damage):
    images = random_images(23)
    make_both(images, tmp_path)
    (path,) = betons(tmp_path)
    whole = path.read_bytes()
    damaged = damage(whole)
    assert damaged != whole
    path.write_bytes(damaged)
    # New objects, as in another process: an opened file is not verified again.
    plain, other = make_both(Images(images.images, images.labels.clone()), tmp_path)
    assert path.read_bytes() == whole
    assert_equal(other.batches(0), plain.batches(0))


@pytest.mark.usefixtures("ffcv")
def test_a_file_whose_checksum_is_missing_or_wrong_is_written_again(tmp_path):
    images = random_images(23)
    make_both(images, tmp_path)
    (path,) = betons(tmp_path)
    checksum = path.with_name(f"{path.name}.sha256")
    stated = checksum.read_text()
    whole = path.read_bytes()
    assert stated == f"{hashlib.sha256(whole).hexdigest()}  {path.name}\n"
    for damage in (checksum.unlink, lambda: checksum.write_text("0" * 64), path.unlink):
        damage()
        make_both(Images(images.images, images.labels.clone()), tmp_path)
        assert (path.read_bytes(), checksum.read_text()) == (whole, stated)


@pytest.mark.usefixtures("ffcv")
def test_an_error_of_the_writer_reaches_the_caller_and_leaves_no_file(tmp_path, monkeypatch):
    from stitch_sweep.data import beton

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(beton, "worker_job_indexed_dataset", fail)
    with pytest.raises(OSError, match="No space left"):
        make_both(random_images(23), tmp_path)
    assert [file.suffix for file in tmp_path.iterdir()] == [".lock"]


# Several processes


SCRIPT = """
import sys
from pathlib import Path
import torch
from stitch_sweep.data import beton, ffcv_loader
from stitch_sweep.data.images import Images
from stitch_sweep.data.loader import Loader

def loaders(count):
    pixels = (torch.arange(count * 3 * 16 * 16) % 251).reshape(count, 3, 16, 16).to(torch.uint8)
    arguments = Images(pixels, torch.arange(count) % 5), torch.full((3,), 0.5), torch.full((3,), 0.2)
    options = {"batch_size": 64, "seed": 0, "augment": "crop_flip"}
    folder = Path(sys.argv[1])
    return Loader(*arguments, **options), ffcv_loader.FfcvLoader(*arguments, folder=folder, **options)
"""
HANGS_WHILE_WRITING = """
def hang(*arguments):
    print("half way", flush=True)
    sys.stdin.read()

beton.worker_job_indexed_dataset = hang
loaders(23)
"""
WAITS_AND_WRITES = """
atomic, writes = beton.atomic, []

def counted(path):
    writes.append(path)
    return atomic(path)

beton.atomic = counted
torch.set_num_threads(1)
print("ready", flush=True)
sys.stdin.readline()
plain, other = loaders(2000)
for one, two in zip(other.batches(0), plain.batches(0), strict=True):
    assert one.images.equal(two.images)
print(len(writes), flush=True)
"""
RECORDS_STATE = """
import random, threading
import numpy as np
from stitch_sweep.core.seeding import seed_everything

def state():
    new_thread = []
    thread = threading.Thread(target=lambda: new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return {
        "threads": torch.get_num_threads(),
        "threads of a new thread": new_thread,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "denormal": (torch.tensor(1e-40) * 1).item(),
        "torch": hash(torch.get_rng_state().numpy().tobytes()),
        "random": hash(random.getstate()),
        "numpy": hash(np.random.get_state()[1].tobytes()),
    }

seed_everything(0, threads=2)
before = state()
"""
USES_FFCV = """
plain, other = loaders(23)
list(other.batches(0))
assert state() == before, (state(), before)
"""


def start_script(text: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("ffcv")
def test_a_killed_writer_leaves_nothing_under_the_files_name(tmp_path):
    with start_script(SCRIPT + HANGS_WHILE_WRITING, tmp_path) as process:
        assert process.stdout.readline() == "half way\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert any(tmp_path.iterdir()), "the process was writing"
    assert betons(tmp_path) == []
    plain, other = make_both(random_images(23), tmp_path)  # its lock is free again
    assert_equal(other.batches(0), plain.batches(0))


@pytest.mark.usefixtures("ffcv")
def test_of_two_processes_that_want_the_same_file_one_writes_it(tmp_path):
    with (
        start_script(SCRIPT + WAITS_AND_WRITES, tmp_path) as one,
        start_script(SCRIPT + WAITS_AND_WRITES, tmp_path) as two,
    ):
        for process in (one, two):
            assert process.stdout.readline() == "ready\n"
        for process in (one, two):
            process.stdin.write("go\n")
            process.stdin.flush()
        written = sorted(int(process.stdout.readline()) for process in (one, two))
    assert one.returncode == two.returncode == 0
    assert written == [0, 1]
    assert len(betons(tmp_path)) == 1
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.usefixtures("ffcv")
def test_importing_and_using_ffcv_moves_no_setting_and_no_random_number(tmp_path):
    code = "import torch" + RECORDS_STATE + SCRIPT + USES_FFCV
    finished = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
