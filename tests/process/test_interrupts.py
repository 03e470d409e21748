"""Signals end a command with status 130 and one sentence; killed processes leave nothing for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stitch_sweep.cli import main as cli
from stitch_sweep.core import interrupts
from stitch_sweep.core.errors import InputError
from stitch_sweep.storage import scratch

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def status(monkeypatch, tmp_path, capsys):
    """Exit status and standard error of `status`, whose work is replaced by a function."""

    def status(work) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stitch-sweep", "status", str(tmp_path)])
        monkeypatch.setattr("stitch_sweep.storage.status.read_status", work)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return status


@pytest.mark.parametrize("sign", SIGNALS)
def test_a_signal_ends_a_command_with_130_and_one_sentence(status, sign):
    handlers = [signal.getsignal(number) for number in SIGNALS]

    def work(folder: Path) -> None:
        os.kill(os.getpid(), sign)

    code, said = status(work)
    assert code == 130
    assert said.split() == interrupts.SENTENCE.split()
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_what_an_interrupted_command_raises_is_not_shown(status):
    def work(folder: Path) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise InputError("half imported") from None

    code, said = status(work)
    assert code == 130
    assert "half imported" not in said


def test_a_signal_that_comes_twice_at_once_interrupts_once():
    with interrupts.raised():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.received()


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.raised():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupts.received()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_signals_do_what_a_library_does_for_ctrl_c():
    seen = []
    with interrupts.raised():
        signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
        os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [signal.SIGINT]


STARTED = """
from stitch_sweep.__main__ import main

print("started", flush=True)
main()
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_no_moment_of_the_start_shows_a_traceback(sign, tmp_path):
    """From the entry point on; what comes before is Python's own start."""
    command = [sys.executable, "-c", STARTED, "status", str(tmp_path)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(command, **pipe) for _ in range(10)]
    for number, process in enumerate(processes):
        assert process.stdout.readline() == "started\n"
        time.sleep(0.03 * number)  # another moment for each
        process.send_signal(sign)
    for process in processes:
        output, _ = process.communicate()
        # 2: it was over, for the folder holds no sweep; by the signal: in Python's own end.
        assert process.returncode in (130, 2, -sign), output
        assert "Traceback" not in output


OWNER = """
import sys, time
from stitch_sweep.storage import scratch

with scratch.folder() as folder:
    (folder / "inner").mkdir()
    (folder / "inner" / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path):
    """A process that owns a temporary folder, and the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_folder_is_removed_once_its_owner_was_killed(owner, tmp_path, monkeypatch):
    process, folder = owner
    monkeypatch.setattr(scratch, "_bases", lambda **_: [tmp_path])
    assert scratch.remove_abandoned() == []
    assert (folder / "inner" / "file").exists()
    process.kill()
    process.wait()
    assert scratch.remove_abandoned() == [folder]
    assert list(tmp_path.iterdir()) == []


def test_folders_of_others_are_not_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "_bases", lambda **_: [tmp_path])
    for name, content in (
        ("ss-abcdefgh", None),
        ("ss-bcdefghi", b"theirs"),
        ("mine", b"stitch-sweep 1"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").touch()
        if content is not None:
            (tmp_path / name / "owner.lock").write_bytes(content)
    (tmp_path / "ss-linklink").symlink_to(tmp_path / "mine")
    assert scratch.remove_abandoned() == []
    assert len(list(tmp_path.rglob("data"))) == 3


def test_sockets_fit_below_a_long_tmpdir(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with scratch.folder(sockets=True) as folder:
        assert not folder.is_relative_to(long)
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    with scratch.folder() as folder:
        assert folder.parent == long


def test_a_ray_tmpdir_that_does_not_fit_is_named(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with (
        pytest.raises(InputError, match=f"{long} .*; set RAY_TMPDIR"),
        scratch.folder(sockets=True),
    ):
        pass
    assert list(long.iterdir()) == []


CONNECTED = """
import os, signal, time
from stitch_sweep.core import interrupts; from stitch_sweep.storage import scratch
from stitch_sweep.config.models import ResourcesConfig
from stitch_sweep.sweep import resources

resources.set_environment()
import ray

with interrupts.raised(), scratch.folder(sockets=True) as folder:
    resources.connect(None, ResourcesConfig(), folder)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", ray.is_initialized())
    ray.shutdown()
"""


def test_ray_starts_below_a_long_tmpdir_and_leaves_sigterm_to_us(tmp_path):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CONNECTED],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(long)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "interrupted True"
    assert "SIGTERM received" not in done.stderr
