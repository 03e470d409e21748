"""The requests of workers to their template, some of which never arrive."""

import json
import os
import socket
from pathlib import Path

import pytest

from stitch_sweep.sweep import worker_template
from stitch_sweep.sweep.worker_template import _next_request


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(16)
        yield listener


def ask(listener: socket.socket, data: bytes | None, *, ends: bool = True) -> socket.socket:
    """Connect, and send standard streams and data, all of it or a part."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(listener.getsockname())
    if data is not None:
        socket.send_fds(connection, [b"+"], [0, 1, 2])
        connection.sendall(data)
    if ends:
        connection.shutdown(socket.SHUT_WR)
    return connection


def test_a_request_that_never_arrives_is_skipped(listener, monkeypatch):
    """A worker that is killed, or stops, while it asks costs the next one nothing but a wait."""
    monkeypatch.setattr(worker_template, "_REQUEST_SECONDS", 0.05)
    control, other = socket.socketpair()
    request = {"arguments": ["a"], "environment": {"B": "\u00e9"}}
    data = json.dumps(request).encode()
    before = set(Path("/proc/self/fd").iterdir())
    broken = [
        ask(listener, None),
        ask(listener, b""),
        ask(listener, data[:-5]),
        ask(listener, None, ends=False),
        ask(listener, data, ends=False),
    ]
    asking = [*broken, ask(listener, data)]
    connection, content, streams = _next_request(listener, control)
    assert content == request
    assert [os.fstat(stream).st_ino for stream in streams] == [os.fstat(n).st_ino for n in range(3)]
    connection.sendall(b"+")
    assert [asked.recv(1) for asked in asking] == [b""] * len(broken) + [b"+"]
    for stream in streams:
        os.close(stream)
    for opened in (connection, *asking):
        opened.close()
    assert set(Path("/proc/self/fd").iterdir()) == before

    other.close()
    with pytest.raises(SystemExit):
        _next_request(listener, control)
    control.close()
