"""No process of a sweep outlives it, whatever signal ended it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from stitch_sweep.tracking.program import GRACE_SECONDS
from tests.support.faults import descendants, wait_for
from tests.support.sweeps import ended, start, write_config


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
    wait_for(
        lambda: ended(tmp_path) >= 2 or process.poll() is not None, "two trials have ended", 400
    )
    below = descendants(process.pid)  # before the signal, after which they may have another parent
    assert len(below) > 5
    process.send_signal(sign)
    output, _ = process.communicate()
    end = time.monotonic()
    assert process.returncode == (-sign if sign == signal.SIGKILL else 130), output
    wait_for(lambda: not any(map(runs, below)), "all processes have ended", GRACE_SECONDS + 5)
    print(f"{sign.name}: all ended {time.monotonic() - end:.1f} s after the sweep's process")
