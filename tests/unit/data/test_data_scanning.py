"""Every image below a folder is read, noted as skipped, or refused by name."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.decoding import decode
from stitch_sweep.data.images import Data
from tests.support.image_files import encoded, load_folder, pixels, write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folder(tmp_path / "pets")
    return tmp_path / "pets"


def add(path: Path, seed: int = 999) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels(6, 6, 3, seed=seed)))
    return path


def files(data: Data) -> set[str]:
    return {name for split in (data.train, data.validation, data.test) for name in split.files}


def test_a_folder_of_images_alone_gives_no_notes(root):
    assert load_folder(root).notes == ()


# Copies and hidden files


@pytest.mark.parametrize(
    ("copy", "place"),
    [
        ("train/cat/.ipynb_checkpoints/0-checkpoint.png", "train/cat/.ipynb_checkpoints"),
        ("train/cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "train/cat/@eaDir"),
        ("train/cat/more/.git/0.png", "train/cat/more/.git"),
        ("train/cat/#recycle/0.png", "train/cat/#recycle"),
        ("test/dog/__MACOSX/0.png", "test/dog/__MACOSX"),
        ("test/dog/.hidden.png", "test/dog/.*"),
        ("test/dog/._0.png", "test/dog/.*"),
        ("test/.cat/0.png", "test/.cat"),
        ("train/.thumbnails/large/0.png", "train/.thumbnails"),
        ("train/__MACOSX/cat/0.png", "train/__MACOSX"),
        ("train/$RECYCLE.BIN/0.png", "train/$RECYCLE.BIN"),
        ("train/lost+found/0.png", "train/lost+found"),
    ],
)
def test_hidden_images_and_other_tools_copies_are_left_out_and_counted(root, copy, place):
    clean = load_folder(root)
    add(root / copy)
    data = load_folder(root)
    assert data.fingerprint == clean.fingerprint
    assert data.classes == clean.classes
    (note,) = data.notes
    assert "images skipped because they are hidden, or in a folder where another tool" in note
    assert note.endswith(f"keeps copies: 1 ({place}: 1)")


def test_hidden_files_without_images_are_not_noted(root):
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "train" / ".git").mkdir()
    (root / "train" / "cat" / ".#0.png").symlink_to("user@host.1234")  # an editor's lock
    (root / "train" / "cat" / ".all").symlink_to("/")  # not walked through
    assert load_folder(root).notes == ()


def test_the_folders_above_the_data_set_may_be_hidden(tmp_path):
    root = tmp_path / ".cache" / "__MACOSX"
    root.mkdir(parents=True)
    write_folder(root)
    assert len(files(load_folder(root))) == 12


# Links, pipes and other entries that are not files


def link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        (
            "train/cat/x.png",
            link("/gone/x.png"),
            "is a symbolic link to /gone/x.png, which does not",
        ),
        ("test/dog/more", link("../gone"), "is a symbolic link to ../gone, which does not exist"),
        ("train/emu", link("/gone/emu"), "is a symbolic link to /gone/emu, which does not exist"),
        ("train/cat/x.png", link("x.png"), "cannot be read (Too many levels of symbolic links)"),
        ("train/cat/x.png", os.mkfifo, "is not a regular file"),
        ("train/cat/x.png", link("/dev/zero"), "is not a regular file"),
        ("train/cat/self", link("."), "is a symbolic link to a folder that contains it"),
        ("train/cat/up", link(".."), "is a symbolic link to a folder that contains it"),
        ("train/cat/top", link("/"), "is a symbolic link to a folder that contains it"),
        ("train/emu", link("../train"), "is a symbolic link to a folder that contains it"),
    ],
)
def test_a_link_or_a_pipe_that_gives_no_image_is_named(root, name, make, message):
    make(root / name)
    with pytest.raises(InputError) as refused:
        load_folder(root)
    assert f"{root / name} {message}" in str(refused.value)


def test_folders_that_link_to_each_other_are_refused(root):
    for one, other in ("ab", "ba"):
        (root / "train" / "cat" / one).mkdir()
        (root / "train" / "cat" / one / "next").symlink_to(f"../{other}")
    with pytest.raises(
        InputError, match="next/next is a symbolic link to a folder that contains it"
    ):
        load_folder(root)


def test_links_to_files_and_folders_are_followed(root, tmp_path):
    for k, name in enumerate(("1.png", "deep/2.png")):
        add(tmp_path / "store" / name, seed=k)
    (root / "train" / "cat" / "more").symlink_to(tmp_path / "store")
    (root / "train" / "emu").symlink_to(tmp_path / "store")
    (root / "train" / "dog" / "z.png").symlink_to(tmp_path / "store" / "1.png")
    read = files(load_folder(root))
    assert {"train/cat/more/1.png", "train/cat/more/deep/2.png", "train/dog/z.png"} <= read
    assert {"train/emu/1.png", "train/emu/deep/2.png"} <= read


def test_a_folder_with_the_name_of_an_image_is_a_folder(root):
    add(root / "train" / "cat" / "album.png" / "x.png")
    assert "train/cat/album.png/x.png" in files(load_folder(root))


def test_a_folder_that_cannot_be_opened_is_named(root, monkeypatch):
    """Simulates missing permission, because tests may run as root, who can open every folder."""
    locked = root / "train" / "cat" / "locked"
    locked.mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"locked cannot be read \(Permission denied\)"):
        load_folder(root)


def test_many_problems_are_counted_and_names_cannot_control_the_terminal(root):
    for k in range(12):
        (root / "test" / "cat" / f"\x1b[2J{k:02}.png").symlink_to("gone")
    with pytest.raises(InputError) as refused:
        load_folder(root)
    assert len(refused.value.problems) == 11
    assert refused.value.problems[-1] == "... and 2 more"
    assert "\x1b" not in str(refused.value)


# Skipped images are counted


def test_images_in_no_class_of_no_format_and_other_splits_are_noted(root):
    add(root / "train" / "stray.png")
    add(root / "val" / "cat" / "0.png")
    (root / "test" / "dog" / "phone.HEIC").write_bytes(b"x")
    (root / "test" / "dog" / "readme.txt").write_text("no image")
    notes = load_folder(root).notes
    assert [note.partition(f"{root}: ")[2] for note in notes] == [
        "images skipped because they are in no class folder: 1 (train: 1)",
        "images skipped because Pillow does not read their format: 1 (.heic: 1)",
        "folders other than train and test are skipped: val; validation images are taken from train: "
        "data.val_fraction sets their share",
    ]


def test_a_class_without_test_images_is_noted(root):
    for k in range(2):
        add(root / "train" / "emu" / f"{k}.png", seed=k)
    assert load_folder(root).notes == ("data set image_folder: no test image belongs to class emu",)


# Unicode


NFC, NFD = (unicodedata.normalize(form, "Zébu") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("train", "test"), [(NFC, NFD), (NFD, NFC)])
def test_a_class_in_two_unicode_forms_is_one_class(root, train, test):
    for split, name in (("train", train), ("test", test)):
        (root / split / "dog").rename(root / split / name)
    data = load_folder(root)
    assert data.classes == tuple(sorted(("cat", train)))
    assert data.test.labels.bincount().tolist() == [2, 2]
    (note,) = data.notes
    assert f"the class {NFC!r} is spelled in two Unicode forms in train and test" in note


def test_two_folders_of_one_name_in_two_unicode_forms_are_refused(root):
    for k, name in enumerate((NFC, NFD)):
        add(root / "train" / name / "0.png", seed=k)
    with pytest.raises(InputError, match="train has 2 folders named 'Zébu' that differ in Unicode"):
        load_folder(root)


# Images that can't be read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"it is empty$"),
        (b"<html>not found</html>", r"Pillow does not read its format$"),
        (encoded(pixels(64, 64, 3), "JPEG")[:900], r"image file is truncated"),
    ],
)
def test_an_unreadable_image_is_named_with_the_reason(root, content, message):
    (root / "train" / "dog" / "2.png").write_bytes(content)
    with pytest.raises(
        InputError, match=rf"dog/2\.png is not an image that can be read: .*{message}"
    ):
        load_folder(root)


@pytest.mark.filterwarnings("error")
def test_an_image_of_too_many_pixels_is_one_sentence(monkeypatch):
    content = encoded(pixels(6, 6, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert torch.equal(
        decode([("", content)], None)[0].permute(1, 2, 0), torch.tensor(pixels(6, 6, 3))
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(
        InputError, match=r"^a bomb is not an image .* more than 20 pixels, the largest"
    ):
        decode([("a bomb", content)], None)


def test_an_image_that_becomes_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(InputError, match="it is not a regular file"):
        decode([("x.png", tmp_path / "x.png")], None)
