"""The temporary folder of a killed process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stitch_sweep.storage import scratch

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
