"""A process that is killed while it writes a checkpoint."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stitch_sweep.storage.checkpoint_files import (
    read_checkpoints,
)


def contents(path: Path) -> list[bytes | None]:
    return [found.data for found in read_checkpoints(path)]


KILLED = """
import os, signal, sys
from pathlib import Path
from stitch_sweep.storage.checkpoint_files import write_checkpoint

path, left = Path(sys.argv[1]), int(sys.argv[2])
if sys.argv[3] == "no links":
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")
    os.link = refuse

def before(event, arguments):
    global left
    if event in ("open", "os.link", "os.rename", "os.remove"):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

data = b"new" * 100
sys.addaudithook(before)
write_checkpoint(path, data)
"""


@pytest.mark.parametrize("how", ["links", "no links"])
@pytest.mark.parametrize(
    "found", [[], [b"second"], [b"second", b"first"], [b"damaged", b"first"], [None, b"first"]]
)
def test_killed_before_any_file_operation_a_whole_one_is_left(tmp_path, how, found):
    """`found`: newest checkpoint, and the one before. A damaged one must not replace a whole one."""
    whole = {b"first", b"second", b"new" * 100}
    for count in itertools.count():
        path = tmp_path / str(count) / "checkpoint"
        path.parent.mkdir()
        for name, data in zip((path, path.with_name("checkpoint.previous")), found, strict=False):
            if data is not None:
                name.write_bytes(data)
        before = [data for data in found if data in whole]
        done = subprocess.run([sys.executable, "-c", KILLED, path, str(count), how], check=False)
        after = contents(path)
        assert set(after) <= {*whole, b"damaged"}, "no reader sees a partial file"
        assert len(whole & set(after)) >= min(1, len(before))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert count >= 3, "the process was killed before each of its operations"
    assert after[0] == b"new" * 100
    assert after[1:] == ([found[0]] if found and found[0] else found[1:])
    assert not list(path.parent.glob(".*"))
