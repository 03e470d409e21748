"""A copy of an experiment folder at a URI: consistent at every moment, and enough for a resume."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

import stitch_sweep.sweep.run as sweeping
import stitch_sweep.tracking.mirror
from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.storage.files import atomic
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.storage.records import seal
from stitch_sweep.sweep.description import describe_sweep
from stitch_sweep.sweep.local_start import LocalStart
from stitch_sweep.tracking.mirror import Mirror
from stitch_sweep.tracking.mirroring import Mirroring
from tests.support.mirrors import OUTCOME, STUDY, begin_sweep, end_trial, read_files, trial_content
from tests.support.sweeps import ended, write_config


def test_what_comes_back_is_what_was_sent(folder, uri, copy, tmp_path):
    begin_sweep(folder)
    end_trial(folder, 0, 0.5)
    with Ledger(folder).lock():
        list(Mirror(folder, uri).send())
    assert read_files(copy) == read_files(folder)
    assert not (copy / "ledger" / "lock").exists(), "a lock is this machine's alone"
    again = Mirror(tmp_path / "other", uri)
    assert again.check(resume=True)
    again.fetch()
    assert read_files(tmp_path / "other") == read_files(folder)
    assert again.fetch() == 0, "nothing left to fetch"


def test_only_what_changed_is_sent_and_what_is_gone_goes(folder, uri, copy):
    ledger = begin_sweep(folder)
    ledger.write_checkpoint(STUDY.trial(1), b"half way")
    mirror = Mirror(folder, uri)
    sent = list(mirror.send())
    assert sent[0] == "ledger/sweep.json", "without it a folder can't be resumed"
    assert list(mirror.send()) == []
    end_trial(folder, 1, 0.5)
    changed = list(mirror.send())
    assert sorted(changed) == [
        f"ledger/trials/{STUDY.trial(1)}.json",
        f"stitches/{STUDY.trial(1)}.safetensors",
    ]
    assert read_files(copy) == read_files(folder), "the checkpoint went with its trial"


def test_a_stitch_that_was_beaten_goes(folder, uri, copy):
    begin_sweep(folder)
    mirror = Mirror(folder, uri)
    for number, metric in enumerate([0.5, 0.7, 0.6]):
        end_trial(folder, number, metric, keep="best")
        list(mirror.send())
    assert [p.name for p in (copy / "stitches").iterdir()] == [f"{STUDY.trial(1)}.safetensors"]


def test_cut_off_after_any_file_no_record_lacks_its_stitch(folder, uri, tmp_path):
    begin_sweep(folder, trials=4)
    for number in range(3):
        end_trial(folder, number, 0.5)
    total = len(list(Mirror(folder, f"file://{tmp_path}/whole").send()))
    for cut in range(1, total + 1):
        place = tmp_path / f"cut{cut}"
        sending = Mirror(folder, f"file://{place}").send()
        for _ in range(cut):
            next(sending)
        sending.close()
        assert (place / "ledger" / "sweep.json").exists()
        for record in Ledger(place).records():
            if record["status"] == "finished":
                assert Ledger(place).stitch_path(record["trial"]).read_bytes()


def test_a_trial_that_ends_while_files_are_sent_is_there_with_its_stitch(folder, uri, copy):
    begin_sweep(folder)
    mirror = Mirror(folder, uri)
    for name in mirror.send():
        if name == "ledger/sweep.json":
            end_trial(folder, 2, 0.5)
        for record in Ledger(copy).records():
            stitch = Ledger(copy).stitch_path(record["trial"])
            assert record["status"] == "running" or stitch.exists()
    list(mirror.send())
    assert read_files(copy) == read_files(folder)


def test_a_record_is_read_when_the_one_before_was_sent(folder, uri, monkeypatch):
    begin_sweep(folder)
    read_bytes, read, sent = Path.read_bytes, [], []
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (read.append(path.parent.name), read_bytes(path))[1]
    )
    for name in Mirror(folder, uri).send():
        if name.startswith("ledger/trials/"):
            sent.append(name)
            assert read.count("trials") == len(sent)
    assert len(sent) == 3


OURS = [
    *("config.resolved.yml", "results.parquet", "predictions.parquet", "traj.parquet", "traj.pkl"),
    *("optuna.log", "summary.json", "pareto.csv", ".analysis.json", "matrices/a__b.csv"),
    *("figures/a__b.png", "figures/a__b.pdf", "report.html", ".report.json", "tables/1-a__b.tex"),
    *("measured/about.json", "measured/labels.parquet", "measured/images.safetensors"),
]
THEIRS = [
    *(
        "config.yml",
        "config.yaml",
        "mlflow.db",
        "mlruns/1/meta.yaml",
        "zoo/net/weights.safetensors",
    ),
    *(
        "data/images.parquet",
        ".git/config",
        "results.parquet.bak",
        "figures/notes.txt",
        "stitches/x",
    ),
    *("ledger/notes", "ledger/lock", "ledger/tracking.lock", "ledger/trials/.0123.tmp"),
    f"ledger/checkpoints/.{STUDY.trial(0)}.tmp",
]


def test_nothing_but_what_a_sweep_writes_leaves_the_folder(folder, uri, copy):
    ledger = begin_sweep(folder)
    end_trial(folder, 0, 0.5)
    for _ in range(2):
        ledger.write_checkpoint(STUDY.trial(1), b"half way")
    of_ledger = set(read_files(folder))
    for name in OURS + THEIRS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("uri: https://me:secret@host")
    list(Mirror(folder, uri).send())
    there = {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()}
    assert there == of_ledger | set(OURS)


def test_what_the_user_has_stays_whatever_the_copy_holds(folder, uri, copy, tmp_path):
    begin_sweep(folder)
    list(Mirror(folder, uri).send())
    for name in ("config.yml", "zoo/net/weights.safetensors", "mlflow.db", "traj.pkl"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("the copy's")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yml").write_text("mine")
    Mirror(other, uri).fetch()
    assert read_files(other) == {**read_files(folder), "config.yml": b"mine"}


class Foreign:
    """A file system whose listing has an additional key."""

    key = "../outside.json"

    def __init__(self, real: fs.FileSystem) -> None:
        self._real = real
        self.type_name = real.type_name

    def get_file_info(self, selector: fs.FileSelector | str) -> object:
        if isinstance(selector, str):
            return self._real.get_file_info(selector)
        key = f"{selector.base_dir}/{self.key}"
        return [*self._real.get_file_info(selector), fs.FileInfo(key, type=fs.FileType.File)]

    def open_input_stream(self, path: str) -> object:
        return self._real.open_input_stream(path)


class Misled(Mirror):
    """A mirror on a `Foreign` file system."""

    def __init__(self, folder: Path, uri: str) -> None:
        super().__init__(folder, uri)
        self._fs = Foreign(self._fs)


@pytest.mark.parametrize("key", [Foreign.key, f"ledger/trials/../../../../{STUDY.trial(0)}.json"])
def test_a_key_that_leads_out_of_the_copy_is_refused(folder, uri, tmp_path, monkeypatch, key):
    begin_sweep(folder)
    list(Mirror(folder, uri).send())
    (tmp_path / "bucket" / "outside.json").write_text("{}")
    monkeypatch.setattr(Foreign, "key", key)
    other = tmp_path / "deep" / "other"
    with pytest.raises(InputError) as caught:
        Misled(other, uri).fetch()
    assert repr(key) in str(caught.value)
    assert not other.parent.exists()


@pytest.mark.parametrize("change", [{"trial": "../../x-n0"}, {"study": "../../x"}, {"number": 7}])
def test_a_record_that_names_the_files_of_another_trial_is_not_brought(
    folder, uri, copy, tmp_path, change
):
    begin_sweep(folder)
    list(Mirror(folder, uri).send())
    path = copy / "ledger" / "trials" / f"{STUDY.trial(1)}.json"
    path.write_bytes(seal({**json.loads(path.read_text()), **change}))
    mirror = Mirror(tmp_path / "other", uri)
    assert mirror.fetch() == 2
    (note,) = mirror.notes
    assert f"trials/{STUDY.trial(1)}.json: is damaged: " in note
    assert Ledger(tmp_path / "other").trial_ids() == {STUDY.trial(0), STUDY.trial(2)}


@pytest.mark.parametrize("place", ["there", "here"])
def test_a_damaged_record_neither_comes_nor_goes(folder, uri, copy, tmp_path, place):
    """With a changed digit in a metric, the other side keeps its record."""
    begin_sweep(folder)
    end_trial(folder, 1, 0.5)
    list(Mirror(folder, uri).send())
    name = f"ledger/trials/{STUDY.trial(1)}.json"
    path = (copy if place == "there" else folder) / name
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"metric": 0.5', b'"metric": 0.7'))
    if place == "there":
        mirror = Mirror(tmp_path / "other", uri)
        assert mirror.fetch() == 2
        assert "checksum" in mirror.notes[0]
    else:
        list(Mirror(folder, uri).send())
        assert (copy / name).read_bytes() == good


def test_a_damaged_stitch_of_the_copy_is_not_brought(folder, uri, copy, tmp_path):
    begin_sweep(folder)
    end_trial(folder, 1, 0.5)
    list(Mirror(folder, uri).send())
    (copy / "stitches" / f"{STUDY.trial(1)}.safetensors").write_bytes(b"stitch 2")
    mirror = Mirror(tmp_path / "other", uri)
    assert mirror.fetch() == 3
    assert "is damaged and was not copied" in mirror.notes[0]
    assert not Ledger(tmp_path / "other").stitch_path(STUDY.trial(1)).exists()


def test_files_of_somebody_else_are_not_replaced_by_a_copy(folder, uri, copy):
    begin_sweep(folder)
    copy.mkdir(parents=True)
    (copy / "summary.json").write_text("mine")
    with pytest.raises(InputError, match=r"summary\.json, which would be replaced"):
        Mirror(folder, uri).check(resume=False)
    # The user may also have a file with the temporary name of an earlier version.
    (copy / "summary.json").rename(copy / "config.resolved.yml.tmp")
    (folder / "config.resolved.yml").write_text("seed: 1")
    list(Mirror(folder, uri).send())
    assert (copy / "config.resolved.yml.tmp").read_text() == "mine"
    assert not list(copy.glob(".*.tmp"))


def test_a_folder_that_vanished_does_not_empty_its_copy(folder, uri, copy):
    begin_sweep(folder)
    end_trial(folder, 1, 0.5)
    mirror = Mirror(folder, uri)
    list(mirror.send())
    before = read_files(copy)
    shutil.rmtree(folder)
    list(mirror.send())
    assert read_files(copy) == before


def test_a_pipe_in_place_of_the_copys_description_holds_nobody_up(folder, uri, copy):
    begin_sweep(folder)
    (copy / "ledger").mkdir(parents=True)
    os.mkfifo(copy / "ledger" / "sweep.json")
    with pytest.raises(InputError, match="is not a regular file"):
        Mirror(folder, uri).check(resume=True)


def test_a_record_torn_in_the_copy_is_as_if_it_were_not_there(folder, uri, copy, tmp_path):
    begin_sweep(folder)
    list(Mirror(folder, uri).send())
    (copy / "ledger" / "trials" / f"{STUDY.trial(1)}.json").write_text('{"trial"')
    assert Mirror(tmp_path / "other", uri).fetch() == 2
    assert Ledger(tmp_path / "other").trial_ids() == {STUDY.trial(0), STUDY.trial(2)}


def test_a_folder_that_stayed_behind_gets_what_ended_elsewhere(folder, uri, copy, tmp_path):
    here = begin_sweep(folder)
    here.write_checkpoint(STUDY.trial(1), b"a quarter")
    list(Mirror(folder, uri).send())
    # Ended here, after the last transfer to the copy.
    end_trial(folder, 0, 0.5)
    there = tmp_path / "there"
    Mirror(there, uri).fetch()
    Ledger(there).start({"decides": {}, "trials": 4})
    Ledger(there).begin(STUDY.trial(3), trial_content(STUDY, 3))
    for number in (1, 3):
        end_trial(there, number, 0.6)
    Ledger(there).write_checkpoint(STUDY.trial(2), b"half way")
    list(Mirror(there, uri).send())
    mine = read_files(folder)[f"ledger/trials/{STUDY.trial(0)}.json"]

    mirror = Mirror(folder, uri)
    assert mirror.check(resume=True)
    assert mirror.fetch() == 2
    list(mirror.send())
    for place in (folder, copy):
        ledger = Ledger(place)
        statuses = {record["number"]: record["status"] for record in ledger.records()}
        assert statuses == {0: "finished", 1: "finished", 2: "running", 3: "finished"}
        assert all(ledger.stitch_path(STUDY.trial(n)).exists() for n in (0, 1, 3))
        assert ledger.description()["trials"] == 4
    assert read_files(folder)[f"ledger/trials/{STUDY.trial(0)}.json"] == mine
    assert not here.read_checkpoints(STUDY.trial(1)), "it has ended"


def test_a_place_that_is_taken_is_refused(folder, uri, tmp_path):
    begin_sweep(folder)
    list(Mirror(folder, uri).send())
    with pytest.raises(InputError, match="already contains a sweep; add --resume"):
        Mirror(tmp_path / "new", uri).check(resume=False)
    begin_sweep(tmp_path / "new")
    with pytest.raises(InputError, match="contains a different sweep"):
        Mirror(tmp_path / "new", uri).check(resume=True)
    with pytest.raises(InputError, match="contains a different sweep"):
        list(Mirror(tmp_path / "new", uri).send())


@pytest.mark.parametrize("uri", ["nowhere://x/y", "relative/path", "://"])
def test_a_uri_that_nothing_can_be_made_of_is_refused(uri, folder):
    with pytest.raises(InputError, match="--mirror"):
        Mirror(folder, uri)


@pytest.fixture
def resume(tmp_path, uri, monkeypatch) -> Callable[..., None]:
    """Run `--resume --mirror` in a folder up to its first trial, then another function."""
    zoo = tmp_path / "zoo"
    config = read_config(write_config(tmp_path / "config", zoo, tracking={"enabled": False}))
    prepared = prepare(config)
    monkeypatch.setattr(sweeping, "prepare", lambda config: prepared)

    def go_on(folder: Path, trials: Callable[[Mirroring], object] = Mirroring.finish) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sweeping, "_run", lambda *arguments: trials(arguments[5]))
            patch.setattr(LocalStart, "begin", lambda self: None)  # no trial runs
            sweeping.run_sweep(config, folder, resume=True, mirror=uri)

    go_on.prepared = prepared
    return go_on


def started(folder: Path, prepared: sweeping.Prepared, ends: int) -> None:
    """Write the ledger of a configuration's sweep: three trials, some of them ended."""
    ledger = Ledger(folder)
    ledger.start(describe_sweep(prepared))
    for k, study in enumerate(prepared.studies[:3]):
        trial = study.trial(0)
        ledger.begin(trial, trial_content(study, 0))
        ledger.write_checkpoint(trial, b"half way")
        if k < ends:
            outcome = {**OUTCOME, "metric": 0.5}
            writer = LedgerWriter(str(folder), "all", "max")
            writer.finish(trial, outcome, np.arange(3), b"stitch %d" % k)


def test_a_fetch_that_was_cut_off_after_any_file_goes_on(
    folder, uri, tmp_path, resume, monkeypatch
):
    started(folder, resume.prepared, ends=2)
    list(Mirror(folder, uri).send())
    whole = read_files(folder)
    for cut in range(len(whole)):
        other = tmp_path / f"cut{cut}"
        left = iter(range(cut))

        def writing(path: Path, data: bytes, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

        @contextmanager
        def making(path: Path, left: Iterator[int] = left) -> Iterator[Path]:
            if next(left, None) is None:
                raise KeyboardInterrupt
            with atomic(path) as temporary:
                yield temporary

        with monkeypatch.context() as patch:
            patch.setattr(stitch_sweep.tracking.mirror, "write_atomically", writing)
            patch.setattr(stitch_sweep.tracking.mirror, "atomic", making)
            with pytest.raises(KeyboardInterrupt):
                resume(other)
        assert len(read_files(other)) == cut
        resume(other)
        assert read_files(other) == whole


def test_a_resume_on_a_machine_that_stayed_behind_loses_nothing(
    folder, uri, copy, tmp_path, resume
):
    started(folder, resume.prepared, ends=0)
    shutil.copytree(folder, tmp_path / "there")
    started(tmp_path / "there", resume.prepared, ends=2)
    list(Mirror(tmp_path / "there", uri).send())
    resume(folder)
    assert ended(copy) == ended(folder) == 2
    assert read_files(copy).items() >= read_files(folder).items()


def test_a_refused_copy_leaves_nothing_behind(folder, uri, tmp_path, resume, monkeypatch):
    started(folder, resume.prepared, ends=1)
    list(Mirror(folder, uri).send())
    monkeypatch.setattr(sweeping, "Mirror", Misled)
    with pytest.raises(InputError, match=r"outside\.json"):
        resume(tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*"))


def test_a_damaged_copy_is_named(folder, uri, copy):
    begin_sweep(folder)
    list(Mirror(folder, uri).send())
    (copy / "ledger" / "sweep.json").write_text("{")
    with pytest.raises(InputError, match=r"sweep\.json is damaged"):
        Mirror(folder, uri).check(resume=True)


def test_an_error_ends_the_thread_too(folder, uri, resume):
    started(folder, resume.prepared, ends=1)
    before = set(threading.enumerate())

    def fail(mirroring: Mirroring) -> None:
        assert set(threading.enumerate()) > before
        raise RuntimeError("not a fault of the mirror")

    with pytest.raises(RuntimeError, match="not a fault"):
        resume(folder, fail)
    assert set(threading.enumerate()) <= before


def test_messages_show_no_credentials(folder):
    with pytest.raises(InputError) as caught:
        Mirror(folder, "nowhere://key:secret@bucket/p?secret_key=hidden")
    assert "nowhere://bucket/p" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
