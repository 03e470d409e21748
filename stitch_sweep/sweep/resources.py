"""Ray: a local one or a running cluster, and how many trials fit."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from stitch_sweep.config.models import ResourcesConfig
from stitch_sweep.core import interrupts
from stitch_sweep.core.credentials import conceal, public_uri
from stitch_sweep.core.errors import InputError, StoppedError

# Read by Ray when it is imported and started.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

UNSAID = 64
"""Trials that are asked of an autoscaling cluster that doesn't say how many it can run."""
_SLOTS_SECONDS = 5.0


def set_environment() -> None:
    """Telemetry off; Tune's own snapshots, loggers and tables off. Before Ray is imported."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def check_local(resources: ResourcesConfig) -> None:
    """See that this machine can run one trial.

    Raises:
        InputError: it has no GPU, or too few CPUs.
    """
    if resources.gpu_at_most > torch.cuda.device_count():
        raise InputError(
            f"resources.gpu is {_shown(resources)}, but this machine has "
            f"{torch.cuda.device_count() or 'no'} GPU that torch can use; "
            "set it to 0, or give --address of a cluster that has one"
        )
    count = len(os.sched_getaffinity(0))
    if resources.cpu > count:
        raise InputError(f"resources.cpu is {resources.cpu}, but this machine has {count} CPUs")


def check_job(folder: Path, zoo: Path, *, address: str | None, tracked_here: bool) -> None:
    """See that a sweep started by `ray job submit` uses the cluster, and that what it writes lasts.

    A job runs in a copy of the submitted working directory, which Ray deletes afterwards.

    Args:
        folder: the experiment folder.
        zoo: where networks are kept.
        address: the cluster that was asked for.
        tracked_here: whether MLflow's database would be a file in the current folder.

    Raises:
        InputError: a line for each option that the job lacks.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return

    def vanishes(path: Path) -> bool:
        return "working_dir_files" in path.expanduser().resolve().parts

    problems = []
    if address is None:
        problems.append("--address is missing: a job of the cluster wants --address auto")
    if vanishes(folder):
        problems.append(f"--folder {folder}: vanishes with the job; name one that lasts, in full")
    if vanishes(zoo) and not zoo.exists():
        problems.append(f"zoo {zoo}: vanishes with the job; add --set zoo=/a/folder/that/lasts")
    if tracked_here and vanishes(Path()):
        problems.append(
            "tracking.uri: mlflow.db vanishes with the job; add --set tracking.uri=URI, such as "
            "sqlite:////a/folder/that/lasts/mlflow.db, or --set tracking.enabled=false"
        )
    if problems:
        raise InputError(*problems)


def connect(address: str | None, resources: ResourcesConfig, temporary: Path | None = None) -> int:
    """Start a local Ray, or join a running cluster, and say how many trials fit at once.

    Args:
        address: None for a Ray of our own; `auto` or `host:port` of a cluster.
        resources: what one trial takes.
        temporary: where a local Ray keeps its files; its path must be short (see `scratch.folder`).

    Returns:
        Trials that can run at the same time, at least 1.

    Raises:
        InputError: there is no cluster at the address, it refuses our token, or it can never run
            such a trial.
        StoppedError: a local Ray did not start.
    """
    import ray

    if address is None:
        check_local(resources)
        with _on_loopback():
            try:
                ray.init(
                    address="local",
                    num_cpus=len(os.sched_getaffinity(0)),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    # Ray opens its folder to everybody; the one around it stays private.
                    _temp_dir=None if temporary is None else str(temporary / "r"),
                )
            except ray.exceptions.AuthenticationError as error:
                raise InputError(f"Ray did not start: {error.message}") from None
            except Exception as error:  # ports, shared memory, a process of Ray's that was killed
                reason = str(error).partition("\n")[0]
                raise StoppedError(f"Ray did not start: {reason}") from error
        interrupts.reinstall()
        return slots(resources.cpu, resources.gpu_at_most)
    shown = public_uri(address)
    if "/" in address:
        raise InputError(
            f"--address {shown}: wants auto or HOST:PORT, on a node of the cluster; from another "
            "machine, `ray job submit --address http://...` runs the command there (docs/cluster.md)"
        )
    import stitch_sweep

    try:
        _show_token(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": [str(Path(stitch_sweep.__file__).parent)]},
        )
    except (OSError, ValueError, RuntimeError, ray.exceptions.RpcError) as error:
        reason = conceal(error, address).partition("\n")[0]
        raise InputError(f"--address {shown}: there is no Ray cluster ({reason})") from None
    interrupts.reinstall()
    count = slots(resources.cpu, resources.gpu_at_most)
    if count == 0:
        has = ray.cluster_resources()
        found = ", ".join(f"{has.get(key, 0):g} {key}" for key in ("CPU", "GPU"))
        ray.shutdown()
        raise InputError(
            f"a trial takes cpu: {resources.cpu}, gpu: {_shown(resources)}, which the cluster at "
            f"{shown} can't give, not by adding nodes either (it has {found})"
        )
    return count


def dead_processes() -> list[tuple[str, int]]:
    """Processes without which our local Ray can't go on, and that have ended.

    Returns:
        Name and return code of each: `raylet` or `gcs_server`; nothing where Ray isn't ours.
    """
    import ray

    node = ray._private.worker._global_node
    if node is None or not node.is_head():
        return []
    return [
        (kind, process.returncode)
        for kind, process in node.dead_processes()
        if kind in ("raylet", "gcs_server")
    ]


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that is started meanwhile listens on this machine's loopback, and not on every interface.

    On systems where Ray doesn't do clusters it takes that address by itself; on Linux there is no
    argument for it (127.0.0.1 is replaced by the machine's own address).
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def slots(cpu: int, gpu: float, workers: int | None = None) -> int:
    """Trials that fit at once on the cluster that was joined, with the nodes that it may add.

    Args:
        cpu: CPUs of a trial.
        gpu: GPUs of a trial, or a share of one.
        workers: at most so many, and so many where nothing says how far the cluster can grow.
    """
    # Tune asks an autoscaling cluster for what its trials need, so it is given as many as may fit.
    found = max(slots_now(cpu, gpu), slots_grown(cpu, gpu, workers))
    return found if workers is None else min(found, workers)


def slots_now(cpu: int, gpu: float) -> int:
    """Trials that fit at once on the nodes that the cluster has, whatever else runs there."""
    import ray

    # One trial never spreads over two nodes.
    return sum(_slots(node["Resources"], cpu, gpu) for node in ray.nodes() if node["Alive"])


class Slots:
    """How many trials fit at once, at least one; asked anew now and then, for nodes come and go.

    Args:
        cpu: CPUs of a trial.
        gpu: GPUs of a trial, or a share of one.
        workers: at most so many, if the user said so.
    """

    def __init__(self, cpu: int, gpu: float, workers: int | None) -> None:
        self._asks = cpu, gpu, workers
        self._count = max(1, slots(*self._asks))
        self._asked = time.monotonic()

    def __call__(self) -> int:
        """The number, a few seconds old at most; the last one known where the cluster is silent."""
        import ray

        if time.monotonic() - self._asked > _SLOTS_SECONDS:
            with contextlib.suppress(ray.exceptions.RayError):
                self._count = max(1, slots(*self._asks))
            self._asked = time.monotonic()
        return self._count


def cpus_per_gpu() -> int:
    """CPUs for each GPU of a node, on the node that has the fewest."""
    import ray

    having = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("GPU")]
    return min(int(has.get("CPU", 0) // has["GPU"]) for has in having)


def _shown(resources: ResourcesConfig) -> str:
    return resources.gpu if isinstance(resources.gpu, str) else f"{resources.gpu:g}"


def knock(address: str) -> None:
    """See that something listens at `host:port`; Ray itself would try for minutes.

    Raises:
        OSError: nothing does.
    """
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _show_token(address: str) -> None:
    """See that a cluster is there and takes our token; Ray itself would try for half a minute.

    Raises:
        InputError: it wants another token than ours, or there is none to be read here.
        OSError: nothing listens at the address.
        RpcError: what listens is no Ray cluster.
        ValueError: this is no address.
    """
    import ray
    from ray._private.authentication import authentication_token_setup as setup
    from ray._private.authentication import authentication_utils
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    if found := canonicalize_bootstrap_address(address):
        knock(found)
    # It would warn of a token being used, on every run.
    logging.getLogger(setup.__name__).setLevel(logging.ERROR)
    sent = False
    try:
        # `ray start` uses the user's token by itself, a driver that joins a cluster doesn't.
        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        setup.ensure_token_if_auth_enabled(create_token_if_missing=False)
        sent = True
        if found:
            GcsClient(address=found)
    except ray.exceptions.AuthenticationError as error:
        enabled = authentication_utils.is_token_auth_enabled()
        problem = "the cluster refuses our token" if sent and enabled else "no token to show"
        reason = conceal(error.message.removeprefix("RPC error: "), address)
        raise InputError(
            f"--address {public_uri(address)}: {problem} ({reason}); put the "
            "cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN, with RAY_AUTH_MODE unset or "
            "token (docs/cluster.md)"
        ) from None


def _slots(available: Mapping[str, Any], cpu: int, gpu: float) -> int:
    by_cpu = int(available.get("CPU", 0) // cpu)
    if gpu == 0:
        return by_cpu
    gpus = available.get("GPU", 0)
    # A fraction is packed on one GPU: 0.4 fits twice on each, not five times on two.
    per_gpu = int(1 / gpu + 1e-9)
    return min(by_cpu, int(gpus * per_gpu) if gpu <= 1 else int(gpus // gpu))


def slots_grown(cpu: int, gpu: float, workers: int | None = None) -> int:
    """Trials that fit once an autoscaling cluster has all its nodes; 0 if it isn't known to grow.

    Ray doesn't tell a driver how far its cluster can grow. On a head that `ray up` made, a file does.
    KubeRay tells nobody: there it is `--workers` that should say it.
    """
    file = Path("~/ray_bootstrap_config.yaml").expanduser()
    if not file.is_file():
        growing = "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "")
        return (workers or UNSAID) if growing else 0
    cluster = yaml.safe_load(file.read_text())
    types = cluster["available_node_types"]
    slots = _slots(types.pop(cluster["head_node_type"])["resources"], cpu, gpu)
    left = cluster["max_workers"]
    fitting = [
        (_slots(node["resources"], cpu, gpu), node["max_workers"]) for node in types.values()
    ]
    for each, most in sorted(fitting, reverse=True):
        nodes = min(most, left)
        slots, left = slots + nodes * each, left - nodes
    return slots
