"""Original binaries are read by torchvision, and nothing is downloaded unasked."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from PIL import Image
from pydantic import ValidationError

from stitch_sweep.config.data import DataConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.loading import load
from stitch_sweep.data.sources.torchvision import KINDS
from tests.support.image_files import (
    data_settings,
    pixels,
)


def write_idx(file: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(head + array.tobytes())


def write_mnist(root: Path) -> dict[str, np.ndarray]:
    images = {"train": pixels(40, 28, 28), "t10k": pixels(20, 28, 28, seed=1)}
    for split, array in images.items():
        write_idx(root / f"{split}-images-idx3-ubyte", array)
        write_idx(root / f"{split}-labels-idx1-ubyte", np.arange(len(array), dtype=np.uint8) % 10)
    return images


@pytest.mark.parametrize(("name", "where"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files_are_read(tmp_path, name, where):
    images = write_mnist(tmp_path / where / "raw")
    source = DATASETS.build(name, None, options={"path": str(tmp_path)})
    assert np.array_equal(source.train.images[:, 0].numpy(), images["train"])
    assert np.array_equal(source.test.images[:, 0].numpy(), images["t10k"])
    assert source.train.labels.tolist() == list(range(10)) * 4
    assert len(source.classes) == 10
    resized = load(data_settings(name, {"path": str(tmp_path)}, image_size=14, val_fraction=0.25))
    assert resized.image_shape == (1, 14, 14)


@pytest.mark.parametrize("damage", [b"", b"hello", "cut", "compressed"])
def test_damaged_mnist_files_are_refused(tmp_path, damage):
    write_mnist(tmp_path / "MNIST" / "raw")
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = file.read_bytes()
    replaced = {"cut": content[:1000], "compressed": gzip.compress(content)}
    file.write_bytes(replaced.get(damage, damage))
    with pytest.raises(InputError, match=r"MNIST: no usable data in .*MNIST/raw"):
        load(data_settings("mnist", {"path": str(tmp_path)}))


@pytest.mark.parametrize(
    ("name", "dataset", "folder", "key"),
    [
        ("cifar10", "CIFAR10", "cifar-10-batches-py", "labels"),
        ("cifar100", "CIFAR100", "cifar-100-python", "fine_labels"),
    ],
)
def test_cifar_files_are_read(tmp_path, monkeypatch, name, dataset, folder, key):
    """Reads small files in the original format; torchvision's list gets their checksums."""
    dataset_class = getattr(torchvision.datasets, dataset)
    (tmp_path / folder).mkdir()

    def write(file: str, content: dict) -> str:
        data = pickle.dumps(content)
        (tmp_path / folder / file).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    batches = {}
    for attribute in ("train_list", "test_list"):
        listed = []
        for file, _ in getattr(dataset_class, attribute):
            batch = pixels(10, 3072, seed=len(batches))
            batches[file] = batch
            listed.append([file, write(file, {"data": batch, key: list(range(10))})])
        monkeypatch.setattr(dataset_class, attribute, listed)
    names = [f"class {c}" for c in range(10)]
    meta = {
        **dataset_class.meta,
        "md5": write(dataset_class.meta["filename"], {dataset_class.meta["key"]: names}),
    }
    monkeypatch.setattr(dataset_class, "meta", meta)

    source = DATASETS.build(name, None, options={"path": str(tmp_path)})
    *train, test = batches.values()
    assert np.array_equal(source.train.images.flatten(1).numpy(), np.concatenate(train))
    assert np.array_equal(source.test.images.numpy(), test.reshape(10, 3, 32, 32))
    assert source.train.labels.tolist() == list(range(10)) * len(train)
    assert source.classes == tuple(names)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_missing_data_is_not_fetched_unless_asked_for(tmp_path, monkeypatch, name):
    def never(*args, **kwargs):
        pytest.fail("something was downloaded")

    for module in ("cifar", "mnist"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", never)
    root = tmp_path / "none"
    with pytest.raises(InputError, match=rf"no usable data in {root}.*set download: true"):
        load(data_settings(name, {"path": str(root)}))
    assert not root.exists()


def test_a_failed_download_is_reported(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    with pytest.raises(InputError, match=r"network is unreachable.*the download failed"):
        load(data_settings("cifar10", {"path": str(tmp_path), "download": True}))


def test_svhn_is_read_by_the_name_of_its_class(tmp_path, monkeypatch):
    """Small files in the original format; torchvision's list gets their checksums."""
    splits = {"train": pixels(32, 32, 3, 20), "test": pixels(32, 32, 3, 10, seed=1)}
    listed = dict(torchvision.datasets.SVHN.split_list)
    for split, images in splits.items():
        file = tmp_path / f"{split}_32x32.mat"
        labels = np.arange(images.shape[3])[:, None] % 10 + 1  # the digit 0 is stored as 10
        scipy.io.savemat(file, {"X": images, "y": labels})
        listed[split] = [listed[split][0], file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    config = DataConfig.model_validate(
        {"source": "torchvision", "name": "SVHN", "path": str(tmp_path), "val_fraction": 0.5}
    )
    source = DATASETS.build(config.name, None, options=config.options)
    assert np.array_equal(source.train.images.numpy(), splits["train"].transpose(3, 2, 0, 1))
    assert np.array_equal(source.test.images.numpy(), splits["test"].transpose(3, 2, 0, 1))
    assert source.train.labels.tolist() == [*range(1, 10), 0] * 2
    assert load(config).image_shape == (3, 32, 32)


def write_images(folder: Path, classes: list[str], count: int, seed: int) -> None:
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            image = Image.fromarray(pixels(8, 8, 3, seed=seed + 10 * c + k))
            image.save(folder / name / f"{k}.png")


def test_official_validation_images_are_used(tmp_path):
    for seed, split in enumerate(("train", "valid", "test")):
        write_images(tmp_path / "country211" / split, ["AD", "ZW"], 3, seed * 100)
    source = DATASETS.build("Country211", None, options={"path": str(tmp_path)})
    assert source.classes == ("AD", "ZW")
    for images, split in (
        (source.train, "train"),
        (source.validation, "valid"),
        (source.test, "test"),
    ):
        opened = torchvision.datasets.Country211(tmp_path, split=split)
        expected = np.stack([np.asarray(image) for image, _ in opened])
        assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), expected)
        assert images.labels.tolist() == [label for _, label in opened]


def test_a_set_without_splits_gives_a_quarter_to_the_test_split(tmp_path):
    write_images(tmp_path / "eurosat" / "2750", ["Forest", "River"], 8, 0)
    source = DATASETS.build("EuroSAT", None, options={"path": str(tmp_path)})
    assert (len(source.train), len(source.test)) == (12, 4)
    assert source.test.labels.bincount().tolist() == [2, 2]
    opened = torchvision.datasets.EuroSAT(tmp_path)
    parts = (source.train, source.test)
    read = {
        bytes(image.permute(1, 2, 0).numpy().tobytes()) for part in parts for image in part.images
    }
    assert read == {np.asarray(image).tobytes() for image, _ in opened}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_listed_class_exists_and_missing_files_are_explained(tmp_path, monkeypatch, name):
    assert hasattr(torchvision.datasets, name)

    def never(*args, **kwargs):
        pytest.fail("something was downloaded")

    monkeypatch.setattr("urllib.request.urlopen", never)
    with pytest.raises(InputError, match=rf"data set {name}: .*{tmp_path.name}"):
        DATASETS.build(name, 8, options={"path": str(tmp_path)})


def test_an_unknown_name_lists_the_allowed_ones(tmp_path):
    settings = {"source": "torchvision", "path": str(tmp_path)}
    with pytest.raises(ValidationError, match=r"allowed: .*Flowers102.*SVHN"):
        DataConfig.model_validate({**settings, "name": "Kitti2012Stereo"})
    with pytest.raises(ValidationError, match=r"did you mean 'SVHN'"):
        DataConfig.model_validate({**settings, "name": "SVNH"})
    with pytest.raises(ValidationError, match="source"):
        DataConfig.model_validate({"source": "timm", "name": "SVHN", "path": str(tmp_path)})
