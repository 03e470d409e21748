"""Faults for sweeps: nodes that die, disks that fill, servers that misbehave."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DRIVER = """
from functools import partial
import stitch_sweep.sweep.run as sweeps
from stitch_sweep.cli.main import main

# With a report and a checkpoint after every epoch, a fault at any moment hits one of them.
sweeps.run_sweep = partial(sweeps.run_sweep, report_seconds=0.0, checkpoint_seconds=0.0)
main()
"""
"""`stitch-sweep` with a report and a checkpoint after every epoch."""

CLOCK = """
import os, random, time

_plain, _began = time.time, time.monotonic()
# A random moment for every process, which depends on the seed and the process id.
_when = random.Random(f"{os.environ['STEP_BACK_SEED']}-{os.getpid()}").uniform(0, 20)

def _stepped():
    return _plain() - (3600 if time.monotonic() - _began > _when else 0)

time.time = _stepped
"""
"""A `sitecustomize.py` that sets the clock of every process back an hour at some moment."""


def wait_for(condition: Callable[[], Any], what: str, limit: float = 120.0) -> Any:
    """Wait until a condition is true, and return its value; it is checked every few milliseconds."""
    until = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < until, f"{what}: not within {limit:g} seconds"
        time.sleep(0.002)  # between two looks
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def named(pids: list[int], name: bytes) -> list[int]:
    """Return the processes whose command line contains a word."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if name in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def kill(*pids: int) -> None:
    """Send SIGKILL, which no process can handle."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_tree(process: subprocess.Popen[str]) -> None:
    """Kill a process with its descendants, and wait until the last of them is gone."""
    victims = [process.pid, *descendants(process.pid)]
    kill(*victims)
    process.wait()
    wait_for(lambda: not any(_runs(pid) for pid in victims), "killed processes are gone")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def can_mount() -> bool:
    """Return whether this user may create mount namespaces."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def without_view_of(folder: Path) -> list[str]:
    """Return the prefix of a command to run it where a folder is empty and read-only."""
    folder.mkdir(parents=True, exist_ok=True)
    script = 'mount -t tmpfs -o ro none "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(folder)]


class _Namespace:
    """A namespace that a helper process keeps open; it ends with this process.

    Args:
        kind: as `unshare` calls it, `mount` or `net`.
        prepare: a shell command to run in it first.
    """

    def __init__(self, kind: str, prepare: str = ":") -> None:
        self._holder = subprocess.Popen(
            ["unshare", f"--{kind}", "sh", "-c", f"{prepare} && echo ready && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


class Mounts(_Namespace):
    """A mount namespace in which a folder is a separate file system.

    Args:
        folder: the folder; outside of the namespace it is unchanged.
        size: of the file system, as `mount` takes it.
    """

    def __init__(self, folder: Path, size: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._inside = folder
        super().__init__("mount", f"mount -t tmpfs -o size={size} none '{folder}'")

    @property
    def folder(self) -> Path:
        """The folder in the namespace, as a path outside of it."""
        return Path(f"/proc/{self._holder.pid}/root{self._inside}")

    @property
    def enter(self) -> list[str]:
        """The prefix of a command to run it in the namespace."""
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--wdns={Path.cwd()}"]

    def fill(self) -> None:
        """Fill the file system to its last byte."""
        block = bytes(1 << 16)
        with (
            (self.folder / "ballast").open("wb", buffering=0) as file,
            contextlib.suppress(OSError),
        ):
            while True:
                file.write(block)

    def empty(self) -> None:
        """Undo `fill`."""
        (self.folder / "ballast").unlink()

    def read_only(self, below: str) -> None:
        """Make a subfolder read-only."""
        path = self._inside / below
        script = f"mount --bind '{path}' '{path}' && mount -o remount,bind,ro '{path}'"
        subprocess.run([*self.enter, "sh", "-c", script], check=True)

    def writable(self, below: str) -> None:
        """Undo `read_only`."""
        subprocess.run([*self.enter, "umount", "-l", str(self._inside / below)], check=True)


def can_split() -> bool:
    """Return whether this user may create network namespaces and virtual cables."""
    if not can_mount() or shutil.which("ip") is None:
        return False
    command = ["unshare", "--net", "ip", "link", "add", "probe", "type", "veth"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Cable(_Namespace):
    """A network namespace behind a virtual cable, which can be cut.

    Attributes:
        here: address of this end of the cable.
        there: address of the other end.
    """

    def __init__(self) -> None:
        super().__init__("net")
        pid = self._holder.pid
        # Link-local addresses are free.
        network = f"169.254.{1 + pid % 253}"
        self.here, self.there = f"{network}.1", f"{network}.2"
        _ip(f"link add cable{pid} type veth peer name far netns {pid}")
        _ip(f"address add {self.here}/24 dev cable{pid}")
        _ip(f"link set cable{pid} up")
        _ip(f"address add {self.there}/24 dev far", self.enter)
        _ip("link set lo up", self.enter)
        self.mend()

    @property
    def enter(self) -> list[str]:
        """The prefix of a command to run it at the other end."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    def cut(self) -> None:
        """Drop all packets without an error."""
        _ip("link set far down", self.enter)

    def mend(self) -> None:
        """Undo `cut`; TCP sends lost packets again."""
        _ip("link set far up", self.enter)


def _ip(command: str, before: Sequence[str] = ()) -> None:
    subprocess.run([*before, "ip", *command.split()], check=True)


class Node:
    """One machine of a cluster: `ray start` and its descendants."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._said: list[str] = []
        self._up = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.append(line)
            if "Ray runtime started" in line:
                self._up.set()

    def wait(self) -> None:
        """Wait until the node has joined the cluster."""
        wait_for(lambda: self._up.is_set() or self.process.poll() is not None, "a node starts")
        assert self._up.is_set(), "".join(self._said)

    def workers(self, name: bytes) -> list[int]:
        """Return the node's Ray workers whose title contains a word."""
        return named(descendants(self.process.pid), name)

    def kill(self) -> None:
        kill_tree(self.process)


class Cluster:
    """A Ray cluster of several nodes on one machine: a head, which trains nothing, and workers.

    Args:
        workers: number of workers.
        head: prefix of the command that starts the head; the driver runs on its node.
        worker: prefix of the commands that start workers.
        host: address of all nodes that are added without one.
        **environment: of the nodes.
    """

    def __init__(
        self,
        workers: int,
        head: list[str] | None = None,
        worker: list[str] | None = None,
        host: str = "127.0.0.1",
        **environment: str,
    ) -> None:
        self._host = host
        # In /tmp, because the path of a socket has at most 107 characters.
        self._scratch = tempfile.mkdtemp(prefix="faults-", dir="/tmp")
        self._before_head, self._before_worker = head or [], worker or []
        self.environment = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",  # for a machine that is busy
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            # Ray notices a dead node within seconds.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "500",
            **environment,
        }
        self.workers: list[Node] = []
        self._nodes = itertools.count()
        try:
            self.start_head()
            for node in [self.add_worker() for _ in range(workers)]:
                node.wait()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    def start_head(self) -> None:
        """Start the first head, or the head of a new cluster after a death."""
        self._port = free_port()
        self.head = self._start(
            [*self._before_head, *_START, "--head", f"--port={self._port}", "--num-cpus=0"],
            [f"--node-ip-address={self._host}", "--include-dashboard=false"],
        )
        self.head.wait()

    def add_worker(self, before: list[str] | None = None, host: str = "") -> Node:
        """Start a further machine with one CPU; it joins the cluster when it is ready."""
        before = self._before_worker if before is None else before
        node = self._start(
            [*before, *_START, f"--address={self.address}", "--num-cpus=1"],
            [f"--node-ip-address={host or self._host}"],
        )
        self.workers.append(node)
        return node

    def kill_worker(self, node: Node) -> None:
        self.workers.remove(node)
        node.kill()

    def kill_head(self) -> None:
        """Kill the head, and with it the workers, which belong to no cluster any more."""
        self.head.kill()
        for node in list(self.workers):
            self.kill_worker(node)

    def close(self) -> None:
        self.kill_head()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _start(self, command: list[str], options: list[str]) -> Node:
        # Without separate folders, nodes that start at the same time would choose the same sockets.
        common = [
            *("--block", "--num-gpus=0", "--object-store-memory=200000000"),
            *("--dashboard-agent-listen-port=0", f"--temp-dir={self._scratch}/{next(self._nodes)}"),
        ]
        return Node(
            subprocess.Popen(
                [*command, *common, *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )
        )


_START = [sys.executable, "-m", "ray.scripts.scripts", "start"]


class Driver:
    """The process of a sweep, which a test can kill.

    Args:
        config: the configuration, as the process sees it.
        *arguments: of `stitch-sweep sweep`.
        before: prefix of the command.
        **environment: additional environment variables.
    """

    def __init__(
        self, config: Path, *arguments: str, before: list[str] | None = None, **environment: str
    ) -> None:
        self._said: list[str] = []
        self.process = subprocess.Popen(
            [*(before or []), sys.executable, "-c", DRIVER, "sweep", str(config), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.append(line)

    @property
    def said(self) -> str:
        return "".join(self._said)

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill this process alone, without its descendants."""
        self.process.kill()
        self.process.wait()

    def wait(self, limit: float = 300.0) -> int:
        """Wait until the process ends by itself, and return its exit status."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not over within {limit:g} seconds:\n{self.said}") from None
        self._thread.join(10)  # a descendant that lives on may hold the pipe
        return status


class Proxy:
    """A proxy before an MLflow server, which simulates faults of networks and servers.

    Attributes:
        mode: `well`; `slow`: every answer takes half a second; `hang`: no answer; `error`: status 500;
            `gone`: the connection is closed; `deaf`: the server handles the request, and its answer
            is lost; `moody`: every eleventh request gets one of the last three.
        served: number of requests by mode.

    Args:
        port: of the server, on this machine.
    """

    def __init__(self, port: int) -> None:
        self.mode = "well"
        self._moods = itertools.cycle(
            mood for bad in ("deaf", "error", "gone") for mood in (*["well"] * 10, bad)
        )
        self.served: dict[str, int] = {}
        self._changed = threading.Condition()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                """Log nothing."""

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                mode = proxy.mode
                if mode == "moody":
                    mode = next(proxy._moods)
                proxy.served[mode] = proxy.served.get(mode, 0) + 1
                if mode == "hang":
                    with proxy._changed:
                        proxy._changed.wait_for(lambda: proxy.mode != mode)
                if mode in ("hang", "gone"):
                    self.close_connection = True
                    return
                if mode == "slow":
                    with proxy._changed:
                        proxy._changed.wait_for(lambda: proxy.mode != mode, timeout=0.5)
                if mode == "error":
                    self._answer(500, b"broken", {})
                    return
                upstream = HTTPConnection("127.0.0.1", port)
                try:
                    headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                    upstream.request(self.command, self.path, body, headers)
                    answer = upstream.getresponse()
                    content = answer.read()
                except (OSError, HTTPException):
                    self.close_connection = True
                    return
                finally:
                    upstream.close()
                if mode == "deaf":
                    self.close_connection = True
                    return
                self._answer(answer.status, content, dict(answer.getheaders()))

            def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    if key.lower() not in (
                        *("content-length", "transfer-encoding"),
                        *("connection", "date", "server"),
                    ):
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client has given up
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def behave(self, mode: str) -> None:
        with self._changed:
            self.mode = mode
            self._changed.notify_all()

    def close(self) -> None:
        self.behave("gone")
        self._server.shutdown()
        self._server.server_close()


class Tracking:
    """A real MLflow server, which can be stopped and restarted.

    Args:
        folder: for its database and artifacts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        return self._folder / "mlflow.db"

    def start(self) -> None:
        folder = self._folder
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                *("--host", "127.0.0.1", "--port", str(self.port)),
                *("--backend-store-uri", f"sqlite:///{self.database}"),
                *("--artifacts-destination", str(folder / "artifacts")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        wait_for(self._answers, "the MLflow server starts")

    def stop(self) -> None:
        kill_tree(self._process)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the MLflow server ended"
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


@contextlib.contextmanager
def closing(thing: Any) -> Iterator[Any]:
    try:
        yield thing
    finally:
        thing.close()
