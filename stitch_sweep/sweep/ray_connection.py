"""The connection to Ray: start a local Ray, or join a running cluster."""

from __future__ import annotations

import contextlib
import logging
import socket
from pathlib import Path

import stitch_sweep
from stitch_sweep.config.resources import ResourcesConfig
from stitch_sweep.core import interrupts
from stitch_sweep.core.cpus import usable_cpus
from stitch_sweep.core.credentials import conceal, redact_uri
from stitch_sweep.core.errors import InputError, StoppedError
from stitch_sweep.plan.machine import check_local, format_gpu
from stitch_sweep.sweep import fork_worker, ray_internals
from stitch_sweep.sweep.ray_setup import ray
from stitch_sweep.sweep.slots import count_slots
from stitch_sweep.sweep.worker_template import WorkerTemplate

_CONNECT_SECONDS = 10


def connect(address: str | None, resources: ResourcesConfig, temporary: Path | None = None) -> int:
    """Start a local Ray, or join a running cluster.

    Args:
        address: None for a local Ray, started unless it runs; `auto` or `host:port` of a cluster.
        resources: of one trial.
        temporary: folder for the files of a local Ray; its path must be short (see `scratch.folder`).

    Returns:
        Number of workers that can run at the same time, at least 1.

    Raises:
        InputError: there is no cluster at the address, it refuses the token, or it can never run
            such a trial.
        StoppedError: a local Ray did not start.
    """
    if address is None:
        if not ray.is_initialized():
            check_local(resources)
            start_local(temporary)
        interrupts.reinstall()
        return count_slots(resources.cpu, resources.gpu_at_most)
    _join_cluster(address)
    interrupts.reinstall()
    count = count_slots(resources.cpu, resources.gpu_at_most)
    if count == 0:
        total = ray.cluster_resources()
        available = ", ".join(f"{total.get(key, 0):g} {key}" for key in ("CPU", "GPU"))
        ray.shutdown()
        raise InputError(
            f"a trial takes cpu: {resources.cpu}, gpu: {format_gpu(resources)}, which the cluster at "
            f"{redact_uri(address)} can't provide, even by adding nodes (it has {available})"
        )
    return count


def check_listening(address: str) -> None:
    """Check that a process listens at `host:port`; Ray itself would try for minutes.

    Raises:
        OSError: no process listens there.
    """
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


def start_local(temporary: Path | None, template: WorkerTemplate | None = None) -> None:
    """Start a local Ray.

    Args:
        temporary: see `connect`.
        template: makes Ray's workers; without one, each worker does its imports itself.

    Raises:
        InputError: Ray needs a token, and there is none.
        StoppedError: Ray did not start.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(ray_internals.listen_on_loopback())
        stack.enter_context(ray_internals.without_extras())
        if template is not None:
            assert temporary is not None
            stack.enter_context(ray_internals.start_workers_with(Path(fork_worker.__file__)))
            stack.enter_context(template.serving(temporary / "w"))
        try:
            ray.init(
                address="local",
                num_cpus=usable_cpus(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                # Underscored but documented; the only argument for it. Ray makes its folder readable
                # by everybody; the folder around it stays private.
                _temp_dir=None if temporary is None else str(temporary / "r"),
            )
        except ray.exceptions.AuthenticationError as error:
            raise InputError(f"Ray did not start: {error.message}") from None
        except Exception as error:  # ports, shared memory, a killed process of Ray
            reason = str(error).partition("\n")[0]
            raise StoppedError(f"Ray did not start: {reason}") from error


def _join_cluster(address: str) -> None:
    shown = redact_uri(address)
    if "/" in address:
        raise InputError(
            f"--address {shown}: must be auto or HOST:PORT, on a node of the cluster; from another "
            "machine, `ray job submit --address http://...` runs the command there "
            "(docs/tutorials/cluster.md)"
        )
    try:
        _check_access(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": [str(Path(stitch_sweep.__file__).parent)]},
        )
    except (OSError, ValueError, RuntimeError, ray.exceptions.RpcError) as error:
        reason = conceal(error, address).partition("\n")[0]
        raise InputError(f"--address {shown}: there is no Ray cluster ({reason})") from None


def _check_access(address: str) -> None:
    """Check that a cluster is there and accepts the token; Ray itself would try for half a minute.

    Raises:
        InputError: the cluster needs another token, or there is no token to read.
        OSError: no process listens at the address.
        RpcError: the process that listens is not a Ray cluster.
        ValueError: the text is not an address.
    """
    resolved = ray_internals.resolve_address(address)
    if resolved:
        check_listening(resolved)
    has_token = False
    try:
        ray_internals.load_token()
        has_token = True
        if resolved:
            ray_internals.contact_head(resolved)
    except ray.exceptions.AuthenticationError as error:
        is_refused = has_token and ray_internals.is_token_enabled()
        problem = "the cluster refuses the token" if is_refused else "there is no token"
        reason = conceal(error.message.removeprefix("RPC error: "), address)
        raise InputError(
            f"--address {redact_uri(address)}: {problem} ({reason}); put the "
            "cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN, with RAY_AUTH_MODE unset or "
            "token (docs/tutorials/cluster.md)"
        ) from None
