"""No process of a sweep outlives it, whatever signal ended it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from stitch_sweep.tracking.program import GRACE_SECONDS
from tests.support.faults import descendants, wait_for
from tests.support.sweeps import start, stop_when, write_config


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_process_outlives_a_sweep_by_more_than_the_grace(sign, tmp_path, zoo):
    config = write_config(
        tmp_path, zoo, tracking__tensorboard=True, tracking__wandb={"mode": "offline"}
    )
    process = start("sweep", config, "--workers", 1)
    stop_when(process, tmp_path, 2, sign)
    below = descendants(process.pid)
    assert len(below) > 5
    output, _ = process.communicate()
    ended = time.monotonic()
    assert process.returncode == (-sign if sign == signal.SIGKILL else 130), output
    wait_for(lambda: not any(map(runs, below)), "all processes have ended", GRACE_SECONDS + 5)
    print(f"{sign.name}: all ended {time.monotonic() - ended:.1f} s after the sweep's process")
