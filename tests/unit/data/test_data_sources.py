"""Every data set is read as its files say, and unusable files are refused by name."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.decoding import decode
from stitch_sweep.data.images import Images, channel_statistics
from stitch_sweep.data.loading import load
from tests.support.image_files import (
    data_settings,
    encoded,
    load_folder,
    pixels,
    read_parquet,
    write_folder,
    write_parquet,
)


def rows_of(images: Images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


# digits


def test_digits_are_the_bundled_ones_with_a_quarter_for_the_test():
    data = load(data_settings("digits"))
    assert data.image_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.validation), len(data.test)) == (1213, 135, 449)
    assert data.train.images.max() == 255
    assert data.train.images.min() == 0
    per_class = torch.bincount(data.test.labels) / 449
    assert ((per_class - 0.1).abs() < 0.005).all()


def test_digits_have_no_image_in_two_splits_and_the_test_set_ignores_the_split_seed():
    one, other = load(data_settings("digits")), load(data_settings("digits", split_seed=1))
    assert torch.equal(one.test.images, other.test.images)
    assert rows_of(one.train) != rows_of(other.train)
    assert rows_of(one.train) | rows_of(one.validation) == rows_of(other.train) | rows_of(
        other.validation
    )
    # The bundled set has no two equal images, so equal content would mean the same image.
    assert len(rows_of(one.train) | rows_of(one.validation) | rows_of(one.test)) == 1797


def test_resizing_gives_the_size_and_keeps_brightness():
    small, large = load(data_settings("digits")), load(data_settings("digits", image_size=16))
    assert large.image_shape == (1, 16, 16)
    assert large.image_size == 16
    assert torch.equal(small.train.labels, large.train.labels)
    assert abs(small.mean - large.mean) < 0.01


# loading: splits, subsets, statistics, fingerprint


def test_the_validation_cut_does_not_depend_on_the_training_subset():
    full = load(data_settings("digits"))
    for train_images in (10, 300, 1213):
        part = load(data_settings("digits", train_images=train_images))
        assert len(part.train) == train_images
        assert rows_of(part.train) <= rows_of(full.train)
        assert rows_of(part.validation) <= rows_of(full.validation)
    assert len(load(data_settings("digits", train_images=300)).validation) == 33
    assert len(load(data_settings("digits", train_images=1213)).validation) == 135


def test_subsets_keep_the_proportions_of_the_classes():
    data = load(data_settings("digits", train_images=400, test_images=100))
    full = load(data_settings("digits"))
    for part, whole in ((data.train, full.train), (data.test, full.test)):
        exact = torch.bincount(whole.labels) * len(part) / len(whole)
        assert ((torch.bincount(part.labels) - exact).abs() < 1).all()
    assert rows_of(data.test) <= rows_of(full.test)


def test_statistics_ignore_subsets_and_split_seeds():
    full = load(data_settings("digits"))
    part = load(data_settings("digits", train_images=50, split_seed=3, test_images=20))
    assert torch.equal(full.mean, part.mean)
    assert torch.equal(full.std, part.std)


def test_statistics_are_those_of_the_pixels():
    images = torch.from_numpy(pixels(7, 3, 5, 5))
    images[:, 2] = 9
    mean, std = channel_statistics(images)
    scaled = images.double() / 255
    torch.testing.assert_close(mean, scaled.mean((0, 2, 3)).float())
    torch.testing.assert_close(std[:2], scaled[:, :2].std((0, 2, 3), correction=0).float())
    assert std[2] == 1


def test_the_fingerprint_is_a_function_of_the_content():
    fingerprints = [
        load(data_settings("digits", **changes)).fingerprint
        for changes in (
            {},
            {"split_seed": 1},
            {"val_fraction": 0.2},
            {"train_images": 1000},
            {"test_images": 100},
            {"image_size": 10},
        )
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert load(data_settings("digits")).fingerprint == fingerprints[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_fraction": 1.5}, "data.val_fraction is 1.5; allowed"),
        ({"train_images": 1214}, "data.train_images is 1214; allowed: 10 .* to 1213"),
        ({"train_images": 9}, "data.train_images is 9; allowed: 10"),
        ({"test_images": 450}, "data.test_images is 450; allowed: 10 .* to 449"),
    ],
)
def test_sizes_out_of_range_are_refused_with_the_range(changes, message):
    with pytest.raises(InputError, match=message):
        load(data_settings("digits", **changes))


def test_an_unknown_data_set_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"'cifar12'.*did you mean 'cifar10'"):
        load(data_settings("cifar12"))


def test_images_check_their_tensors():
    good = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="uint8"):
        Images(good.float(), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"int64 \[2\]"):
        Images(good, torch.zeros(3, dtype=torch.int64))


# decoding


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [11, 90])  # decoded by one thread and by several
def test_lossless_formats_give_back_their_pixels(kind, size):
    colour = pixels(9, size, 3)
    buffer = io.BytesIO()
    Image.fromarray(colour).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    (tensor,) = decode([("", buffer.getvalue())], None)
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), colour)


def test_grey_stays_grey_and_transparency_is_dropped():
    with_alpha, grey_with_alpha, grey = pixels(9, 11, 4), pixels(9, 11, 2), pixels(9, 11)
    palette = io.BytesIO()
    Image.fromarray(grey).convert("P").save(palette, "PNG")
    contents = [encoded(grey), encoded(grey_with_alpha), encoded(with_alpha), palette.getvalue()]
    one, two, three, four = decode([("", content) for content in contents], None)
    assert np.array_equal(one.numpy(), grey[None])
    assert np.array_equal(two.numpy(), grey_with_alpha[None, :, :, 0])
    assert np.array_equal(three.permute(1, 2, 0).numpy(), with_alpha[:, :, :3])
    assert np.array_equal(four.numpy(), np.stack([grey] * 3))


@pytest.mark.parametrize(("shape", "channels"), [((16, 16), 1), ((16, 16, 3), 3)])
def test_jpeg_is_close_to_its_pixels(shape, channels):
    smooth = (np.indices(shape).sum(0) * 4).astype(np.uint8)
    (tensor,) = decode([("", encoded(smooth, "JPEG"))], None)
    assert tensor.shape == (channels, 16, 16)
    expected = smooth.reshape(16, 16, channels).transpose(2, 0, 1)
    assert np.abs(tensor.numpy().astype(int) - expected).max() < 16


def test_pixels_without_a_fixed_range_are_refused():
    with pytest.raises(InputError, match=r"floats is not an image .* mode F have no fixed range"):
        decode([("floats", encoded(np.zeros((4, 4), np.float32), "TIFF"))], None)


def test_sixteen_bits_become_eight():
    deep = pixels(4, 4).astype(np.uint16) * 256 + 7
    (tensor,) = decode([("deep", encoded(deep))], None)
    assert np.array_equal(tensor[0].numpy(), pixels(4, 4))


def test_many_images_come_back_in_order():
    content = [(str(k), encoded(np.full((2, 2), k % 256, np.uint8))) for k in range(1000)]
    assert [int(t[0, 0, 0]) for t in decode(content, None)] == [k % 256 for k in range(1000)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_broken_image_is_named(kind, damage):
    content = encoded(pixels(32, 32, 3), kind)
    broken = {"cut": content[: len(content) // 2], "empty": b"", "text": b"hello"}[damage]
    with pytest.raises(InputError, match=r"^the third is not an image that can be read"):
        decode([("first", content), ("second", content), ("the third", broken)], None)


# image_folder


def test_image_folder_reads_classes_and_files_in_sorted_order(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    source = DATASETS.build("image_folder", None, options={"path": str(tmp_path)})
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0] * 4 + [1] * 4
    assert source.test.labels.tolist() == [0, 0, 1, 1]
    files = [tmp_path / "train" / c / f"{k}.png" for c in ("cat", "dog") for k in range(4)]
    for image, file in zip(source.train.images, files, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.array(Image.open(file)))
    assert load_folder(tmp_path).image_shape == (3, 6, 6)


def test_grey_folders_stay_grey_and_mixed_ones_become_rgb(tmp_path):
    write_folder(tmp_path, shape=(6, 6))
    assert load_folder(tmp_path).channels == 1
    grey = load_folder(tmp_path).test.images
    Image.fromarray(pixels(6, 6, 3)).save(tmp_path / "train" / "dog" / "colour.png")
    mixed = load_folder(tmp_path)
    assert mixed.channels == 3
    assert torch.equal(mixed.test.images, grey.expand(-1, 3, -1, -1))


def test_images_of_several_sizes_need_image_size(tmp_path):
    write_folder(tmp_path)
    Image.fromarray(pixels(9, 12, 3)).save(tmp_path / "test" / "dog" / "wide.png")
    with pytest.raises(InputError, match=r"2 different sizes .*6x6 to 9x12; set data.image_size"):
        load_folder(tmp_path)
    assert load_folder(tmp_path, image_size=8).image_shape == (3, 8, 8)


def test_oblong_images_need_image_size(tmp_path):
    write_folder(tmp_path, shape=(6, 4, 3))
    with pytest.raises(InputError, match=r"6x4 .*not square; set data.image_size"):
        load_folder(tmp_path)
    assert load_folder(tmp_path, image_size=6).image_shape == (3, 6, 6)


def break_nothing_there(root):
    shutil.rmtree(root)
    return f"{root} is not a folder"


def break_no_test(root):
    shutil.rmtree(root / "test")
    return "test is not a folder; expected train/<class>"


def break_no_classes(root):
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    return "train has no class folders"


def break_empty_class(root):
    (root / "train" / "emu").mkdir()
    return "train/emu has no image files"


def break_class_in_test_only(root):
    shutil.copytree(root / "test" / "cat", root / "test" / "emu")
    return "test has the class 'emu', which train lacks; allowed: cat, dog"


def break_an_image(root):
    (root / "test" / "dog" / "1.png").write_bytes(b"\x89PNG broken")
    return r"test/dog/1\.png is not an image"


def break_one_class(root):
    shutil.rmtree(root / "train" / "dog")
    shutil.rmtree(root / "test" / "dog")
    return "there is one class"


@pytest.mark.parametrize(
    "damage",
    [
        break_nothing_there,
        break_no_test,
        break_no_classes,
        break_empty_class,
        break_class_in_test_only,
        break_an_image,
        break_one_class,
    ],
)
def test_a_wrong_image_folder_is_refused(tmp_path, damage):
    root = tmp_path / "pets"
    write_folder(root)
    with pytest.raises(InputError, match=damage(root)):
        load_folder(root)


# parquet


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


# torchvision


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
    """Small files in the original's format; only their checksums are put in torchvision's list."""
    known = getattr(torchvision.datasets, dataset)
    (tmp_path / folder).mkdir()

    def write(file: str, content: dict) -> str:
        data = pickle.dumps(content)
        (tmp_path / folder / file).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    batches = {}
    for attribute in ("train_list", "test_list"):
        listed = []
        for file, _ in getattr(known, attribute):
            batch = pixels(10, 3072, seed=len(batches))
            batches[file] = batch
            listed.append([file, write(file, {"data": batch, key: list(range(10))})])
        monkeypatch.setattr(known, attribute, listed)
    names = [f"class {c}" for c in range(10)]
    meta = {**known.meta, "md5": write(known.meta["filename"], {known.meta["key"]: names})}
    monkeypatch.setattr(known, "meta", meta)

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
