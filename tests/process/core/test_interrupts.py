"""Signals to whole processes: at any moment of the start, and while Ray runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

STARTED = """
from stitch_sweep.__main__ import main

print("started", flush=True)
main()
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_no_moment_of_the_start_shows_a_traceback(sign, tmp_path):
    """Signals from the entry point on; before it, Python itself starts."""
    command = [sys.executable, "-c", STARTED, "status", str(tmp_path)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(command, **pipe) for _ in range(10)]
    for number, process in enumerate(processes):
        assert process.stdout.readline() == "started\n"
        time.sleep(0.03 * number)  # a different moment for each process
        process.send_signal(sign)
    for process in processes:
        output, _ = process.communicate()
        # 2: the command had ended, because the folder contains no sweep. -sign: Python was ending.
        assert process.returncode in (130, 2, -sign), output
        assert "Traceback" not in output


CONNECTED = """
import os, signal, time
from stitch_sweep.core import interrupts; from stitch_sweep.storage import scratch
from stitch_sweep.config.resources import ResourcesConfig
from stitch_sweep.sweep.ray_connection import connect
from stitch_sweep.sweep.ray_setup import ray
import ray

with interrupts.raise_on_signal(), scratch.folder(sockets=True) as folder:
    connect(None, ResourcesConfig(), folder)
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
