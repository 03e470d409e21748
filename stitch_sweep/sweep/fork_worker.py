"""The program that a local raylet runs to start a worker: it asks the worker template for a fork.

It takes the place of Ray's `default_worker.py`, with the same arguments, and becomes that program if the
template doesn't answer. It imports the standard library only, because every worker waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "STITCH_SWEEP_TEMPLATE"
"""Environment variable with the path of the template's socket."""


def main() -> None:
    """Start a worker with the arguments of this process."""
    path = os.environ.pop(VARIABLE, "")
    with contextlib.suppress(OSError):
        if path and _ask_template(path):
            return
    os.execv(sys.executable, [sys.executable, find_program(), *sys.argv[1:]])


def find_program() -> str:
    """Return the path of Ray's own program, without an import of Ray."""
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "_private/workers/default_worker.py")


def _ask_template(path: str) -> bool:
    """Return whether the template has forked a worker."""
    request = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "oom_score": Path("/proc/self/oom_score_adj").read_text(),
    }
    with socket.socket(socket.AF_UNIX) as template:
        template.connect(path)
        socket.send_fds(template, [b"+"], [0, 1, 2])
        template.sendall(json.dumps(request).encode())
        template.shutdown(socket.SHUT_WR)
        return template.recv(1) == b"+"


if __name__ == "__main__":
    main()
