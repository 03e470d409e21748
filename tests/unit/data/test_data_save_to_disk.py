"""Folders that the library `datasets` wrote are read; the library itself is the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.sources.base import Source
from tests.support.image_files import pixels

datasets = pytest.importorskip("datasets")


def make_split(count: int, seed: int, files: Path | None = None) -> datasets.Dataset:
    """Make a split of two classes; with `files`, images are paths of files."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    images = [Image.fromarray(pixels(6, 6, 3, seed=seed + k)) for k in range(count)]
    if files is not None:
        for k, image in enumerate(images):
            image.save(files / f"{seed}-{k}.png")
        images = [str(files / f"{seed}-{k}.png") for k in range(count)]
    rows = {"image": images, "label": [k % 2 for k in range(count)]}
    return datasets.Dataset.from_dict(rows, features=features)


def read(path: Path, **options: object) -> Source:
    source: Source = DATASETS.build("datasets", None, options={"path": str(path), **options})
    return source


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    splits = datasets.DatasetDict(
        train=make_split(8, 0), test=make_split(4, 100), extra=make_split(2, 200)
    )
    splits.save_to_disk(tmp_path / "set", num_shards={"train": 3, "test": 1, "extra": 1})
    return tmp_path / "set"


def test_images_labels_and_class_names_are_those_of_the_library(saved):
    source = read(saved)
    loaded = datasets.load_from_disk(saved)
    for split, images in (("train", source.train), ("test", source.test)):
        expected = np.stack([np.asarray(image) for image in loaded[split]["image"]])
        assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), expected)
        assert images.labels.tolist() == list(loaded[split]["label"])
    assert list(source.classes) == loaded["train"].features["label"].names
    (note,) = source.notes
    assert "splits other than train and test are skipped: extra" in note


def test_shuffled_rows_and_images_from_files_are_read(tmp_path):
    (tmp_path / "files").mkdir()
    train = make_split(8, 0, tmp_path / "files").shuffle(seed=1).select(range(6))
    datasets.DatasetDict(train=train, test=make_split(4, 100)).save_to_disk(tmp_path / "set")
    for file in (tmp_path / "files").iterdir():
        file.unlink()
    source = read(tmp_path / "set")
    loaded = datasets.load_from_disk(tmp_path / "set")["train"]
    assert source.train.labels.tolist() == list(loaded["label"])
    expected = np.stack([np.asarray(image) for image in loaded["image"]])
    assert np.array_equal(source.train.images.permute(0, 2, 3, 1).numpy(), expected)


def test_splits_and_columns_are_chosen_by_name(saved):
    source = read(saved, test_split="extra")
    assert len(source.test) == 2
    with pytest.raises(
        InputError, match=r"no split 'dev'; set test_split to one of: train, test, extra"
    ):
        read(saved, test_split="dev")
    with pytest.raises(InputError, match="is both train_split and test_split"):
        read(saved, test_split="train")
    with pytest.raises(
        InputError, match=r"no column 'photo'; set image_column to one of: image, label"
    ):
        read(saved, image_column="photo")


def test_a_single_split_is_refused_with_the_remedy(tmp_path):
    make_split(4, 0).save_to_disk(tmp_path / "one")
    with pytest.raises(
        InputError, match=r"contains one split; write a DatasetDict.*train_test_split"
    ):
        read(tmp_path / "one")
    with pytest.raises(InputError, match=r"has no dataset_dict\.json"):
        read(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut", "text"])
def test_damaged_files_are_named(saved, damage):
    file = saved / "train" / "data-00001-of-00003.arrow"
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes({"cut": content[: len(content) // 2], "text": b"label\n"}[damage])
    message = (
        "is missing; copy the whole folder" if damage == "missing" else "can't be read as an Arrow"
    )
    with pytest.raises(InputError, match=rf"data-00001-of-00003\.arrow {message}"):
        read(saved)


def test_names_cannot_lead_out_of_the_folder(saved):
    outside = saved.parent / "outside.arrow"
    (saved / "test" / "data-00000-of-00001.arrow").rename(outside)
    state = saved / "test" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../../outside.arrow"}]}))
    with pytest.raises(InputError, match=r"state\.json: names no data files"):
        read(saved)
    (saved / "dataset_dict.json").write_text('{"splits": ["train", "../set/test"]}')
    with pytest.raises(InputError, match=r"not a list of folder names"):
        read(saved)
