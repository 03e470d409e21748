"""The private names of Ray that Stitch Sweep uses: an upgrade of Ray that breaks one fails here."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from stitch_sweep.sweep import ray_internals
from stitch_sweep.sweep.ray_setup import ray, tune
from stitch_sweep.sweep.scheduler import WaitForWorkers

LOCAL_RAY = """
import os, signal
import ray
from stitch_sweep.config.resources import ResourcesConfig
from stitch_sweep.storage import scratch
from stitch_sweep.sweep.ray_connection import connect
from stitch_sweep.sweep.ray_internals import (
    find_dead_processes, is_local_head, replace_log_printer,
)
from tests.support.faults import descendants, named, wait_for

assert not is_local_head()
with scratch.folder(sockets=True) as folder:
    connect(None, ResourcesConfig(), folder)
    assert is_local_head()
    assert find_dead_processes() == []
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    assert (folder / "r").is_dir()
    printed = []
    with replace_log_printer(lambda printer: lambda data, **options: printed.append(data)):
        ray._private.worker.print_to_stdstream({"lines": ["x"]}, ignore_prefix=False)
    assert printed == [{"lines": ["x"]}]
    for pid in named(descendants(os.getpid()), b"raylet/raylet"):
        os.kill(pid, signal.SIGKILL)
    name, status = wait_for(find_dead_processes, "the raylet is known to be dead")[0]
    print(name, status, flush=True)
    for pid in descendants(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    os._exit(0)
"""


def test_a_local_ray_listens_on_loopback_and_its_dead_processes_are_found():
    done = subprocess.run(
        [sys.executable, "-c", LOCAL_RAY], capture_output=True, text=True, check=False
    )
    # Without the replacement, Ray prints the log of the dead raylet too.
    assert "raylet -9" in done.stdout.splitlines(), done.stdout + done.stderr


def test_ray_prints_with_the_arguments_that_the_replacement_takes():
    printer = ray._private.worker.print_to_stdstream
    assert list(inspect.signature(printer).parameters) == ["data", "ignore_prefix"]


def test_addresses_are_resolved():
    assert ray_internals.resolve_address("10.1.2.3:6379") == "10.1.2.3:6379"
    assert ray_internals.resolve_address("local") is None
    with pytest.raises(ValueError, match="Invalid address"):
        ray_internals.resolve_address("nonsense")


TOKEN = """
import os, sys
from stitch_sweep.sweep.ray_internals import is_token_enabled, load_token
from stitch_sweep.sweep.ray_setup import ray
try:
    load_token()
    print(is_token_enabled())
except ray.exceptions.AuthenticationError:
    print("no token")
"""


@pytest.mark.parametrize(
    ("environment", "printed"),
    [
        ({}, "False"),
        ({"RAY_AUTH_TOKEN": "0" * 32}, "True"),
        ({"RAY_AUTH_TOKEN": "0" * 32, "RAY_AUTH_MODE": "disabled"}, "False"),
        ({"RAY_AUTH_MODE": "token"}, "no token"),
    ],
)
def test_the_users_token_is_loaded(environment, printed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", TOKEN], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed, done.stderr


def test_the_statistics_of_an_ended_trial_are_dropped():
    trial = tune.experiment.Trial("__fake", stub=True)
    trial.update_last_result({"training_iteration": 1, "loss": 0.5})
    assert trial.metric_analysis
    WaitForWorkers().on_trial_complete(None, trial, {})
    assert not trial.metric_analysis
    assert not trial.metric_n_steps
