"""Parquet files are read with labels and class names, and unusable ones are refused."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.decoding import decode
from stitch_sweep.data.loading import load
from tests.support.image_files import (
    data_settings,
    encoded,
    pixels,
    read_parquet,
    write_parquet,
)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("image", "label"), [("img", "label"), ("image", "fine_label"), ("image", "labels")]
)
def test_parquet_reads_shards_in_sorted_order(tmp_path, image, label, plain):
    columns = {"image": image, "label": label, "plain": plain}
    second = write_parquet(tmp_path / "train-00001.parquet", [1, 0], seed=10, **columns)
    first = write_parquet(tmp_path / "train-00000.parquet", [0, 1, 1], **columns)
    write_parquet(tmp_path / "test-00000.parquet", [0, 1], seed=20, **columns)
    for path in (tmp_path, tmp_path / "*.parquet", tmp_path.parent / f"{tmp_path.name}*"):
        source = read_parquet(path)
        assert source.train.labels.tolist() == [0, 1, 1, 1, 0]
        assert source.classes == ("0", "1")
        assert torch.equal(
            source.train.images, torch.stack(decode([("", c) for c in first + second], None))
        )


def test_parquet_takes_class_names_from_the_metadata_and_columns_by_name(tmp_path):
    columns = {"image": "photo", "label": "kind", "names": ["cat", "dog"]}
    write_parquet(tmp_path / "train.parquet", [0, 1], **columns)
    write_parquet(tmp_path / "test.parquet", [1, 1], **columns)
    source = read_parquet(tmp_path, image_column="photo", label_column="kind")
    assert source.classes == ("cat", "dog")


def test_a_missing_column_is_refused_with_the_columns_there_are(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1], image="photo")
    write_parquet(tmp_path / "test.parquet", [0, 1], image="photo")
    with pytest.raises(InputError, match=r"no column 'image' or 'img'.*image_column.*photo, label"):
        read_parquet(tmp_path)
    with pytest.raises(InputError, match=r"no column 'kind'; set label_column.*photo, label"):
        read_parquet(tmp_path, image_column="photo", label_column="kind")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", "dog"], "'label' are of type string; allowed: integers"),
        ([0.0, 1.0], "'label' are of type double; allowed: integers"),
        (pa.array([0, None], pa.int64()), "row 1: column 'label' has no label"),
        ([1, 2], "2 values from 1 to 2; allowed without class names: 0 to 1"),
        (pa.array([0, 2**64 - 1], pa.uint64()), "can't be read as a parquet file"),
        (pa.array([], pa.int64()), "train files have no rows"),
    ],
)
def test_wrong_labels_are_refused(tmp_path, labels, message):
    write_parquet(tmp_path / "train.parquet", labels)
    write_parquet(tmp_path / "test.parquet", [0, 1])
    with pytest.raises(InputError, match=message):
        read_parquet(tmp_path)


@pytest.mark.parametrize(
    ("train", "test", "names", "message"),
    [
        ([0, 1] * 5, [0, 2], None, r"test\.parquet, row 1: label 2; allowed: 0 to 1$"),
        (
            [0, 1] * 5,
            [0, -1],
            None,
            r"test\.parquet, row 1: label -1; allowed: 0 to 1; -1 stands for a hidden label",
        ),
        ([0, 3] * 5, [0, 1], ["a", "b", "c"], r"train\.parquet, row 1: label 3; allowed: 0 to 2"),
        ([0, 1] * 5, [0, 2], ["a", "b", "c"], "class 'c' has no training image"),
    ],
)
def test_labels_that_do_not_fit_the_classes_are_refused(tmp_path, train, test, names, message):
    write_parquet(tmp_path / "train.parquet", train, names=names)
    write_parquet(tmp_path / "test.parquet", test, names=names)
    with pytest.raises(InputError, match=message):
        load(data_settings("parquet", {"path": str(tmp_path)}))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "body"])
def test_a_file_that_is_not_parquet_is_named(tmp_path, damage):
    write_parquet(tmp_path / "train.parquet", [0, 1])
    write_parquet(tmp_path / "test.parquet", [0, 1])
    file = tmp_path / "test.parquet"
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "text": b"label,img\n",
            "body": content[:4] + bytes(60) + content[64:],
        }[damage]
    )
    with pytest.raises(InputError, match=r"test\.parquet can't be read as a parquet file"):
        read_parquet(tmp_path)


def test_wrong_images_in_parquet_are_named(tmp_path):
    write_parquet(tmp_path / "test.parquet", [0, 1])
    good = encoded(pixels(4, 4, 3))
    write_parquet(tmp_path / "train.parquet", [0, 1], content=[good, good[:40]])
    with pytest.raises(InputError, match=r"train\.parquet, row 1 is not an image"):
        read_parquet(tmp_path)
    write_parquet(tmp_path / "train.parquet", [0, 1], content=[good, None])
    with pytest.raises(InputError, match=r"train\.parquet, row 1: column 'img' has no image bytes"):
        read_parquet(tmp_path)
    pq.write_table(pa.table({"img": ["a.png"], "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"'img' is of type string; allowed: a struct"):
        read_parquet(tmp_path)


def test_a_parquet_path_without_data_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none does not exist, is empty or matches nothing"):
        read_parquet(tmp_path / "none")
    with pytest.raises(InputError, match=r"\*\.parquet does not exist"):
        read_parquet(tmp_path / "*.parquet")
    with pytest.raises(InputError, match="is empty"):
        read_parquet(tmp_path)
    write_parquet(tmp_path / "train.parquet", [0, 1])
    with pytest.raises(
        InputError, match=r"no file is named test\*\.parquet or test/.*: train\.parquet"
    ):
        read_parquet(tmp_path)
