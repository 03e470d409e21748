"""Images that occur twice are counted, named, and reported before anything is trained."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stitch_sweep.cli import main as cli
from stitch_sweep.config.root import Config
from stitch_sweep.core.splits import SPLITS
from stitch_sweep.data.duplicates import Duplicates, find_duplicates
from stitch_sweep.data.images import Data, Images
from stitch_sweep.plan import estimate as estimates
from stitch_sweep.plan.prepare import prepare
from tests.support.image_files import load_folder, write_folder
from tests.support.sweeps import SMALL, write_config


def make_data(**splits: list[tuple[int, int]]) -> Data:
    """Make splits from pairs (pixel value, label). Images of one value are equal."""
    images: dict[str, Any] = {}
    for split in SPLITS:
        values, labels = zip(*splits.get(split, [(200 + len(images), 0)]), strict=True)
        pixels = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
        images[split] = Images(pixels, torch.tensor(labels))
    statistics = {"mean": torch.zeros(3), "std": torch.ones(3)}
    return Data("made", **images, classes=("a", "b"), **statistics, fingerprint="")


def test_different_images_are_no_duplicates():
    assert find_duplicates(make_data(train=[(1, 0), (2, 0)], test=[(3, 0), (4, 1)])) == []


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (
            {"train": [(1, 0), (2, 0), (1, 0), (1, 1)]},
            ("train", "train", 2, 1, ("train image 3", "train image 0")),
        ),
        (
            {"validation": [(1, 0), (1, 0)]},
            ("validation", "validation", 1, 0, ("validation image 1", "validation image 0")),
        ),
        ({"test": [(1, 0), (1, 1)]}, ("test", "test", 1, 1, ("test image 1", "test image 0"))),
        (
            {"train": [(1, 0), (2, 1)], "validation": [(3, 0), (2, 1)]},
            ("validation", "train", 1, 0, ("validation image 1", "train image 1")),
        ),
        (
            {"train": [(1, 0), (2, 1)], "test": [(2, 1), (3, 0), (1, 1)]},
            ("test", "train", 2, 1, ("test image 2", "train image 0")),
        ),
        (
            {"validation": [(1, 0)], "test": [(1, 0)]},
            ("test", "validation", 1, 0, ("test image 0", "validation image 0")),
        ),
    ],
)
def test_duplicates_are_counted_within_a_split_and_between_two(splits, expected):
    (duplicates,) = find_duplicates(make_data(**splits))
    split, origin, count, relabeled, example = expected
    assert duplicates == Duplicates(
        split, origin, count, relabeled, (example, *duplicates.examples[1:])
    )


def test_an_image_in_all_three_splits_is_counted_for_each_two_of_them():
    duplicates = find_duplicates(make_data(train=[(1, 0)], validation=[(1, 0)], test=[(1, 0)]))
    assert [(entry.split, entry.origin) for entry in duplicates] == [
        ("validation", "train"),
        ("test", "train"),
        ("test", "validation"),
    ]


def test_one_label_among_several_is_no_other_label():
    train = [(1, 0), (1, 1)]
    counts = {
        entry.split: entry for entry in find_duplicates(make_data(train=train, test=[(1, 1)]))
    }
    assert (counts["train"].relabeled, counts["test"].relabeled) == (1, 0)


def test_the_sentence_has_count_labels_and_examples():
    entry = Duplicates("test", "train", 3, 1, (("a.png", "b.png"), ("c.png", "d.png")))
    assert str(entry) == (
        "test images that are train images too, pixel for pixel: 3, 1 of them with another label "
        "(a.png = b.png; c.png = d.png)"
    )
    entry = Duplicates("train", "train", 1, 0, (("a.png", "b.png"),))
    message = "train images that repeat an earlier image, pixel for pixel: 1 (a.png = b.png)"
    assert str(entry) == message


@pytest.mark.parametrize("make", [shutil.copy, os.link, os.symlink])
def test_two_names_of_one_file_are_duplicates_with_their_names(tmp_path, make):
    write_folder(tmp_path)
    make(tmp_path / "train" / "cat" / "0.png", tmp_path / "test" / "dog" / "x.png")
    (duplicates,) = find_duplicates(load_folder(tmp_path))
    assert (duplicates.split, duplicates.count, duplicates.relabeled) == ("test", 1, 1)
    assert duplicates.examples == (("test/dog/x.png", "train/cat/0.png"),)


@pytest.fixture
def doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration whose test set has a training image under another label."""
    write_folder(tmp_path / "pets")
    shutil.copy(tmp_path / "pets/train/cat/0.png", tmp_path / "pets/test/dog/x.png")
    data = {
        "name": "image_folder",
        "path": str(tmp_path / "pets"),
        "val_fraction": 0.5,
        "image_size": 16,
    }
    monkeypatch.setattr(estimates, "_seconds_per_trial", lambda prepared, say: 1.0)
    return write_config(tmp_path / "sweep", tmp_path / "zoo", data=data)


def test_a_dry_run_reports_duplicates(doubled, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stitch-sweep", "sweep", str(doubled), "--dry-run", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    notes = json.loads(capsys.readouterr().out)["notes"]
    (note,) = [note for note in notes if "pixel for pixel" in note]
    assert note.startswith("data: test images that are ")
    assert note.endswith("1, 1 of them with another label (test/dog/x.png = train/cat/0.png)")


def test_a_dry_run_of_digits_has_nothing_to_report():
    assert not any(
        "pixel for pixel" in note for note in prepare(Config.model_validate(SMALL)).notes
    )
