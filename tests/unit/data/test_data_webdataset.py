"""WebDataset archives are read; the library `webdataset` writes them and is the oracle."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.sources.base import Source
from tests.support.image_files import encoded, pixels


def read(path: Path | str, **options: object) -> Source:
    source: Source = DATASETS.build("webdataset", None, options={"path": str(path), **options})
    return source


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_shard(file: Path, labels: list[int], seed: int = 0, image: str = "png") -> None:
    """Write an archive with one image and one label a sample."""
    file.parent.mkdir(exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for k, label in enumerate(labels):
            add(archive, f"{k:04}.{image}", encoded(pixels(6, 6, 3, seed=seed + k)))
            add(archive, f"{k:04}.cls", str(label).encode())


def write_set(folder: Path) -> None:
    write_shard(folder / "train-000.tar", [0, 1, 2, 0])
    write_shard(folder / "train-001.tar", [1, 2, 0], seed=10)
    write_shard(folder / "test-000.tar", [2, 1, 0], seed=20)


def test_archives_of_the_library_are_read_as_it_reads_them(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    for split, count in (("train", 9), ("test", 4)):
        pattern = str(tmp_path / f"{split}-%03d.tar")
        with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as writer:
            for k in range(count):
                writer.write(
                    {
                        "__key__": f"folder/{k:05}",
                        "png": pixels(6, 6, 3, seed=count * 100 + k),
                        "cls": k % 3,
                        "json": {"number": k},
                    }
                )
    source = read(tmp_path)
    for images, last in ((source.train, 2), (source.test, 1)):
        split = "train" if images is source.train else "test"
        urls = str(tmp_path / f"{split}-{{000..{last:03}}}.tar")
        pairs = list(
            webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
        )
        expected = np.stack([image for image, _ in pairs])
        assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), expected)
        assert images.labels.tolist() == [label for _, label in pairs]


@pytest.mark.parametrize(
    "pattern", ["", "*.tar", "{train-{000..001},test-000}.tar", "{train,test}-*.tar"]
)
def test_patterns_name_the_same_images(tmp_path, pattern):
    write_set(tmp_path)
    if "{train-" in pattern:  # braces aren't nested
        pattern = "t{rain-000,rain-001,est-000}.tar"
    source = read(tmp_path / pattern)
    assert source.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert source.test.labels.tolist() == [2, 1, 0]
    first = source.train.images[4].permute(1, 2, 0).numpy()
    assert np.array_equal(first, pixels(6, 6, 3, seed=10))


def test_a_missing_archive_is_named(tmp_path):
    write_set(tmp_path)
    with pytest.raises(InputError, match=r"train-002\.tar does not exist"):
        read(tmp_path / "{train-000,train-001,train-002,test-000}.tar")
    write_shard(tmp_path / "train-003.tar", [0, 1])
    with pytest.raises(
        InputError, match=r"files before train-003\.tar are missing: train-002\.tar"
    ):
        read(tmp_path)
    with pytest.raises(InputError, match="stands for more than"):
        read(tmp_path / "{0..9999}{0..9999}.tar")


def test_keys_are_chosen(tmp_path):
    for file in ("train-0.tar", "test-0.tar"):
        with tarfile.open(tmp_path / file, "w") as archive:
            for k in range(2):
                add(archive, f"{k}.left.png", encoded(pixels(6, 6, 3, seed=k)))
                add(archive, f"{k}.right.png", encoded(pixels(6, 6, 3, seed=k + len(file))))
                add(archive, f"{k}.kind", b"%d\n" % k)
                add(archive, f"._{k}.png", b"a Mac's note")
    with pytest.raises(
        InputError, match=r"sample 0: has 2 images; set image_key to one of: left\.png"
    ):
        read(tmp_path)
    with pytest.raises(
        InputError, match=r"no file for 'cls'; set label_key to one of: left\.png.*kind"
    ):
        read(tmp_path, image_key="left.png")
    source = read(tmp_path, image_key="left.png", label_key="kind")
    assert np.array_equal(source.train.images[1].permute(1, 2, 0).numpy(), pixels(6, 6, 3, seed=1))


@pytest.mark.parametrize("label", [b"", b"cat", b"1.0", b"\xff", pickle.dumps(1), b"9" * 30])
def test_a_label_that_is_no_whole_number_is_refused(tmp_path, label):
    write_set(tmp_path)
    with tarfile.open(tmp_path / "test-000.tar", "a") as archive:
        add(archive, "last.png", encoded(pixels(6, 6, 3)))
        add(archive, "last.cls", label)
    with pytest.raises(
        InputError, match=r"sample last\.cls: the label is .*allowed: a whole number"
    ):
        read(tmp_path)


def test_wrong_samples_are_named(tmp_path):
    write_set(tmp_path)
    with tarfile.open(tmp_path / "test-000.tar", "a") as archive:
        add(archive, "0001.txt", b"comes too late")
    with pytest.raises(InputError, match=r"test-000\.tar, sample 0001: .*do not follow each other"):
        read(tmp_path)
    write_shard(tmp_path / "test-000.tar", [0, 1], image="txt")
    with pytest.raises(InputError, match="sample 0000: has no file for an image"):
        read(tmp_path)
    write_shard(tmp_path / "test-000.tar", [0, 7])
    with pytest.raises(InputError, match=r"test-000\.tar, 0001\.png: label 7; allowed: 0 to 2"):
        read(tmp_path)
    with tarfile.open(tmp_path / "test-000.tar", "w") as archive:
        add(archive, "a.png", b"no image")
        add(archive, "a.cls", b"0")
    with pytest.raises(InputError, match=r"test-000\.tar, a\.png is not an image"):
        read(tmp_path)


def test_links_and_compressed_archives_are_refused(tmp_path):
    write_set(tmp_path)
    file = tmp_path / "test-000.tar"
    plain = file.read_bytes()
    with tarfile.open(file, "a") as archive:
        link = tarfile.TarInfo("9.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(InputError, match=r"9\.png is a link or a device"):
        read(tmp_path)
    for content in (b"", b"label\n" * 200, plain[: len(plain) // 3]):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"test-000\.tar can't be read as an uncompressed tar"):
            read(tmp_path)
    with tarfile.open(file, "w:gz") as archive:
        add(archive, "a.png", encoded(pixels(6, 6, 3)))
    with pytest.raises(InputError, match="can't be read as an uncompressed tar"):
        read(tmp_path)
