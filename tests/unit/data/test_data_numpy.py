"""Arrays that NumPy wrote are read from one file or a folder, and pickled objects never are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.loading import load
from stitch_sweep.data.sources.base import Source
from tests.support.image_files import data_settings, pixels

TRAIN, TEST, VALIDATION = (
    pixels(12, 8, 8, 3),
    pixels(6, 8, 8, 3, seed=1),
    pixels(4, 8, 8, 3, seed=2),
)
LABELS = {"train": np.arange(12) % 3, "test": np.arange(6) % 3, "val": np.array([0, 1, 2, 0])}


def read(path: Path, **options: object) -> Source:
    source: Source = DATASETS.build("numpy", None, options={"path": str(path), **options})
    return source


def write(path: Path, arrays: dict[str, np.ndarray], kind: str) -> Path:
    """Write arrays as one file, compressed or not, or as a folder of files."""
    if kind == "folder":
        path.mkdir()
        for key, array in arrays.items():
            np.save(path / f"{key}.npy", array)
        return path
    file = path.with_suffix(".npz")
    (np.savez_compressed if kind == "compressed" else np.savez)(file, **arrays)
    return file


@pytest.mark.parametrize("kind", ["file", "compressed", "folder"])
@pytest.mark.parametrize(
    "keys",
    [
        "{split}_images {split}_labels",
        "x_{split} y_{split}",
        "X_{split} y_{split}",
        "{split}_x {split}_y",
    ],
)
def test_the_usual_names_are_found(tmp_path, kind, keys):
    images, labels = keys.split()
    arrays = {}
    for split, values in {"train": TRAIN, "test": TEST, "val": VALIDATION}.items():
        arrays[images.format(split=split)] = values
        arrays[labels.format(split=split)] = LABELS[split]
    source = read(write(tmp_path / "set", arrays, kind))
    for split, values, name in (
        (source.train, TRAIN, "train"),
        (source.test, TEST, "test"),
        (source.validation, VALIDATION, "val"),
    ):
        assert split is not None
        assert np.array_equal(split.images.numpy(), values.transpose(0, 3, 1, 2))
        assert np.array_equal(split.labels.numpy(), LABELS[name])
    assert source.classes == ("0", "1", "2")


def test_keys_and_class_names_are_taken_from_the_options_and_the_file(tmp_path):
    arrays = {
        "pic_train": TRAIN[..., 0],
        "kind_train": LABELS["train"][:, None],
        "pic_test": TEST[..., 0],
        "kind_test": LABELS["test"][:, None],
        "classes": np.array(["cat", "dog", "owl"]),
    }
    file = write(tmp_path / "set", arrays, "file")
    source = read(file, image_key="pic_{split}", label_key="kind_{split}")
    assert np.array_equal(source.train.images[:, 0].numpy(), TRAIN[..., 0])
    assert source.classes == ("cat", "dog", "owl")
    assert source.validation is None
    with pytest.raises(
        InputError, match=r"no arrays named 'pix_train'|named pix_train; set image_key"
    ):
        read(file, image_key="pix_{split}", label_key="kind_{split}")
    with pytest.raises(InputError, match=r"named sort_train; set label_key; arrays are: pic_train"):
        read(file, image_key="pic_{split}", label_key="sort_{split}")
    with pytest.raises(InputError, match=r"into both image_key and label_key"):
        read(file, image_key="pic_{split}", label_key="kind_train")
    with pytest.raises(InputError, match=r"named train_images and train_labels or .*arrays are:"):
        read(file)


def test_images_without_a_split_give_a_quarter_to_the_test_split(tmp_path):
    file = write(tmp_path / "set", {"images": TRAIN, "labels": LABELS["train"]}, "file")
    source = read(file)
    assert (len(source.train), len(source.test)) == (9, 3)
    together = np.concatenate([source.train.images.numpy(), source.test.images.numpy()])
    assert sorted(map(bytes, together.transpose(0, 2, 3, 1).copy())) == sorted(map(bytes, TRAIN))


def test_floats_reach_networks_as_they_are(tmp_path):
    values = (TRAIN / 255).astype(np.float32)
    arrays = {"images": values, "labels": LABELS["train"]}
    source = read(write(tmp_path / "set", arrays, "file"))
    assert source.normalization is not None
    mean, std = source.normalization
    seen = (source.train.images / 255 - mean[:, None, None]) / std[:, None, None]
    assert set(np.round(seen.numpy() * 255).astype(int).ravel()) <= set(TRAIN.ravel().tolist())


def test_images_are_resized(tmp_path):
    file = write(tmp_path / "set", {"images": TRAIN[:, :, :6], "labels": LABELS["train"]}, "file")
    with pytest.raises(InputError, match="8 x 6 pixels are not square; set image_size"):
        read(file)
    changes = {"image_size": 4, "val_fraction": 0.5}
    assert load(data_settings("numpy", {"path": str(file)}, **changes)).image_shape == (3, 4, 4)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("key", ["images", "labels", "classes"])
def test_pickled_objects_are_refused_and_not_run(tmp_path, kind, key):
    mark = tmp_path / "mark"
    arrays = {"images": TRAIN, "labels": LABELS["train"], "classes": np.array(["a", "b", "c"])}
    arrays[key] = np.array([Trap(mark)] * 12, dtype=object)
    path = write(tmp_path / "set", arrays, kind)
    with pytest.raises(InputError, match="contains pickled Python objects, which can run code"):
        read(path)
    assert not mark.exists()


def test_a_pickle_instead_of_a_file_of_arrays_is_refused(tmp_path):
    file = tmp_path / "set.npz"
    np.array([Trap(tmp_path / "mark")], dtype=object).dump(file)
    with pytest.raises(InputError, match="pickled Python objects"):
        read(file)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "array", "body"])
def test_damaged_files_are_refused(tmp_path, damage):
    file = write(tmp_path / "set", {"images": TRAIN, "labels": LABELS["train"]}, "compressed")
    content = file.read_bytes()
    half = len(content) // 2
    np.save(tmp_path / "one.npy", TRAIN)
    file.write_bytes(
        {
            "cut": content[:half],
            "text": b"images,labels\n",
            "empty": b"",
            "array": (tmp_path / "one.npy").read_bytes(),
            "body": content[: half - 20] + bytes(40) + content[half + 20 :],
        }[damage]
    )
    with pytest.raises(InputError, match=r"data set numpy: .*set\.npz"):
        read(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"none\.npz does not exist; allowed: an \.npz file, or a folder"
    ):
        read(tmp_path / "none.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="it has no arrays"):
        read(tmp_path / "empty")


def test_labels_that_do_not_fit_are_refused(tmp_path):
    for labels, message in (
        (LABELS["train"][:-1], "12 images have 11 labels"),
        (LABELS["train"].astype(float), "labels are float64"),
        (LABELS["train"] - 1, "labels begin at -1"),
    ):
        with pytest.raises(InputError, match=message):
            read(write(tmp_path / "set", {"images": TRAIN, "labels": labels}, "file"))
