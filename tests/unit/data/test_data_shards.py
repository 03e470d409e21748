"""Parquet files: a split has all of its files, and a label means the same class in each of them."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.sources import shard_files
from tests.support.image_files import encoded, pixels, read_parquet, write_parquet

PETS = ["cat", "dog"]


def write(file: Path, labels=(0, 1), seed: int | None = None, **options) -> list[bytes]:
    """Write a file whose images differ from those of files with other names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(file.name))) * 100 if seed is None else seed
    return write_parquet(file, list(labels), seed=seed, **options)


def refusal(path: Path | str, **options) -> str:
    with pytest.raises(InputError) as refused:
        read_parquet(path, **options)
    return str(refused.value)


# Class names


@pytest.mark.parametrize(
    ("file", "names", "expected"),
    [
        ("test.parquet", PETS[::-1], "label 0 is class 'dog', in train-0.parquet it is 'cat'"),
        ("train-1.parquet", PETS[::-1], "label 0 is class 'dog', in train-0.parquet it is 'cat'"),
        (
            "train-1.parquet",
            ["cat", "emu"],
            "label 1 is class 'emu', in train-0.parquet it is 'dog'",
        ),
        ("test.parquet", [*PETS, "emu"], "has 3 class names, train-0.parquet has 2"),
    ],
)
def test_other_class_names_in_another_file_are_refused(tmp_path, file, names, expected):
    for name in ("train-0.parquet", "train-1.parquet", "test.parquet"):
        write(tmp_path / name, names=names if name == file else PETS)
    message = refusal(tmp_path)
    assert message.startswith(str(tmp_path / file))
    assert expected in message.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("file", ["train-0.parquet", "test.parquet"])
def test_a_file_without_class_names_has_those_of_the_others(tmp_path, file):
    for name in ("train-0.parquet", "train-1.parquet", "test.parquet"):
        write(tmp_path / name, names=None if name == file else PETS)
    assert read_parquet(tmp_path).classes == ("cat", "dog")
    write(tmp_path / file, [0, 2])
    assert f"{tmp_path / file}, row 1: label 2; allowed: 0 to 1" in refusal(tmp_path)


def test_class_names_in_another_unicode_form_are_the_same_and_noted(tmp_path):
    for name, form in (("train", "NFC"), ("test", "NFD")):
        write(tmp_path / f"{name}.parquet", names=[unicodedata.normalize(form, "Zébu"), "cat"])
    (note,) = read_parquet(tmp_path).notes
    assert "class names of test.parquet are those of train.parquet in another Unicode form" in note


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("[" * 100_000, "is JSON that is nested too deeply"),
        ("{", "is not valid JSON"),
        ({"info": {"features": {"label": {"names": "ab"}}}}, "are not a list of strings"),
        ({"info": {"features": {"label": {"names": [1, 2]}}}}, "are not a list of strings"),
    ],
)
def test_metadata_without_usable_names_is_refused(tmp_path, metadata, expected):
    write(tmp_path / "train.parquet")
    write(tmp_path / "test.parquet")
    table = pq.read_table(tmp_path / "test.parquet")
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), tmp_path / "test.parquet")
    message = refusal(tmp_path)
    assert f"{tmp_path / 'test.parquet'}: its" in message
    assert expected in message


def test_hidden_labels_are_refused_with_what_they_mean(tmp_path):
    write(tmp_path / "train.parquet", names=PETS)
    write(tmp_path / "test.parquet", [-1, -1], names=PETS)
    assert refusal(tmp_path) == (
        f"{tmp_path / 'test.parquet'}, row 0: label -1; allowed: 0 to 1; -1 stands for a hidden "
        "label: use a file with labels"
    )
    write(tmp_path / "train.parquet", [-1, 0])
    assert f"{tmp_path / 'train.parquet'}, row 0: label -1" in refusal(tmp_path)


def test_files_with_different_columns_are_refused(tmp_path):
    write(tmp_path / "train.parquet", label="fine_label")
    write(tmp_path / "test.parquet", label="labels")
    message = refusal(tmp_path)
    assert "test.parquet has its images and labels in the columns img and labels" in message
    assert "train.parquet in img and fine_label; set image_column and label_column" in message


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    write(tmp_path / "test.parquet")
    images = pa.array([encoded(pixels(4, 4, 3))])
    table = pa.Table.from_arrays([images, images, pa.array([0])], names=["img", "img", "label"])
    pq.write_table(table, tmp_path / "train.parquet")
    assert "has several columns named 'img'; set image_column" in refusal(tmp_path)


# Numbered files


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["train-00000-of-00002"],
            "1 of 2 files are missing: train-00001-of-00002.parquet",
        ),
        (
            ["train-00000-of-00009", "train-00008-of-00009"],
            "7 of 9 files are missing: train-00001-of-00009.parquet, train-00002-of-00009.parquet, "
            "train-00003-of-00009.parquet, train-00004-of-00009.parquet, "
            "train-00005-of-00009.parquet and more",
        ),
        (
            ["train-00001-of-00002-a09b74b3ef9c3b56"],
            "1 of 2 files are missing: train-00000-of-00002.parquet",
        ),
        (
            ["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
            "belong to different sets of files; keep one set",
        ),
        (
            ["train-00000-of-00001", "train-00000-of-00001-a09b74b3ef9c3b56"],
            "have the same number; keep one",
        ),
        (
            ["train-00000-of-00001", "train-00000-of-00001 (1)"],
            "train-00000-of-00001 (1).parquet beside",
        ),
        (["train-00000-of-00001", "train"], "train.parquet beside train-00000-of-00001.parquet"),
        (["train-00001-of-00001"], "the number is too high; files are counted from 0"),
        (["train-0", "train-2"], "files before train-2.parquet are missing: train-1.parquet"),
        (
            ["train_001", "train_009"],
            "missing: train_002.parquet, train_003.parquet, train_004.parquet and",
        ),
        (["train/0000", "train/0002"], "files before 0002.parquet are missing: 0001.parquet"),
        (["train/0001"], "files before 0001.parquet are missing: 0000.parquet"),
        (["train-0-of-99999999999999999999"], "files are missing: train-1-of-99999999999999999999"),
        (
            ["train-0", "train-99999999999999999999"],
            "files before train-99999999999999999999.parquet",
        ),
        (["partial-train/0000"], "partial-train contains only the first part of the train split"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_incomplete_set_of_files_is_refused(tmp_path, names, expected, split):
    other = "test" if split == "train" else "train"
    for k, name in enumerate(names):
        write(tmp_path / f"{name.replace('train', split)}.parquet", seed=100 * k)
    write(tmp_path / other / "0000.parquet")
    assert expected.replace("train", split) in refusal(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002", "train-00001-of-00002"],
        ["train-00000-of-00002-a09b74b3ef9c3b56", "train-00001-of-00002-00ff74b3ef9c3b56"],
        ["train-0", "train-1"],
        ["train_01", "train_02"],
        ["train-2019", "train-2021"],
        ["train-a", "train-b"],
        ["train/0000", "train/0001"],
        ["train/0", "train/1"],
        ["train/train-0", "train/train-1"],
    ],
)
def test_a_complete_set_of_files_is_read_in_order(tmp_path, names):
    for k, name in enumerate(names):
        write(tmp_path / f"{name}.parquet", [k, 1 - k], seed=100 * k)
    write(tmp_path / "test.parquet")
    source = read_parquet(tmp_path)
    assert source.train.labels.tolist() == [0, 1, 1, 0]
    assert source.notes == ()


@pytest.mark.parametrize(
    "pattern", ["", "default", "default/*", "default/*/*.parquet", "**", "default/**"]
)
def test_the_hubs_converted_layout_is_read(tmp_path, pattern):
    """The layout is `CONFIG/SPLIT/0000.parquet`. A pattern may match a folder and its files."""
    for split, seed in (("train", 0), ("test", 50), ("validation", 70)):
        write(tmp_path / "default" / split / "0000.parquet", seed=seed)
    if not pattern:
        expected = "no file is named train*.parquet or train/0000.parquet; found: default"
        assert expected in refusal(tmp_path)
        return
    source = read_parquet(tmp_path / pattern)
    assert (len(source.train), len(source.test)) == (2, 2)
    (note,) = source.notes
    assert "files and folders that are neither train nor test are skipped: " in note
    assert "validation images are cut from the training images" in note


def test_the_part_of_a_split_is_refused_by_its_folder_and_by_a_pattern(tmp_path):
    write(tmp_path / "partial-train" / "0000.parquet")
    write(tmp_path / "test" / "0000.parquet")
    for path in (tmp_path, tmp_path / "*", tmp_path / "*" / "*.parquet"):
        assert "partial-train contains only the first part of the train split" in refusal(path)


def test_other_splits_are_left_out_with_a_note(tmp_path):
    for name in ("train", "test", "validation", "extra"):
        write(tmp_path / f"{name}.parquet")
    write(tmp_path / ".train.parquet")
    (note,) = read_parquet(tmp_path).notes
    assert "are skipped: extra.parquet, validation.parquet; validation images are cut" in note


@pytest.mark.parametrize("make", [shutil.copy, os.link, os.symlink])
def test_a_file_that_is_there_twice_is_refused(tmp_path, make):
    write(tmp_path / "train.parquet")
    write(tmp_path / "test.parquet")
    make(tmp_path / "train.parquet", tmp_path / "train (1).parquet")
    assert "train (1).parquet and train.parquet have the same content; remove one" in refusal(
        tmp_path
    )


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda path: path.symlink_to("/gone"),
            "is a symbolic link to /gone, which does not exist",
        ),
        (os.mkfifo, "is not a regular file"),
        (os.mkdir, "is a folder"),
    ],
)
def test_a_path_that_is_not_a_file_is_named(tmp_path, make, expected):
    write(tmp_path / "train.parquet")
    write(tmp_path / "test.parquet")
    make(tmp_path / "train-more.parquet")
    assert f"{tmp_path / 'train-more.parquet'} {expected}" in refusal(tmp_path)


def test_a_pattern_that_matches_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "MAX_MATCHES", 3)
    for k in range(4):
        write(tmp_path / f"train-{k}.parquet")
    assert "matches more than 3 files and folders" in refusal(tmp_path / "**")


# Column types


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
@pytest.mark.parametrize("struct", [False, True])
def test_bytes_of_every_arrow_type_are_read(tmp_path, kind, struct):
    content = [encoded(pixels(4, 4, 3, seed=k)) for k in range(2)]
    images = pa.array(content, kind)
    if struct:
        paths = pa.array(["a.png", None], pa.string_view())
        images = pa.StructArray.from_arrays([images, paths], names=["bytes", "path"])
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / f"{split}.parquet")
    source = read_parquet(tmp_path)
    assert torch.equal(source.train.images[0].permute(1, 2, 0), torch.tensor(pixels(4, 4, 3)))
