"""A copy of an experiment folder at a URI: whole at every moment, and enough to go on from."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sweeps import TRIALS, ended, figures, run, start, stop_when, write_config

from stitch_sweep.errors import InputError
from stitch_sweep.ledger import Ledger, LedgerWriter, Study
from stitch_sweep.mirror import Mirror, Mirroring

STUDY = Study("a", 1, "b", 2)


def begun(folder: Path, trials: int = 3) -> Ledger:
    """A folder in which a sweep has begun that many trials."""
    ledger = Ledger(folder)
    ledger.start({"decides": {}})
    for number in range(trials):
        ledger.begin(STUDY.trial(number), {"study": STUDY.id, "number": number})
    return ledger


def finish(folder: Path, number: int, metric: float, keep: str = "all") -> None:
    outcome = {"status": "finished", "metric": metric, "metrics": {}}
    writer = LedgerWriter(str(folder), keep, "max")
    writer.finish(STUDY.trial(number), outcome, np.arange(3), b"stitch %d" % number)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, locks left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("lock")
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "experiment"


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket/copy"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "bucket" / "copy"


def test_what_comes_back_is_what_was_sent(folder, uri, copy, tmp_path):
    begun(folder)
    finish(folder, 0, 0.5)
    with Ledger(folder).lock():
        list(Mirror(folder, uri).send())
    assert content(copy) == content(folder)
    assert not (copy / "ledger" / "lock").exists(), "a lock is this machine's alone"
    again = Mirror(tmp_path / "other", uri)
    assert again.check(resume=True)
    again.fetch()
    assert content(tmp_path / "other") == content(folder)
    assert not again.check(resume=True), "nothing left to fetch"


def test_only_what_changed_is_sent_and_what_is_gone_goes(folder, uri, copy):
    ledger = begun(folder)
    ledger.write_checkpoint(STUDY.trial(1), b"half way")
    mirror = Mirror(folder, uri)
    sent = list(mirror.send())
    assert sent[0] == "ledger/sweep.json", "without it a folder can't be resumed"
    assert list(mirror.send()) == []
    finish(folder, 1, 0.5)
    changed = list(mirror.send())
    assert sorted(changed) == [
        f"ledger/trials/{STUDY.trial(1)}.json",
        f"stitches/{STUDY.trial(1)}.safetensors",
    ]
    assert content(copy) == content(folder), "the checkpoint went with its trial"


def test_a_stitch_that_was_beaten_goes(folder, uri, copy):
    begun(folder)
    mirror = Mirror(folder, uri)
    for number, metric in enumerate([0.5, 0.7, 0.6]):
        finish(folder, number, metric, keep="best")
        list(mirror.send())
    assert [p.name for p in (copy / "stitches").iterdir()] == [f"{STUDY.trial(1)}.safetensors"]


def test_cut_off_after_any_file_no_record_lacks_its_stitch(folder, uri, tmp_path):
    begun(folder, trials=4)
    for number in range(3):
        finish(folder, number, 0.5)
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


def test_a_trial_that_ends_while_files_are_sent_is_sent_with_its_stitch_the_next_time(
    folder, uri, copy
):
    begun(folder)
    mirror = Mirror(folder, uri)
    sending = mirror.send()
    next(sending)
    finish(folder, 2, 0.5)
    list(sending)
    record = json.loads((copy / "ledger" / "trials" / f"{STUDY.trial(2)}.json").read_text())
    assert record["status"] == "running"
    list(mirror.send())
    assert content(copy) == content(folder)


def test_a_place_that_is_taken_is_refused(folder, uri, tmp_path):
    begun(folder)
    list(Mirror(folder, uri).send())
    with pytest.raises(InputError, match="holds a sweep already; add --resume"):
        Mirror(tmp_path / "new", uri).check(resume=False)
    begun(tmp_path / "new")
    with pytest.raises(InputError, match="holds another sweep"):
        Mirror(tmp_path / "new", uri).check(resume=True)
    with pytest.raises(InputError, match="holds another sweep"):
        list(Mirror(tmp_path / "new", uri).send())


@pytest.mark.parametrize("uri", ["nowhere://x/y", "relative/path", "://"])
def test_a_uri_that_nothing_can_be_made_of_is_refused(uri, folder):
    with pytest.raises(InputError, match="--mirror"):
        Mirror(folder, uri)


def test_a_fetch_that_was_cut_off_is_begun_again(folder, uri, tmp_path, monkeypatch):
    begun(folder)
    list(Mirror(folder, uri).send())
    other = Mirror(tmp_path / "other", uri)
    read = other._read
    count = iter(range(100))
    monkeypatch.setattr(other, "_read", lambda name: read(name) if next(count) < 2 else exit_(name))
    with pytest.raises(KeyboardInterrupt):
        other.fetch()
    monkeypatch.undo()
    assert other.check(resume=True)
    other.fetch()
    assert content(tmp_path / "other") == content(folder)


def exit_(name: str) -> bytes:
    raise KeyboardInterrupt(name)


def test_a_damaged_copy_is_named(folder, uri, copy):
    begun(folder)
    list(Mirror(folder, uri).send())
    (copy / "ledger" / "sweep.json").write_text("{")
    with pytest.raises(InputError, match=r"sweep\.json is damaged"):
        Mirror(folder, uri).check(resume=True)


class Stubborn(Mirror):
    """A place that takes nothing at first, or never."""

    failures = 2

    def send(self):
        if self.failures > 0:
            self.failures -= 1
            raise OSError("no route to host")
        return super().send()


def test_a_place_that_comes_back_gets_everything(folder, uri, copy):
    begun(folder)
    mirroring = Mirroring(Stubborn(folder, uri))
    finish(folder, 0, 0.5)
    assert mirroring.finish()
    assert content(copy) == content(folder)


def test_a_place_that_takes_nothing_holds_nobody_up(folder, uri, copy):
    begun(folder)
    mirror = Stubborn(folder, uri)
    mirror.failures = 10**9
    mirroring = Mirroring(mirror)
    assert not mirroring.finish(patience=0.5)
    assert mirroring.error == "OSError: no route to host"
    assert not copy.exists()


def test_a_sweep_goes_on_on_another_machine_from_its_copy(tmp_path):
    """The driver is killed and its disk is lost; only the copy is left."""
    zoo, uri = tmp_path / "zoo", f"file://{tmp_path}/bucket"
    whole = write_config(tmp_path / "whole", zoo)
    status, output = run("sweep", whole)
    assert status == 0, output
    first = write_config(tmp_path / "first", zoo)
    process = start("sweep", first, "--mirror", uri, "--workers", 1)
    stop_when(process, tmp_path / "bucket", 3, signal.SIGKILL)
    process.communicate()
    shutil.rmtree(first.parent)
    second = write_config(tmp_path / "second", zoo)
    status, output = run("sweep", second, "--mirror", uri)
    assert status == 2
    assert "add --resume" in output
    copied = ended(tmp_path / "bucket")
    assert 3 <= copied < TRIALS
    status, output = run("sweep", second, "--mirror", uri, "--resume")
    assert status == 0, output
    assert figures(second.parent) == figures(whole.parent)
    assert figures(tmp_path / "bucket") == figures(whole.parent)


def test_messages_show_no_credentials(folder):
    with pytest.raises(InputError) as caught:
        Mirror(folder, "nowhere://key:secret@bucket/p?secret_key=hidden")
    assert "nowhere://bucket/p" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
