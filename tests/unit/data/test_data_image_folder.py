"""A folder of images is read in sorted order, and an unusable one is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from tests.support.image_files import (
    load_folder,
    pixels,
    write_folder,
)


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


def test_grayscale_folders_stay_grayscale_and_mixed_ones_become_rgb(tmp_path):
    write_folder(tmp_path, shape=(6, 6))
    assert load_folder(tmp_path).channels == 1
    gray = load_folder(tmp_path).test.images
    Image.fromarray(pixels(6, 6, 3)).save(tmp_path / "train" / "dog" / "color.png")
    mixed = load_folder(tmp_path)
    assert mixed.channels == 3
    assert torch.equal(mixed.test.images, gray.expand(-1, 3, -1, -1))


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
