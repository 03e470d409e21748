"""The requests of workers to their template, some of which never arrive."""

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import IO

import pytest

from stitch_sweep.sweep import worker_template
from stitch_sweep.sweep.worker_template import _next_request


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(16)
        yield listener


@pytest.fixture
def stream(tmp_path):
    """A file that stands for the three standard streams, and is open nowhere else."""
    with (tmp_path / "stream").open("w") as stream:
        yield stream


def ask(
    listener: socket.socket, stream: IO, data: bytes | None, *, ends: bool = True
) -> socket.socket:
    """Connect, and send standard streams and data, all of it or a part."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(listener.getsockname())
    if data is not None:
        socket.send_fds(connection, [b"+"], [stream.fileno()] * 3)
        connection.sendall(data)
    if ends:
        connection.shutdown(socket.SHUT_WR)
    return connection


def count_descriptors(stream: IO) -> int:
    """Return how many of this process's descriptors refer to the file."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # another thread has closed it
            count += str(descriptor.readlink()) == stream.name
    return count


def test_a_request_that_never_arrives_is_skipped(listener, stream, monkeypatch):
    """A worker that is killed, or stops, while it asks costs the next one nothing but a wait."""
    monkeypatch.setattr(worker_template, "_REQUEST_SECONDS", 0.05)
    control, other = socket.socketpair()
    request = {"arguments": ["a"], "environment": {"B": "\u00e9"}}
    data = json.dumps(request).encode()
    broken = [
        ask(listener, stream, None),
        ask(listener, stream, b""),
        ask(listener, stream, data[:-5]),
        ask(listener, stream, None, ends=False),
        ask(listener, stream, data, ends=False),
    ]
    asking = [*broken, ask(listener, stream, data)]
    connection, content, streams = _next_request(listener, control)
    assert content == request
    assert [os.fstat(received).st_ino for received in streams] == [
        os.fstat(stream.fileno()).st_ino
    ] * 3
    connection.sendall(b"+")
    assert [asked.recv(1) for asked in asking] == [b""] * len(broken) + [b"+"]
    for received in streams:
        os.close(received)
    for opened in (connection, *asking):
        opened.close()
    assert count_descriptors(stream) == 1

    other.close()
    with pytest.raises(SystemExit):
        _next_request(listener, control)
    control.close()
