"""The local Ray that starts in the background, and its workers' template."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

COMMON = """
import os, signal, subprocess, sys, time
from stitch_sweep.core import interrupts
from stitch_sweep.sweep.local_start import LocalStart
from tests.support.faults import descendants, kill, named, wait_for

def template():
    return named(descendants(os.getpid()), b"stitch_sweep.sweep.worker_template")

def about_worker():
    return os.getpid(), os.getppid(), "torch" in sys.modules, os.getpgid(0), os.environ.get("MARK")
"""

FORKED = """
with interrupts.raise_on_signal():
    start = LocalStart()
    os.environ["MARK"] = "of the driver"
    folder = start.wait()
    from stitch_sweep.sweep.ray_setup import ray
    remote = ray.remote(about_worker)
    pid, parent, has_torch, group, mark = ray.get(remote.remote())
    parents = template()
    assert parent in parents and len(parents) == 1, (parent, parents)
    assert has_torch and group == pid and mark == "of the driver", (has_torch, group, mark)

    # The tasks of a killed worker get another one.
    kill(pid)
    assert ray.get(remote.remote())[0] != pid

    # Nothing runs that a sweep doesn't use.
    for name in (b"dashboard/dashboard.py", b"monitor.py", b"log_monitor", b"ray::DashboardAgent"):
        assert named(descendants(os.getpid()), name) == [], name

    # The handler of this process is still in place, though another thread has started Ray.
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted")

    start.close()
    wait_for(lambda: not descendants(os.getpid()), "all processes have ended")
    assert not folder.exists()
print("done")
"""

WITHOUT_TEMPLATE = """
start = LocalStart()
start.begin_template()
kill(*wait_for(template, "the template has started"))
start.wait()
from stitch_sweep.sweep.ray_setup import ray
pid, parent, has_torch, group, mark = ray.get(ray.remote(about_worker).remote())
assert parent in named(descendants(os.getpid()), b"raylet/raylet"), "Ray starts workers itself"
start.close()
print("done")
"""

SLOW_WORKERS = """
start = LocalStart()
start.begin_template()
(pid,) = wait_for(template, "the template has started")
os.kill(pid, signal.SIGSTOP)
# Longer than the 60 s after which a raylet gives up by default; no sooner event says so. Another process
# does it, because `ray.init` keeps this one's threads waiting.
subprocess.Popen(["sh", "-c", f"sleep 70; kill -CONT {pid}"])
start.wait()
from stitch_sweep.sweep.ray_setup import ray
print(ray.get(ray.remote(lambda: "worked").remote()))
start.close()
"""

CLOSED_EARLY = """
start = LocalStart()
start.begin()
wait_for(lambda: len(descendants(os.getpid())) > 1, "Ray is starting")
start.close()
wait_for(lambda: not descendants(os.getpid()), "all processes have ended")
print("done")
"""


def _run(script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", COMMON + script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_workers_are_forks_of_a_template_that_has_their_imports():
    assert _run(FORKED)[-2:] == ["interrupted", "done"]  # before: Ray about the killed worker


def test_workers_start_without_their_template():
    assert _run(WITHOUT_TEMPLATE) == ["done"]


@pytest.mark.long
def test_ray_starts_on_a_machine_that_is_busy_for_more_than_a_minute():
    assert _run(SLOW_WORKERS) == ["worked"]


def test_a_start_that_is_no_longer_needed_leaves_nothing_behind():
    assert _run(CLOSED_EARLY) == ["done"]


TEMPLATE_IMPORTS = """
from importlib import import_module
from stitch_sweep.sweep.worker_template import MODULES
for module in MODULES:
    import_module(module)
print("ray" in sys.modules)
"""


def test_workers_import_ray_themselves():
    """Forks of a process that has imported Ray draw the same random identifiers."""
    assert _run(TEMPLATE_IMPORTS) == ["False"]


NAMESAKES = """
import pathlib, tempfile
from stitch_sweep.sweep.worker_template import WorkerTemplate
from stitch_sweep.tracking.process import TrackingProcess
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    marker = pathlib.Path("imported").absolute()
    for name in ("requests", "rich", "mlflow", "sqlite3"):
        pathlib.Path(name + ".py").write_text(f"open({str(marker)!r}, 'w')")
    template = WorkerTemplate()
    tracking = TrackingProcess(pathlib.Path("sweep").absolute(), "test", "sqlite:///runs.db")
    template._control.close()  # it ends when it has imported everything
    print(template._process.wait())
    tracking.finish(patience=20)
    print(marker.exists(), tracking.error)
"""


def test_a_file_of_the_user_takes_no_place_of_a_module():
    assert _run(NAMESAKES) == ["0", "False "]
