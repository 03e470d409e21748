"""The worker template: a process with all imports of a worker, which is forked for each worker.

The imports of a worker take several seconds of a core. The template does them once for all workers,
while the sweep is prepared: `python -m stitch_sweep.sweep.worker_template FD`. It computes
nothing and uses no GPU, so a fork is a worker like any other. It ends with the sweep's process.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from stitch_sweep.sweep.fork_worker import VARIABLE, find_program

MODULES = (
    "torch",
    "pandas",
    "stitch_sweep.training.workbench",
    "stitch_sweep.storage.ledger_writer",
    # What Ray imports itself.
    "fsspec",
    "google.protobuf.message",
    "jsonschema",
    "pyarrow.fs",
    "requests",
    "rich.progress",
)
"""What the template imports. Never Ray: forks of a process that has imported it draw the same random
identifiers, so two workers would create the same object."""
_NO_JOB = {"RAY_JOB_ID": "ffffffff"}
"""A worker that is started in advance; the raylet gives it to any job."""
_REQUEST_SECONDS = 5.0
"""Longest time to wait for a part of a request; other workers wait as well."""
IS_SUPPORTED = sys.platform == "linux"
"""Whether this system has what the template needs: safe forks, and an end together with the parent."""
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class WorkerTemplate:
    """The sweep's side of a worker template: starts it, connects it to a raylet, and ends it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            # Without -P, a user's file in the current folder could replace a module.
            [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for the sweep, which ends the template. In a session of its own, Linux would give
            # it another share of a busy machine.
            process_group=0,
        )
        theirs.close()

    @contextlib.contextmanager
    def serving(self, path: Path) -> Iterator[None]:
        """Let a raylet that is started in the block get its workers from the template.

        Args:
            path: of the template's socket, in a folder that is private to the user.
        """
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1024)
            # A template that has died is noticed by each worker's `fork_worker`.
            with contextlib.suppress(OSError):
                socket.send_fds(self._control, [b"+"], [listener.fileno()])
        os.environ[VARIABLE] = str(path)
        try:
            yield
        finally:
            del os.environ[VARIABLE]

    def close(self) -> None:
        """End the template; its workers end with their raylet."""
        self._process.kill()
        self._process.wait()
        self._control.close()


def main(control: socket.socket) -> None:
    """Import all modules, then fork a worker per request until the sweep's process ends."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    for module in MODULES:
        import_module(module)
    _, descriptors, *_ = socket.recv_fds(control, 1, 1)
    if not descriptors:
        return  # the sweep needs no worker
    listener = socket.socket(fileno=descriptors[0])
    connection, request, streams = _next_request(listener, control)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers leave no zombies
    gc.collect()
    gc.freeze()  # a collection in a worker would copy the memory that it shares with the template
    while os.fork():
        connection.close()
        for stream in streams:
            os.close(stream)
        connection, request, streams = _next_request(listener, control)
    connection.sendall(b"+")
    for ours in (connection, listener, control):
        ours.close()
    _become_worker(request, streams)


def _next_request(
    listener: socket.socket, control: socket.socket
) -> tuple[socket.socket, dict[str, Any], list[int]]:
    """Wait for a request; return its connection, its content, and the worker's standard streams.

    Raises:
        SystemExit: the sweep's process has ended.
    """
    while True:
        ready, *_ = select.select([control, listener], [], [])
        if control in ready:
            sys.exit()
        connection, _ = listener.accept()
        connection.settimeout(_REQUEST_SECONDS)
        try:
            return connection, *_receive(connection)
        except (OSError, ValueError):  # the process that asks was killed, or has stopped
            connection.close()


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive a request and the worker's standard streams.

    Raises:
        OSError: nothing has arrived for a while.
        ValueError: the request is not complete.
    """
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    try:
        data = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        return json.loads(data), list(streams)
    except (OSError, ValueError):
        for stream in streams:
            os.close(stream)
        raise


def _become_worker(request: dict[str, Any], streams: list[int]) -> None:
    """Run Ray's worker program as if the raylet had started this process."""
    os.setpgid(0, 0)  # the raylet ends the process group of a worker that has ended
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"] | _NO_JOB)
    with contextlib.suppress(OSError):  # lower values need a privilege
        os.setpriority(os.PRIO_PROCESS, 0, request["priority"])
        Path("/proc/self/oom_score_adj").write_text(request["oom_score"])
    program = find_program()
    sys.argv = [program, *request["arguments"]]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
