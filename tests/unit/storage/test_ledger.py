"""The ledger alone: what is recorded stays, and what a killed process left behind is put right."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.zoo import Zoo
from stitch_sweep.storage.files import remove_temporaries, write_atomically
from stitch_sweep.storage.ledger import Ledger, LedgerBusyError, LedgerWriter, Study, predictions_of
from stitch_sweep.storage.records import RecordError, seal, unseal_description, unseal_record
from stitch_sweep.storage.status import read_status

STUDY = Study("a", 0, "b", 1, {"loss": {"task": 1.0}})


TRIAL = STUDY.trial(0)
SETTINGS = {"stitch": {"name": "linear"}, "loss": {"task": 1.0}, "training": {"epochs": 1}}


def content(number: int) -> dict:
    return {**STUDY.key, "study": STUDY.id, "number": number, "params": {}, "settings": SETTINGS}


def outcome(metric: float | None) -> dict:
    status = "failed" if metric is None else "finished"
    return {"status": status, "metric": metric, "metrics": {}, "trajectory": [], "seconds": 1.0}


def end(writer: LedgerWriter, ledger: Ledger, number: int, metric: float | None) -> None:
    ledger.begin(STUDY.trial(number), content(number))
    writer.finish(STUDY.trial(number), outcome(metric), None, b"stitch" if metric else None)


def kept(ledger: Ledger) -> set[str]:
    return {path.stem for path in (ledger.folder / "stitches").glob("*")}


@pytest.mark.parametrize("classes", [2, 10, 300, 70_000])
def test_predictions_come_back_equal(tmp_path, classes):
    ledger = Ledger(tmp_path)
    predictions = np.random.default_rng(0).integers(classes, size=500)
    predictions[0] = classes - 1
    ledger.begin(TRIAL, content(0))
    record = ledger.finish(TRIAL, outcome(0.5), predictions)
    assert np.array_equal(predictions_of(record), predictions)
    assert np.array_equal(predictions_of(ledger.read(TRIAL)), predictions)


def test_the_first_outcome_stays(tmp_path):
    """A worker that was taken for dead may still speak, or its trial may be run once more."""
    ledger = Ledger(tmp_path)
    ledger.begin(TRIAL, content(0))
    first = ledger.finish(TRIAL, outcome(0.5), None)
    assert ledger.finish(TRIAL, outcome(None), None) == first == ledger.read(TRIAL)


def test_a_number_that_json_has_no_word_for_is_refused_and_nothing_is_half_written(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin(TRIAL, content(0))
    with pytest.raises(ValueError, match="JSON"):
        ledger.finish(TRIAL, outcome(float("nan")), None)
    assert ledger.read(TRIAL)["status"] == "running"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 0)])
def test_the_best_stitch_of_a_study_is_kept_whatever_the_order(tmp_path, order, mode, best):
    ledger = Ledger(tmp_path)
    writer = LedgerWriter(str(tmp_path), "best", mode)
    metrics = {0: 0.2, 1: 0.7, 2: 0.7 if mode == "max" else 0.2}  # of equals the first
    for number in order:
        end(writer, ledger, number, metrics[number])
    assert kept(ledger) == {STUDY.trial(best)}


def test_a_stitch_that_a_killed_writer_should_have_removed_is_removed(tmp_path):
    ledger = Ledger(tmp_path)
    all_kept = LedgerWriter(str(tmp_path), "all", "max")
    for number, metric in enumerate((0.2, 0.7)):
        end(all_kept, ledger, number, metric)
    assert len(kept(ledger)) == 2
    LedgerWriter(str(tmp_path), "best", "max")
    assert kept(ledger) == {STUDY.trial(1)}


def test_a_trial_keeps_two_checkpoints_until_it_has_ended(tmp_path):
    ledger = Ledger(tmp_path)
    writer = LedgerWriter(str(tmp_path), "none", "max")
    ledger.begin(TRIAL, content(0))
    assert writer.read_checkpoints(TRIAL) == []
    for data in (b"first", b"second", b"third"):
        writer.checkpoint(TRIAL, data)
    assert [found.data for found in writer.read_checkpoints(TRIAL)] == [b"third", b"second"]
    writer.finish(TRIAL, outcome(0.5), None, None)
    assert writer.read_checkpoints(TRIAL) == []
    assert list((ledger.root / "checkpoints").iterdir()) == []


def test_checkpoints_that_a_killed_writer_should_have_removed_are_removed(tmp_path):
    ledger = Ledger(tmp_path)
    over, running = STUDY.trial(0), STUDY.trial(1)
    for number, trial in enumerate((over, running)):
        ledger.begin(trial, content(number))
    ledger.finish(over, outcome(0.5), None)
    for trial in (over, running):
        for data in (b"first", b"second"):
            ledger.write_checkpoint(trial, data)
    writer = LedgerWriter(str(tmp_path), "none", "max")
    assert writer.read_checkpoints(over) == []
    assert [found.data for found in writer.read_checkpoints(running)] == [b"second", b"first"]


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    code = (
        "import sys; from stitch_sweep.storage.ledger import Ledger; lock = Ledger(sys.argv[1]).lock();"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LedgerBusyError, match=f"process {holder.pid}"):
            Ledger(tmp_path).lock()
        holder.kill()
        holder.wait()
        with Ledger(tmp_path).lock():
            pass


def test_temporary_files_of_a_killed_process_are_cleared_away(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin(TRIAL, content(0))
    left = [ledger.root / "trials" / f".{'1' * 16}.tmp", tmp_path / f".{'5' * 16}.tmp"]
    for path in left:
        path.write_bytes(b"half")
    with ledger.lock():
        assert not any(path.exists() for path in left)
    assert ledger.trial_ids() == {TRIAL}


def test_a_sweep_keeps_its_identity(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.start({"trials": 1})
    first = ledger.description()
    ledger.start({"trials": 2})
    assert ledger.description() == {"id": first["id"], "trials": 2}
    assert json.loads((tmp_path / "ledger" / "sweep.json").read_text())["trials"] == 2


def test_studies_that_differ_have_names_that_differ():
    names = {
        Study("a", 0, "b", 1).id,
        Study("a", 1, "b", 1).id,
        Study("a.0-b", 0, "b", 1).id,
        Study("a", -1, "b", 1).id,
        Study("a", 0, "b", 1, {"x": 1}).id,
        Study("a", 0, "b", 1, {"x": 2}).id,
        Study("a", 0, "b", 1, repeat=1).id,
    }
    assert len(names) == 7
    assert all(Path(name).name == name for name in names)


# Files that are not the sweep's


@pytest.mark.parametrize(
    "name",
    [
        *(".x.tmp", "x.tmp", ".1234.tmp", f"{'a' * 16}.tmp", f".{'g' * 16}.tmp"),
        *(f".{'A' * 16}.tmp", f".{'a' * 17}.tmp", f".{'a' * 16}.tmp.csv"),
    ],
)
def test_only_temporary_files_of_the_products_own_pattern_are_removed(tmp_path, name):
    ledger = Ledger(tmp_path)
    ledger.begin(TRIAL, content(0))
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


def test_every_temporary_name_that_is_used_is_one_that_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(Path, "unlink", lambda *arguments, **options: None)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"half")
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    remove_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())


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
        (lambda path: path.symlink_to(path.parent / "nowhere"), "is a symbolic link to nothing"),
        (folder_with("accounts.csv"), r"holds accounts\.csv, which no sweep made"),
        (folder_with("lock"), "holds lock, which no sweep made"),
        (folder_with("lock.json"), r"holds lock\.json, which no sweep made"),
        (folder_with("a", "b", "c", "d", "e"), "holds a, b, c and 2 more"),
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


def test_a_folder_in_a_files_place_is_named_and_not_its_temporary(tmp_path):
    (tmp_path / "results.parquet").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(tmp_path / "results.parquet", b"x")
    assert caught.value.filename == str(tmp_path / "results.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["results.parquet"]


def test_leftovers_of_a_zoo_are_its_own_alone(tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    for name in (".theirs.tmp", f".{'0' * 16}.tmp"):
        (folder / name).write_text("x")

    recipe = SimpleNamespace(content={}, folder="net")
    progress = SimpleNamespace(checkpoint=None, weights=b"weights", accuracy={})
    Zoo(tmp_path).store(recipe, progress)
    assert sorted(p.name for p in folder.iterdir() if p.suffix == ".tmp") == [".theirs.tmp"]


# Damaged records, and files that are no records


def ended_ledger(folder: Path, count: int = 1) -> Ledger:
    ledger = Ledger(folder)
    ledger.start({"trials": count})
    writer = LedgerWriter(str(folder), "all", "max")
    for number in range(count):
        ledger.begin(STUDY.trial(number), content(number))
        data = b"stitch %d" % number
        writer.finish(STUDY.trial(number), outcome(0.5 + number), np.arange(5), data)
    return ledger


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
    assert "are no records, and are ignored" in note
    LedgerWriter(str(tmp_path), "best", "max")


def test_predictions_that_would_fill_the_memory_are_refused(monkeypatch, tmp_path):
    record = ended_ledger(tmp_path).read(TRIAL)
    monkeypatch.setattr("stitch_sweep.storage.ledger._MOST_PREDICTIONS", 4)
    with pytest.raises(InputError, match="can't be unpacked"):
        predictions_of(record)


# Stitches


@pytest.mark.parametrize("harm", ["missing", "damaged", "other size", "folder"])
def test_stitches_that_are_missing_or_damaged_are_named(tmp_path, harm):
    ledger = ended_ledger(tmp_path, 3)
    assert read_status(tmp_path)["notes"] == []
    path = ledger.stitch_path(TRIAL)
    path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm != "missing":
        path.write_bytes(b"stitch 9" if harm == "damaged" else b"s")
    (note,) = read_status(tmp_path)["notes"]
    kind = "missing" if harm == "missing" else "damaged"
    assert f"1 kept stitches are {kind}, of trials {TRIAL};" in note
    assert "--retrain-stitches" in note


@pytest.mark.parametrize("keep", ["best", "none"])
def test_stitches_that_are_not_kept_are_not_missed(tmp_path, keep):
    ledger = Ledger(tmp_path)
    ledger.start({"trials": 3})
    writer = LedgerWriter(str(tmp_path), keep, "max")
    for number, metric in enumerate((0.2, 0.7, 0.5)):
        end(writer, ledger, number, metric)
    LedgerWriter(str(tmp_path), keep, "max")
    assert read_status(tmp_path)["notes"] == []
    assert len(kept(ledger)) == (keep == "best")


def test_a_stitch_that_was_replaced_is_not_removed(tmp_path):
    ended_ledger(tmp_path, 2)
    mine = Ledger(tmp_path).stitch_path(TRIAL)
    mine.write_bytes(b"a stitch of mine")
    LedgerWriter(str(tmp_path), "best", "max")
    assert mine.read_bytes() == b"a stitch of mine"
    assert Ledger(tmp_path).read(TRIAL)["stitch"] is None


@pytest.mark.parametrize("metric", [0.5, 0.6])
def test_a_retrained_trial_must_come_out_the_same(tmp_path, metric):
    ledger = ended_ledger(tmp_path)
    ledger.stitch_path(TRIAL).write_bytes(b"damaged")
    former = ledger.read(TRIAL)
    ledger.begin_again(former)
    assert ledger.read(TRIAL) == {**content(0), "trial": TRIAL, "status": "running"}
    assert (ledger.root / "set_aside" / f"{TRIAL}.safetensors").read_bytes() == b"damaged"
    assert ledger.compare_retrained() == [], "it runs"
    again = {**outcome(metric), "metrics": {"test_accuracy": metric}}
    former_metrics = {"test_accuracy": 0.5}
    write_atomically(
        ledger.root / "retrained" / f"{TRIAL}.json", seal({**former, "metrics": former_metrics})
    )
    LedgerWriter(str(tmp_path), "all", "max").finish(TRIAL, again, np.arange(5), b"stitch 0")
    differences = ledger.compare_retrained()
    assert read_status(tmp_path)["notes"] == []
    if metric == 0.5:
        assert differences == []
        assert not list((ledger.root / "retrained").iterdir())
    else:
        (difference,) = differences
        assert "metrics differ" in difference
        assert json.loads((ledger.root / "set_aside" / f"{TRIAL}.json").read_text())
    assert ledger.compare_retrained() == []


# Status


def test_status_writes_nothing(tmp_path):
    ended_ledger(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    assert read_status(tmp_path)["state"] == "complete"
    after = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    assert after == before
    with Ledger(tmp_path).lock():
        assert read_status(tmp_path)["state"] == "running"
    assert read_status(tmp_path)["state"] == "complete"


def test_status_needs_no_heavy_library():
    code = (
        "import sys, stitch_sweep.storage.status;"
        "print({'torch', 'ray', 'pandas', 'optuna', 'pydantic'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
