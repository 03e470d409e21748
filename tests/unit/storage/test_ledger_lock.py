"""The lock of a ledger, and folders that do not belong to a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.ledger import Ledger
from tests.support.ledgers import TRIAL, trial_content


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise CheckpointError("no number") from None


def test_temporary_files_of_a_killed_process_are_cleared_away(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin(TRIAL, trial_content(0))
    left = [ledger.root / "trials" / f".{'1' * 16}.tmp", tmp_path / f".{'5' * 16}.tmp"]
    for path in left:
        path.write_bytes(b"half")
    with ledger.lock():
        assert not any(path.exists() for path in left)
    assert ledger.trial_ids() == {TRIAL}


@pytest.mark.parametrize(
    "name",
    [
        *(".x.tmp", "x.tmp", ".1234.tmp", f"{'a' * 16}.tmp", f".{'g' * 16}.tmp"),
        *(f".{'A' * 16}.tmp", f".{'a' * 17}.tmp", f".{'a' * 16}.tmp.csv"),
    ],
)
def test_only_temporary_files_of_the_products_own_pattern_are_removed(tmp_path, name):
    ledger = Ledger(tmp_path)
    ledger.begin(TRIAL, trial_content(0))
    below = ledger.root / "trials" / "theirs"
    places = [tmp_path, tmp_path / "stitches", ledger.root / "trials", below]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / name).write_text("mine")
    (below / f".{'a' * 16}.tmp").write_text("a sweep makes no folder there")
    (tmp_path / f".{'b' * 16}.tmp").mkdir()
    (tmp_path / f".{'c' * 16}.tmp").symlink_to(tmp_path / "elsewhere")
    with ledger.lock():
        pass
    assert all((place / name).read_text() == "mine" for place in places)
    assert (below / f".{'a' * 16}.tmp").exists()
    assert (tmp_path / f".{'b' * 16}.tmp").is_dir()
    assert (tmp_path / f".{'c' * 16}.tmp").is_symlink()


def file(path: Path) -> None:
    path.write_text("mine")


def folder_with(*names: str):
    def make(path: Path) -> None:
        path.mkdir()
        for name in names:
            (path / name).write_text("mine")

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (file, "is a file"),
        (lambda path: path.symlink_to(path.parent / "nowhere"), "is a broken symbolic link"),
        (folder_with("accounts.csv"), r"contains accounts\.csv, which no sweep made"),
        (folder_with("lock"), "contains lock, which no sweep made"),
        (folder_with("lock.json"), r"contains lock\.json, which no sweep made"),
        (folder_with("a", "b", "c", "d", "e"), "contains a, b, c and 2 more"),
    ],
)
def test_a_ledger_that_is_no_sweeps_is_refused_and_stays_as_it_is(tmp_path, make, said):
    make(tmp_path / "ledger")
    before = {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match=said):
        Ledger(tmp_path).lock()
    after = {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")}
    assert after == before


def test_a_sweep_that_never_started_leaves_what_it_found(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.lock():
        ledger.discard()
    assert not list(tmp_path.iterdir())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".DS_Store").write_text("mine")
    (tmp_path / "ledger").symlink_to(elsewhere)
    with ledger.lock():
        (elsewhere / "accounts.csv").write_text("came meanwhile")
        ledger.discard()
    assert sorted(path.name for path in elsewhere.iterdir()) == [".DS_Store", "accounts.csv"]
    assert (tmp_path / "ledger").is_symlink()
