"""Damaged records, records of earlier versions, and files that are not records."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest

from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.storage.records import RecordError, seal, unseal_description, unseal_record
from stitch_sweep.storage.status import read_status
from tests.support.ledgers import STUDY, TRIAL, ended_ledger, stopped_outcome, trial_content


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise CheckpointError("no number") from None


def file(path: Path) -> None:
    path.write_text("mine")


@pytest.mark.parametrize("name", ["record", "sweep.json"])
def test_no_flipped_bit_passes_unnoticed(tmp_path, name):
    ledger = ended_ledger(tmp_path)
    path = ledger.record_path(TRIAL) if name == "record" else ledger.root / "sweep.json"
    good = ledger.read(TRIAL) if name == "record" else ledger.description()
    data, noticed = path.read_bytes(), 0
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                found = (
                    unseal_record(flipped, path, TRIAL)
                    if name == "record"
                    else unseal_description(flipped, path)
                )
                assert found == good, (place, bit)
            except RecordError:
                noticed += 1
    assert noticed > 7 * len(data)


def test_a_record_of_an_earlier_version_needs_no_checksum(tmp_path):
    ledger = ended_ledger(tmp_path)
    record = ledger.read(TRIAL)
    del record["stitch"]
    ledger.record_path(TRIAL).write_text(json.dumps(record))
    assert ledger.read(TRIAL) == record
    assert ledger.check_stitch(record) == ""
    ledger.stitch_path(TRIAL).unlink()
    assert read_status(tmp_path)["notes"] == []
    description = ledger.description()
    (ledger.root / "sweep.json").write_text(json.dumps(description))
    assert ledger.description() == description


def deep(levels: int = 100_000) -> bytes:
    return b'{"a": ' * levels + b"1" + b"}" * levels


def changed(**fields: object):
    def change(path: Path) -> None:
        record = json.loads(path.read_text())
        path.write_bytes(seal({**copy.deepcopy(record), **fields}))

    return change


def written(data: bytes):
    return lambda path: path.write_bytes(data)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def made_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**36)


DAMAGE = {
    "empty": written(b""),
    "no object": written(b"[]"),
    "object": written(b"{}"),
    "deep": written(deep()),
    "deep factors": changed(factors=json.loads(deep(200))),
    "binary": written(b"\xff\x00"),
    "nan": written(b'{"metric": NaN}'),
    "status": changed(status="perhaps"),
    "status list": changed(status=[]),
    "trial": changed(trial="another-n0"),
    "number": changed(number="0"),
    "true number": changed(number=False),
    "metrics": changed(metrics=[]),
    "metric": changed(metric=None),
    "metric text": changed(metric="0.5"),
    "score": changed(metrics={"test_accuracy": "0.5"}),
    "large": changed(metrics={"test_accuracy": 10**400}),
    "seconds": changed(seconds=1e300),
    "started": changed(started=1e300),
    "settings": changed(settings={}),
    "pause": changed(status="running", paused_at=1, trajectory=None),
    "pause before 0": changed(status="running", paused_at=-1),
    "start": changed(start="another-n0"),
    "start elsewhere": changed(start={"trial": "../../a-n0", "sha256": "0" * 64}),
    "start without checksum": changed(start={"trial": "another-n0"}),
    "layer": changed(sender_layer=1.5),
    "trajectory": changed(trajectory=[{"split": "train"}]),
    "row": changed(trajectory=[1]),
    "predictions": changed(predictions="x"),
    "dtype": changed(predictions={"dtype": "object", "zlib": ""}),
    "stitch": changed(stitch={"sha256": "0"}),
}


UNREADABLE = {"pipe": piped, "folder": made_a_folder, "huge": made_huge}


@pytest.mark.parametrize("damage", [*DAMAGE, *UNREADABLE])
def test_what_is_no_record_is_named_in_a_sentence(tmp_path, damage):
    ledger = ended_ledger(tmp_path, 2)
    path = ledger.record_path(TRIAL)
    {**DAMAGE, **UNREADABLE}[damage](path)
    with pytest.raises(RecordError) as caught:
        ledger.read(TRIAL)
    (problem,) = caught.value.problems
    assert str(path) in problem
    status = read_status(tmp_path)
    assert (status["finished"], status["damaged"], status["not_started"]) == (1, 1, 0)
    assert str(path) in status["notes"][0]
    if damage in DAMAGE:
        data = path.read_bytes()
        assert [error.path for error in ledger.set_aside_damaged()] == [path]
        assert (ledger.root / "set_aside" / path.name).read_bytes() == data
        assert ledger.trial_ids() == {STUDY.trial(1)}
        assert ledger.set_aside_damaged() == []
    else:
        with pytest.raises(RecordError, match="move it away"):
            ledger.set_aside_damaged()
        assert path.exists()


@pytest.mark.parametrize(
    "damage",
    [
        *("empty", "no object", "object", "deep", "binary", "nan"),
        *UNREADABLE,
    ],
)
def test_what_is_no_description_is_named_in_a_sentence(tmp_path, damage):
    ledger = ended_ledger(tmp_path)
    {**DAMAGE, **UNREADABLE}[damage](ledger.root / "sweep.json")
    with pytest.raises(RecordError, match=r"sweep\.json"):
        read_status(tmp_path)


def test_what_was_set_aside_before_stays(tmp_path):
    ledger = ended_ledger(tmp_path)
    for text in (b"first", b"second"):
        ledger.record_path(TRIAL).write_bytes(text)
        ledger.set_aside_damaged()
    found = {path.name: path.read_bytes() for path in (ledger.root / "set_aside").iterdir()}
    assert found == {f"{TRIAL}.json": b"first", f"{TRIAL}.2.json": b"second"}


STRAYS = [
    f"._{TRIAL}.json",
    f"{TRIAL}.sync-conflict-20250102-030405-ABCDEFG.json",
    f"{TRIAL} (copy).json",
    f"{TRIAL} 2.json",
    f"{TRIAL}.json~",
    f".{TRIAL}.json.swp",
    "notes.json",
]


def test_copies_that_other_programs_made_are_no_records(tmp_path):
    ledger = ended_ledger(tmp_path)
    for name in STRAYS:
        (ledger.root / "trials" / name).write_bytes(b"{")
    assert ledger.trial_ids() == {TRIAL}
    assert [record["trial"] for record in ledger.records()] == [TRIAL]
    assert ledger.set_aside_damaged() == []
    status = read_status(tmp_path)
    assert (status["finished"], status["damaged"]) == (1, 0)
    (note,) = status["notes"]
    assert "are not records and are ignored" in note
    LedgerWriter(str(tmp_path), "best", "max")


class TestStopped:
    """A trial that a scheduler stopped has a trajectory up to that epoch, and no evaluation."""

    def read(self, tmp_path: Path, **changes: object) -> dict | None:
        ledger = ended_ledger(tmp_path)
        ledger.begin(STUDY.trial(1), trial_content(1))
        ledger.finish(STUDY.trial(1), {**stopped_outcome(0.5), **changes}, None)
        if "predictions" in changes:
            record = {**ledger_record(ledger), "predictions": changes["predictions"]}
            ledger.write(STUDY.trial(1), record)
        return ledger.read(STUDY.trial(1))

    def test_its_record_is_read(self, tmp_path):
        record = self.read(tmp_path)
        assert (record["status"], record["stopped_at"], record["metric"]) == ("stopped", 2, 0.5)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"stopped_at": None}, "'stopped_at' is missing or not valid"),
            ({"stopped_at": 0}, "'stopped_at' is missing or not valid"),
            ({"stopped_at": 3}, "trajectory doesn't reach the epoch"),
            ({"trajectory": []}, "trajectory doesn't reach the epoch"),
            ({"metric": None}, "'metric' is missing or not valid"),
            ({"metrics": {"test_accuracy": 0.5}}, "'metrics' is missing or not valid"),
            ({"stitch": {"sha256": "0" * 64, "bytes": 1}}, "a stopped trial has no stitch"),
            (
                {"predictions": {"zlib": "", "dtype": "uint8"}},
                "a stopped trial has no predictions",
            ),
        ],
        ids=str,
    )
    def test_a_record_that_says_otherwise_is_damaged(self, tmp_path, changes, message):
        with pytest.raises(RecordError, match=message):
            self.read(tmp_path, **changes)


def ledger_record(ledger) -> dict:
    record = ledger.read(STUDY.trial(1))
    assert record is not None
    return record
