"""FFCV gives what the plain loader gives, bit for bit, and its files survive what happens to them."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.support.digits import DIGITS

from stitch_sweep.cli import main as cli
from stitch_sweep.config.models import Config, DataConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import SPLITS, Data, Images
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import load, make_loaders
from stitch_sweep.networks.zoo import make_recipe, train_network
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.storage.checkpoints import digest
from stitch_sweep.sweep.run import _description
from stitch_sweep.sweep.trainable import data_from_arrays, data_to_arrays
from stitch_sweep.training.loop import StitchTraining
from tests.support.paths import ROOT
from tests.support.sweeps import figures, run, write_config
from tests.unit.training.test_training import frozen, outcome, settings

CIFAR = ROOT.parent / "shared/data/cifar10"
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.25])


@pytest.fixture(scope="session")
def ffcv() -> ModuleType:
    """The module with FFCV in it. CI installs FFCV, and says that these tests must run."""
    try:
        from stitch_sweep.data import ffcv_loader
    except InputError as error:
        if os.environ.get("STITCH_SWEEP_REQUIRE_FFCV"):
            raise
        pytest.skip(str(error))
    return ffcv_loader


def random_images(count: int, channels: int = 3, size: int = 16) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, channels, size, size), generator=generator)
    return Images(pixels.to(torch.uint8), torch.arange(count) % 5)


def both(
    images: Images, folder: Path, batch_size: int = 5, augment: str = "crop_flip"
) -> tuple[Loader, Loader]:
    """The plain loader and FFCV's for the same split."""
    from stitch_sweep.data.ffcv_loader import FfcvLoader

    channels = images.images.shape[1]
    options: Any = {"batch_size": batch_size, "seed": 0, "augment": augment}
    arguments = (images, MEAN[:channels], STD[:channels])
    return Loader(*arguments, **options), FfcvLoader(*arguments, folder=folder, **options)


def assert_equal(found: Iterator[Any], expected: Iterator[Any]) -> None:
    """The same tuples of tensors and numbers, whatever is done with the earlier ones."""
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def with_ffcv(data: Data, folder: Path) -> Data:
    return dataclasses.replace(data, beton_folder=str(folder))


def betons(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.beton"))


# The same batches


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("betons")


SPLIT = random_images(23)


@pytest.mark.usefixtures("ffcv")
@hypothesis_settings(max_examples=25)
@given(st.integers(1, 30), st.integers(0, 3), st.data(), st.sampled_from(["none", "crop_flip"]))
def test_every_batch_of_an_epoch_is_the_plain_loaders(
    shared_folder, batch_size, epoch, data, augment
):
    plain, other = both(SPLIT, shared_folder, batch_size, augment)
    start = data.draw(st.integers(0, len(plain)))
    assert_equal(other.batches(epoch, start), plain.batches(epoch, start))


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("chunk", [1, 4, 23, 60])
def test_every_chunk_is_the_plain_loaders(shared_folder, chunk):
    plain, other = both(SPLIT, shared_folder)
    assert_equal(other.in_order(chunk), plain.in_order(chunk))


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("start", [-1, 6])
def test_a_start_outside_the_epoch_is_refused(shared_folder, start):
    with pytest.raises(ValueError, match=f"start is {start}"):
        list(both(SPLIT, shared_folder)[1].batches(0, start))


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("shape", [(1, 1, 8), (2049, 1, 32), (40, 3, 224)], ids=str)
def test_files_of_one_page_and_of_several_hold_every_image(tmp_path, shape):
    plain, other = both(random_images(*shape), tmp_path, batch_size=64)
    assert_equal(other.in_order(64), plain.in_order(64))


@pytest.mark.usefixtures("ffcv")
def test_grey_digits_are_the_same(digits, tmp_path):
    compare(digits, tmp_path)


@pytest.mark.usefixtures("ffcv")
def test_jpegs_out_of_parquet_files_are_the_same(tmp_path):
    if not CIFAR.is_dir():
        pytest.skip(f"no CIFAR-10 in {CIFAR}")
    for split, count in (("train", 400), ("test", 100)):
        table = pq.read_table(CIFAR / f"{split}.parquet").slice(0, count)
        pq.write_table(table, tmp_path / f"{split}.parquet")
    data = load(DataConfig.model_validate({"name": "parquet", "path": str(tmp_path)}))
    assert data.image_shape == (3, 32, 32)
    compare(data, tmp_path / "betons")


def compare(data: Data, folder: Path) -> None:
    options: Any = {"seed": 1, "augment": "crop_flip"}
    plain = make_loaders(data, 32, **options)
    other = make_loaders(with_ffcv(data, folder), 32, **options)
    assert len(betons(folder)) == len(SPLITS)
    for split in SPLITS:
        for epoch in (0, 1):
            assert_equal(other[split].batches(epoch), plain[split].batches(epoch))
        assert_equal(other[split].in_order(256), plain[split].in_order(256))


@pytest.mark.usefixtures("ffcv")
def test_arrays_that_ray_shares_between_processes_are_read_and_nothing_more(digits, tmp_path):
    arrays = data_to_arrays(with_ffcv(digits, tmp_path))
    for split, (*tensors, files) in arrays["splits"].items():
        images, labels = (array.copy() for array in tensors)
        images.flags.writeable = labels.flags.writeable = False
        arrays["splits"][split] = images, labels, files
    found = make_loaders(data_from_arrays(arrays), 32, seed=0)
    expected = make_loaders(digits, 32, seed=0)
    assert_equal(found["train"].batches(0), expected["train"].batches(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches(ffcv, digits, tmp_path):
    options: Any = {"seed": 1, "augment": "crop_flip", "device": "cuda"}
    plain = make_loaders(digits, 32, **options)
    other = make_loaders(with_ffcv(digits, tmp_path).to("cuda"), 32, **options)
    assert other["train"].images.images.device.type == "cpu"
    for split in SPLITS:
        assert_equal(other[split].batches(0), plain[split].batches(0))
        assert_equal(other[split].in_order(256), plain[split].in_order(256))


def test_pixels_that_ffcv_reads_are_not_sent_to_the_device(digits):
    moved = with_ffcv(digits, Path("nowhere")).to("meta")
    assert moved.train.labels.device.type == "meta"
    assert moved.train.images is digits.train.images
    assert digits.to("meta").train.images.device.type == "meta"
    assert digits.to("cpu").train is digits.train


# The same results


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_a_stitch_learns_the_same(a, b, digits, tmp_path, augment):
    results = []
    for data in (digits, with_ffcv(digits, tmp_path)):
        loaders = make_loaders(data, 64, seed=0, augment=augment)
        training = StitchTraining(*frozen(a, b), 1, 2, loaders, settings({"task": 1.0, "mse": 0.5}))
        training.advance(3)  # training breaks out of an epoch and comes back into it
        while not training.done:
            training.run_epoch()
        results.append(outcome(training.finish()))
    assert results[0]["status"] == "finished"
    assert results[0] == results[1]


def config(**data: Any) -> Config:
    return Config.model_validate(
        {
            "data": {**DIGITS, "augment": "crop_flip", **data},
            "networks": [{"name": "n", "family": "resnet1111", "width": 2}],
            "pairs": [{"sender": "n", "receiver": "n"}],
            "pretraining": {"epochs": 2, "batch_size": 64},
        }
    )


@pytest.mark.usefixtures("ffcv")
def test_the_zoo_trains_the_same_network_and_finds_it_under_the_same_name(digits, tmp_path):
    chosen = config()
    stored = []
    for data in (digits, with_ffcv(digits, tmp_path)):
        recipe = make_recipe(chosen.networks[0], chosen, data)
        *_, last = train_network(recipe, data, threads=1)
        stored.append((recipe.hash, last.weights, last.accuracy))
    assert stored[0][1] is not None
    assert stored[0] == stored[1]


@pytest.mark.usefixtures("ffcv")
def test_the_loader_is_no_part_of_what_identifies_a_sweep(tmp_path):
    plain = prepare(config())
    other = prepare(config(loader="ffcv", beton_folder=str(tmp_path / "betons")))
    assert other.data.beton_folder == str(tmp_path / "betons")
    assert other.data.fingerprint == plain.data.fingerprint
    assert _description(other)["decides"] == _description(plain)["decides"]
    assert [r.hash for r in other.recipes()] == [r.hash for r in plain.recipes()]
    assert not (tmp_path / "betons").exists(), "nothing is written before a trial needs it"


@pytest.mark.usefixtures("ffcv")
def test_the_folder_means_the_same_in_a_worker_that_runs_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(config(loader="ffcv").data).beton_folder == str(tmp_path / "beton")


@pytest.mark.long
@pytest.mark.usefixtures("ffcv")
def test_a_sweep_gives_the_same_figures_and_can_be_resumed_with_the_other_loader(tmp_path):
    found = []
    for name in ("torch", "ffcv"):
        folder, changes = tmp_path / name, {"data__loader": name, "data__augment": "crop_flip"}
        changes["data__beton_folder"] = str(tmp_path / "betons")
        # Each has a zoo of its own, so the networks are trained with both loaders, too.
        status, output = run("sweep", write_config(folder, tmp_path / f"zoo-{name}", **changes))
        assert status == 0, output
        found.append(figures(folder))
    assert found[0] == found[1]
    assert len(betons(tmp_path / "betons")) == len(SPLITS)
    changes = {"data__augment": "crop_flip", "repeats": 2}
    file = write_config(tmp_path / "ffcv", tmp_path / "zoo-ffcv", **changes)
    status, output = run("sweep", file, "--resume")
    assert status == 0, output
    assert len(figures(tmp_path / "ffcv")["results"]) == 2 * len(found[0]["results"])


# The file


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("shape", [(23, 3, 16), (2049, 1, 32), (40, 3, 224)], ids=str)
def test_the_file_is_what_ffcv_itself_writes_and_reads(ffcv, tmp_path, monkeypatch, shape):
    import ffcv.writer
    from ffcv.fields import IntField, NDArrayField
    from ffcv.loader import Loader as TheirLoader

    class Here:
        """In the place of a process, which would have to be forked from this one."""

        def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
            self.start = lambda: target(*args)

    images = random_images(*shape)
    both(images, tmp_path)
    (path,) = betons(tmp_path)
    fields = {
        "image": NDArrayField(np.dtype("u1"), tuple(images.images.shape[1:])),
        "label": IntField(),
    }
    pairs = list(zip(images.images.numpy(), images.labels.tolist(), strict=True))
    monkeypatch.setattr(ffcv.writer, "Process", Here)
    page_size = int(ffcv_header(path)["page_size"])
    theirs = tmp_path / "theirs"
    writer = ffcv.writer.DatasetWriter(str(theirs), fields, page_size, num_workers=1)
    writer.from_indexed_dataset(pairs)
    assert path.read_bytes() == theirs.read_bytes()

    threads = torch.get_num_threads()
    try:
        loader = TheirLoader(str(path), 7, num_workers=1, drop_last=False, seed=0)
        # Cloned at once: FFCV uses its memory again.
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
    both(images, tmp_path)
    (path,) = betons(tmp_path)
    assert path.stem == digest({"images": images.images, "labels": images.labels})
    before = path.stat()
    both(images, tmp_path)
    both(Images(images.images.clone(), images.labels.clone()), tmp_path)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    # Neither other pixels nor other labels are taken for the same.
    both(Images(images.images.flip(0), images.labels), tmp_path)
    both(Images(images.images, images.labels.flip(0)), tmp_path)
    assert len(betons(tmp_path)) == 3


@pytest.mark.usefixtures("ffcv")
def test_one_split_can_lie_in_two_folders(tmp_path):
    images = random_images(23)
    for name in ("one", "two"):
        plain, other = both(images, tmp_path / name)
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
    both(images, tmp_path)
    (path,) = betons(tmp_path)
    whole = path.read_bytes()
    damaged = damage(whole)
    assert damaged != whole
    path.write_bytes(damaged)
    # Other objects, as in another process: an opened file is not looked at again.
    plain, other = both(Images(images.images, images.labels.clone()), tmp_path)
    assert path.read_bytes() == whole
    assert_equal(other.batches(0), plain.batches(0))


SCRIPT = """
import sys
from pathlib import Path
import torch
from stitch_sweep.data import ffcv_loader
from stitch_sweep.data.images import Images
from stitch_sweep.data.loader import Loader

def loaders(count):
    pixels = (torch.arange(count * 3 * 16 * 16) % 251).reshape(count, 3, 16, 16).to(torch.uint8)
    arguments = Images(pixels, torch.arange(count) % 5), torch.full((3,), 0.5), torch.full((3,), 0.2)
    options = {"batch_size": 64, "seed": 0, "augment": "crop_flip"}
    folder = Path(sys.argv[1])
    return Loader(*arguments, **options), ffcv_loader.FfcvLoader(*arguments, folder=folder, **options)
"""
DIES = """
blocks = ffcv_loader._blocks

def stuck(images):
    yield next(blocks(images))
    print("half way", flush=True)
    sys.stdin.read()

ffcv_loader._holds, ffcv_loader._blocks = lambda *_: False, stuck
loaders(23)
"""
WRITES = """
atomic, writes = ffcv_loader.atomic, []

def counted(path):
    writes.append(path)
    return atomic(path)

ffcv_loader.atomic = counted
torch.set_num_threads(1)
print("ready", flush=True)
sys.stdin.readline()
plain, other = loaders(2000)
for one, two in zip(other.batches(0), plain.batches(0), strict=True):
    assert one.images.equal(two.images)
print(len(writes), flush=True)
"""
UNMOVED = """
import random, threading
import numpy as np
from stitch_sweep.core.seeding import seed_everything

def now():
    in_a_thread = []
    asking = threading.Thread(target=lambda: in_a_thread.append(torch.get_num_threads()))
    asking.start()
    asking.join()
    return {
        "threads": torch.get_num_threads(),
        "threads of a new thread": in_a_thread,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "denormal": (torch.tensor(1e-40) * 1).item(),
        "torch": hash(torch.get_rng_state().numpy().tobytes()),
        "random": hash(random.getstate()),
        "numpy": hash(np.random.get_state()[1].tobytes()),
    }

seed_everything(0, threads=2)
before = now()
"""
USE = """
plain, other = loaders(23)
list(other.batches(0))
assert now() == before, (now(), before)
"""


def script(text: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("ffcv")
def test_a_killed_writer_leaves_nothing_under_the_files_name(tmp_path):
    with script(SCRIPT + DIES, tmp_path) as process:
        assert process.stdout.readline() == "half way\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert any(tmp_path.iterdir()), "it was writing"
    assert betons(tmp_path) == []
    plain, other = both(random_images(23), tmp_path)  # nor does its lock outlive it
    assert_equal(other.batches(0), plain.batches(0))


@pytest.mark.usefixtures("ffcv")
def test_of_two_processes_that_want_the_same_file_one_writes_it(tmp_path):
    with script(SCRIPT + WRITES, tmp_path) as one, script(SCRIPT + WRITES, tmp_path) as two:
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


# Threads and memory


def reading_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("ffcv")]


@pytest.mark.usefixtures("ffcv")
def test_iterations_that_are_broken_off_leave_no_thread(shared_folder):
    _, other = both(SPLIT, shared_folder, batch_size=1)
    kept = []
    for taken in (0, 1, 2, 22, 23):
        batches = other.batches(0)
        for _ in range(taken):
            next(batches)
        kept.append(batches)
    assert reading_threads()
    threads = reading_threads()
    del batches
    kept.clear()
    for thread in threads:
        thread.join(timeout=60)
    assert reading_threads() == []


@pytest.mark.usefixtures("ffcv")
def test_several_iterations_at_once_do_not_disturb_each_other(shared_folder):
    plain, other = both(SPLIT, shared_folder, batch_size=2)
    found = [other.batches(0), other.batches(1), other.in_order(3), other.in_order(2)]
    expected = [plain.batches(0), plain.batches(1), plain.in_order(3), plain.in_order(2)]
    for ones, others in zip(zip(*found, strict=False), zip(*expected, strict=False), strict=True):
        assert_equal(iter(ones), iter(others))


@pytest.mark.usefixtures("ffcv")
def test_reading_ahead_does_not_overwrite_what_is_in_use(ffcv, shared_folder, monkeypatch):
    class AtOnce:
        """Reads as far ahead as it may before anything is handed out."""

        def __init__(self, *_: Any) -> None:
            pass

        def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(call(*arguments))
            return future

        def shutdown(self, **_: Any) -> None:
            pass

    monkeypatch.setattr(ffcv, "ThreadPoolExecutor", AtOnce)
    _, other = both(SPLIT, shared_folder, batch_size=2)
    groups = list(other.indices(0))
    for positions, pixels in zip(groups, other.read(groups), strict=True):
        assert torch.equal(pixels, SPLIT.images[positions])


@pytest.mark.usefixtures("ffcv")
def test_an_error_in_the_reading_thread_reaches_the_caller(ffcv, shared_folder, monkeypatch):
    _, other = both(SPLIT, shared_folder, batch_size=2)
    monkeypatch.setattr(ffcv._Beton, "read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(other.batches(0))


@pytest.mark.usefixtures("ffcv")
def test_importing_and_using_ffcv_moves_no_setting_and_no_random_number(tmp_path):
    code = "import torch" + UNMOVED + SCRIPT + USE
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


# Without FFCV


@pytest.fixture
def without_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as if FFCV had never been installed."""
    for name in [n for n in sys.modules if n.startswith("ffcv.") or n.endswith(".ffcv_loader")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ffcv", None)


INSTALL = [
    "make ffcv",
    "pip install 'ffcv>=1.0.2'",
    "apt-get install g++ pkg-config python3-dev libopencv-dev libturbojpeg0-dev",
]


@pytest.mark.usefixtures("without_ffcv")
@pytest.mark.parametrize("command", [["sweep"], ["sweep", "--dry-run"], ["zoo", "train"]], ids=str)
def test_the_command_line_says_how_to_install_what_is_missing(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(config(loader="ffcv").model_dump(mode="json")))
    monkeypatch.setattr(sys, "argv", ["stitch-sweep", *command, str(file)])
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: data.loader is 'ffcv', but FFCV can't be imported")
    assert all(way in line for way in INSTALL)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yml"]
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("without_ffcv")
def test_a_worker_without_ffcv_says_so(digits, tmp_path):
    with pytest.raises(InputError, match="make ffcv"):
        make_loaders(with_ffcv(digits, tmp_path), 32, seed=0)


def test_the_packages_named_are_those_that_make_and_ci_name():
    packages = INSTALL[2].removeprefix("apt-get install ")
    assert f"FFCV_NEEDS := {packages}\n" in (ROOT / "Makefile").read_text()
    assert packages in (ROOT / ".ci/run").read_text()
    assert packages in (ROOT / "docs/config.md").read_text()


@pytest.mark.usefixtures("ffcv")
def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match=r"data\.beton_folder: .*taken is a file"):
        load(config(loader="ffcv", beton_folder=str(tmp_path / "taken")).data)
