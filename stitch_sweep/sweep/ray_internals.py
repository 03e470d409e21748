"""Private names of Ray, each with the reason why no public name suffices.

Ray may change them in any version. `tests/process/sweep/test_ray_internals.py` has a test for each, which
fails when an upgrade of Ray breaks it.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# First, because it sets the environment that Ray reads.
from stitch_sweep.sweep.ray_setup import ray

# isort: split
from ray._private import ray_constants, services
from ray._private.authentication import authentication_token_setup, authentication_utils
from ray._private.node import Node
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.tune.execution.class_cache import _ActorClassCache

Printer = Callable[..., None]
_PROCESSES = ("raylet", "gcs_server")

_worker: Any = ray._private.worker


def is_local_head() -> bool:
    """Return whether this process started the Ray that it uses.

    Ray has no public function for it.
    """
    node = _worker._global_node
    return node is not None and node.is_head()


def find_dead_processes() -> list[tuple[str, int]]:
    """List the ended processes without which a local Ray can't continue.

    Ray restarts none of them, and reports the end of the raylet by exiting the driver.

    Returns:
        Name (`raylet` or `gcs_server`) and return code of each; nothing if this process didn't start Ray.
    """
    if not is_local_head():
        return []
    return [
        (kind, process.returncode)
        for kind, process in _worker._global_node.dead_processes()
        if kind in _PROCESSES
    ]


@contextlib.contextmanager
def replace_log_printer(make_printer: Callable[[Printer], Printer]) -> Iterator[None]:
    """Replace the function that prints Ray's messages and its processes' logs, within a block.

    `log_to_driver=False` doesn't stop the raylet's log after its death, and Ray prints on standard
    output, which is reserved for results.

    Args:
        make_printer: gets Ray's own function, returns its replacement with the same arguments.
    """
    with _replace(_worker, "print_to_stdstream", make_printer(_worker.print_to_stdstream)):
        yield


@contextlib.contextmanager
def listen_on_loopback() -> Iterator[None]:
    """Let a Ray that is started in the block listen on the loopback interface only.

    Ray does that on systems where it doesn't support clusters. On Linux no argument has this effect:
    127.0.0.1 is replaced by the machine's own address. The environment variable behind this constant
    would also change how a cluster is joined.
    """
    with _replace(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextlib.contextmanager
def without_extras() -> Iterator[None]:
    """Let a Ray that is started in the block consist of a GCS server, a raylet and workers.

    `ray.init` also starts the dashboard's server (with `include_dashboard=False`, without pages), an
    autoscaler, a reader of log files, and two agents. It waits for most of them, and their imports take
    4 s of a core; a sweep on one machine uses none of them.
    """
    agent = [sys.executable, "-I", "-S", str(Path(__file__).with_name("idle_agent.py"))]
    with contextlib.ExitStack() as stack:
        for method in ("start_monitor", "start_api_server", "start_log_monitor"):
            stack.enter_context(_replace(Node, method, lambda node, **options: None))
        name = "_build_python_executable_command_memory_profileable"
        stack.enter_context(_replace(services, name, lambda *arguments, **options: agent))
        yield


@contextlib.contextmanager
def start_workers_with(program: Path) -> Iterator[None]:
    """Let a Ray that is started in the block run a program in the place of its `default_worker.py`.

    `ray.init` has no argument for it.
    """
    start_raylet = services.start_raylet
    signature = inspect.signature(start_raylet)

    def start(*arguments: Any, **options: Any) -> Any:
        call = signature.bind(*arguments, **options)
        call.arguments["worker_path"] = str(program)
        return start_raylet(*call.args, **call.kwargs)

    with _replace(services, "start_raylet", start):
        yield


@contextlib.contextmanager
def run_trials_in_any_worker() -> Iterator[None]:
    """Let Tune's trials run in the workers that Ray has started in advance, within a block.

    Tune gives its trials an environment of their own, which has a variable for PyTorch Lightning and the
    driver's credentials. A local Ray has the driver's environment already. Without this, Ray would
    start a new worker for each trial, through the agent that `without_extras` replaces.
    """

    def get(cache: Any, trainable: Any) -> Any:
        if trainable not in cache._cache:
            cache._cache[trainable] = ray.remote(trainable)
        return cache._cache[trainable]

    with _replace(_ActorClassCache, "get", get):
        yield


def resolve_address(address: str) -> str | None:
    """Return the `HOST:PORT` that `ray.init` connects to for an address such as `auto`; None if none.

    Ray has no public function for it.

    Raises:
        ValueError: the text is not an address.
    """
    resolved: str | None = services.canonicalize_bootstrap_address(address)
    return resolved


def load_token() -> None:
    """Use the user's token for clusters that need one.

    `ray start` uses it by default; a driver that joins a cluster doesn't.

    Raises:
        AuthenticationError: token authentication is enabled, and there is no token.
    """
    # Ray warns at every use of a token.
    logging.getLogger(authentication_token_setup.__name__).setLevel(logging.ERROR)
    authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    authentication_token_setup.ensure_token_if_auth_enabled(create_token_if_missing=False)


def is_token_enabled() -> bool:
    """Return whether this process uses token authentication.

    Ray has no public function for it.
    """
    return bool(authentication_utils.is_token_auth_enabled())


def contact_head(address: str) -> None:
    """Connect to a cluster's head once; `ray.init` would retry for half a minute.

    Raises:
        AuthenticationError: the head refuses the token, or needs one.
        RpcError: no Ray cluster listens at the address.
    """
    GcsClient(address=address)


@contextlib.contextmanager
def _replace(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
