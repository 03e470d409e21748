"""FFCV's loader gives the batches and results of the plain loader, bit for bit.

Importing FFCV and compiling its code take 20 seconds, and nothing runs where it isn't installed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stitch_sweep.config.data import DataConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.splits import SPLITS
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load, make_loaders
from stitch_sweep.data.transfer import data_from_arrays, data_to_arrays
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.networks.pretraining import train_network
from stitch_sweep.networks.recipes import make_recipe
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.sweep.description import describe_sweep
from stitch_sweep.training.loop import StitchTraining
from tests.support.ffcv import assert_equal, betons, ffcv_config, make_both, with_ffcv
from tests.support.image_files import random_images
from tests.support.paths import SHARED
from tests.support.sweeps import figures, run, write_config
from tests.support.training import outcome

CIFAR = SHARED / "data/cifar10"


# The same batches


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("betons")


SPLIT = random_images(23)


@pytest.mark.usefixtures("ffcv")
@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(0, 3), st.data(), st.sampled_from(["none", "crop_flip"]))
def test_every_batch_of_an_epoch_is_the_plain_loaders(
    shared_folder, batch_size, epoch, data, augment
):
    plain, other = make_both(SPLIT, shared_folder, batch_size, augment)
    start = data.draw(st.integers(0, len(plain)))
    assert_equal(other.batches(epoch, start), plain.batches(epoch, start))


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("chunk", [1, 4, 23, 60])
def test_every_chunk_is_the_plain_loaders(shared_folder, chunk):
    plain, other = make_both(SPLIT, shared_folder)
    assert_equal(other.in_order(chunk), plain.in_order(chunk))


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("start", [-1, 6])
def test_a_start_outside_the_epoch_is_refused(shared_folder, start):
    with pytest.raises(ValueError, match=f"start is {start}"):
        list(make_both(SPLIT, shared_folder)[1].batches(0, start))


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("shape", [(1, 1, 8), (2049, 1, 32), (40, 3, 224)], ids=str)
def test_files_of_one_page_and_of_several_hold_every_image(tmp_path, shape):
    plain, other = make_both(random_images(*shape), tmp_path, batch_size=64)
    assert_equal(other.in_order(64), plain.in_order(64))


@pytest.mark.usefixtures("ffcv")
def test_gray_digits_are_the_same(digits, tmp_path):
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


# The same results


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_a_stitch_learns_the_same(a, b, digits, tmp_path, augment):
    networks = [FrozenNetwork(a, "network 0"), FrozenNetwork(b, "network 1")]
    settings = TrialSettings.model_validate(
        {
            "stitch": {"name": "paper"},
            "loss": {"task": 1.0, "mse": 0.5},
            "training": {"epochs": 2},
        }
    )
    results = []
    for data in (digits, with_ffcv(digits, tmp_path)):
        loaders = make_loaders(data, 64, seed=0, augment=augment)
        training = StitchTraining(*networks, 1, 2, loaders, settings)
        training.advance(3)  # stops within an epoch, which is resumed
        while not training.done:
            training.run_epoch()
        results.append(outcome(training.finish()))
    assert results[0]["status"] == "finished"
    assert results[0] == results[1]


@pytest.mark.usefixtures("ffcv")
def test_the_zoo_trains_the_same_network_and_finds_it_under_the_same_name(digits, tmp_path):
    chosen = ffcv_config()
    stored = []
    for data in (digits, with_ffcv(digits, tmp_path)):
        recipe = make_recipe(chosen.networks[0], chosen, data)
        *_, last = train_network(recipe, data, threads=1)
        stored.append((recipe.hash, last.weights, last.accuracy))
    assert stored[0][1] is not None
    assert stored[0] == stored[1]


@pytest.mark.usefixtures("ffcv")
def test_the_loader_is_no_part_of_what_identifies_a_sweep(tmp_path):
    plain = prepare(ffcv_config())
    other = prepare(ffcv_config(loader="ffcv", beton_folder=str(tmp_path / "betons")))
    assert other.data.beton_folder == str(tmp_path / "betons")
    assert other.data.fingerprint == plain.data.fingerprint
    assert describe_sweep(other)["decides"] == describe_sweep(plain)["decides"]
    assert [r.hash for r in other.recipes()] == [r.hash for r in plain.recipes()]
    assert not (tmp_path / "betons").exists(), "nothing is written before a trial needs it"


@pytest.mark.usefixtures("ffcv")
def test_the_folder_means_the_same_in_a_worker_that_runs_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(ffcv_config(loader="ffcv").data).beton_folder == str(tmp_path / "beton")


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


@pytest.mark.usefixtures("ffcv")
def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match=r"data\.beton_folder: .*taken is a file"):
        load(ffcv_config(loader="ffcv", beton_folder=str(tmp_path / "taken")).data)


# Threads and memory


def reading_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("ffcv")]


@pytest.mark.usefixtures("ffcv")
def test_iterations_that_are_broken_off_leave_no_thread(shared_folder):
    _, other = make_both(SPLIT, shared_folder, batch_size=1)
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
    plain, other = make_both(SPLIT, shared_folder, batch_size=2)
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
    _, other = make_both(SPLIT, shared_folder, batch_size=2)
    groups = list(other.indices(0))
    for positions, pixels in zip(groups, other.read(groups), strict=True):
        assert torch.equal(pixels, SPLIT.images[positions])


@pytest.mark.usefixtures("ffcv")
def test_an_error_in_the_reading_thread_reaches_the_caller(shared_folder, monkeypatch):
    _, other = make_both(SPLIT, shared_folder, batch_size=2)
    monkeypatch.setattr(other._beton, "read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(other.batches(0))
