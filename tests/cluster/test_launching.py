"""Sweeps on a Ray cluster: the files that start a cluster, the documented commands, a real cluster."""

import copy
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement

from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.sweep.jobs import check_job
from stitch_sweep.sweep.slots import UNLIMITED_SLOTS, count_autoscaled_slots
from tests.support.documents import code_blocks
from tests.support.faults import Cluster, Driver, closing, wait_for
from tests.support.paths import ROOT
from tests.support.shell_commands import shell_faults
from tests.support.sweeps import write_config

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)
(PYTHON,) = re.findall(r"python=(\S+)", (ROOT / "environment.yml").read_text())
CLUSTER = (ROOT / "ray_cluster.yaml").read_text()
JOB = (ROOT / "ray_job.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()

missing = [name for name in ("aiohttp_cors", "grpc") if importlib.util.find_spec(name) is None]
# Ray warns when its command line is imported.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
needs_dashboard = pytest.mark.skipif(
    bool(missing), reason="ray[default] is not installed: pip install -e '.[cluster]'"
)


def install_faults(text: str) -> list[str]:
    """Return whether a requirement is this project with an existing extra, under the constraints file."""
    installs = re.findall(r"pip install (.*'\.\[.*)", text)
    if len(installs) != 1:
        return ["the project is installed once"]
    words = shlex.split(installs[0])
    faults = []
    if words[words.index("-c") + 1 : words.index("-c") + 2] != ["constraints.txt"]:
        faults.append("installed without constraints.txt")
    extras = Requirement("p" + words[-1].removeprefix(".")).extras
    faults += [f"no extra {extra}" for extra in extras - PROJECT["optional-dependencies"].keys()]
    return faults


def copied_faults(copied: set[str]) -> list[str]:
    """Return files that the build needs and aren't copied, or that are copied and don't exist."""
    needed = {"stitch_sweep", "pyproject.toml", "constraints.txt", PROJECT["readme"]}
    needed |= set(PROJECT["license-files"])
    faults = [f"{name} is not copied" for name in sorted(needed - copied)]
    return faults + [
        f"{name} does not exist" for name in sorted(copied) if not (ROOT / name).exists()
    ]


def cluster_faults(text: str) -> list[str]:
    """Return a line for each problem of a file for `ray up`."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    tree = yaml.safe_load(text)
    try:
        # The steps of `ray up` before its first request to the cloud.
        ready = prepare_config(copy.deepcopy(tree))
        validate_config(ready)
    except (ValueError, KeyError, jsonschema.ValidationError) as error:
        return [f"ray: {getattr(error, 'message', error)}"]
    commands = [c for key, listed in ready.items() if key.endswith("_commands") for c in listed]
    faults = shell_faults(commands) + install_faults(text)
    mounts = dict(tree["file_mounts"])
    if mounts.pop("~/.ray/auth_token", None) != "~/.ray/auth_token":
        faults.append("the token is not copied to the nodes")
    faults += copied_faults(set(mounts.values()))
    faults += [
        f"{remote} is not {local}"
        for remote, local in mounts.items()
        if remote != f"~/stitch-sweep/{local}"
    ]
    if f"--python {PYTHON} " not in text:
        faults.append(f"the nodes' Python is not {PYTHON}")
    starts = {
        key: next((c for c in ready[f"{key}_start_ray_commands"] if "ray start" in c), "")
        for key in ("head", "worker")
    }
    faults += [
        f"{key}: no token is demanded"
        for key, command in starts.items()
        if "RAY_AUTH_MODE=token; ray start" not in command
    ]
    if "--dashboard-host=127.0.0.1" not in starts["head"]:
        faults.append("the dashboard listens to the world")
    if "--autoscaling-config=~/ray_bootstrap_config.yaml" not in starts["head"]:
        faults.append("the head starts no nodes")
    if not 0 < ready["idle_timeout_minutes"] <= 15:
        faults.append("idle nodes stay")
    if tree["provider"]["type"] == "aws":
        types = dict(ready["available_node_types"])
        if "InstanceMarketOptions" in types.pop(ready["head_node_type"])["node_config"]:
            faults.append("the head may be taken away")
        for name, node in types.items():
            if node["node_config"].get("InstanceMarketOptions") != {"MarketType": "spot"}:
                faults.append(f"{name} is not a spot node")
            if node["min_workers"] != 0 or node["max_workers"] < 1:
                faults.append(f"{name} does not follow the demand")
    return faults


def test_ray_takes_the_cluster_file():
    assert cluster_faults(CLUSTER) == []


def on_premise(text: str) -> str:
    """Return the cluster file, changed for on-premises machines as its comment says."""
    tree = yaml.safe_load(text)
    theirs = yaml.safe_load("\n".join(re.findall(r"^#(\S.*|  .*)$", text, flags=re.MULTILINE)))
    for key in ("max_workers", "provider", "auth", "head_node_type", "available_node_types"):
        del tree[key]
    # Back to text, because the checks read the commands as written.
    commands = text[text.index("# Remote: local.") :]
    assert not set(theirs) & set(yaml.safe_load(commands))
    tree = {key: tree[key] for key in tree if key not in yaml.safe_load(commands)}
    return yaml.safe_dump({**tree, **theirs}) + commands


def test_ray_takes_it_for_machines_of_ones_own():
    text = on_premise(CLUSTER)
    assert yaml.safe_load(text)["provider"]["type"] == "local"
    assert cluster_faults(text) == []


@pytest.mark.parametrize(("text", "version"), [(CLUSTER, "1"), (on_premise(CLUSTER), "0")])
def test_the_head_starts_with_the_autoscaler_that_starts_the_other_machines(
    text, version, tmp_path
):
    from ray.autoscaler._private.util import prepare_config, with_envs

    ready = prepare_config(yaml.safe_load(text))
    # The file that `ray up` writes on the head, and its way to run the command there.
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(ready))
    command = with_envs(ready["head_start_ray_commands"], {"RAY_enable_autoscaler_v2": "1"})[-1]
    ray = tmp_path / "stitch-sweep/.venv/bin/ray"
    ray.parent.mkdir(parents=True)
    ray.write_text('#!/bin/sh\necho "$RAY_AUTH_MODE $RAY_enable_autoscaler_v2 $1 $2"\n')
    ray.chmod(0o755)
    ran = subprocess.run(
        ["bash", "-c", command],
        capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.stdout == f"token {version} start --head\n", ran.stderr


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("idle_timeout_minutes: 5", "idle_minutes: 5", "ray: Additional properties"),
        ("max_workers: 8\nup", "max_workers: many\nup", "ray: 'many' is not of type"),
        ("head_node_type: head", "head_node_type: boss", "ray: `head_node_type` must be one of"),
        ("resources: {CPU: 0}", "resource: {CPU: 0}", "ray: 'resources' is a required property"),
        ("min_workers: 0", "min_workers: 9", "ray: The specified global `max_workers`"),
        ("idle_timeout_minutes: 5", "idle_timeout_minutes: 600", "idle nodes stay"),
        (
            "&ubuntu ami-00000000000000000",
            "&ubuntu ami-0\n      InstanceMarketOptions: {}",
            "taken away",
        ),
        (
            "InstanceMarketOptions: {MarketType: spot}",
            "EbsOptimized: true",
            "cpu is not a spot node",
        ),
        ("min_workers: 0", "min_workers: 1", "cpu does not follow the demand"),
        ("pyproject.toml: pyproject.toml", "setup.py: setup.py", "setup.py does not exist"),
        ("  ~/stitch-sweep/README.md: README.md\n", "", "README.md is not copied"),
        ("sweep/LICENSE: LICENSE", "sweep/COPYING: LICENSE", "COPYING is not LICENSE"),
        ("  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "the token is not copied"),
        ("-c constraints.txt ", "-c versions.txt ", "without constraints.txt"),
        ("'.[cluster]'", "'.[clusters]'", "no extra clusters"),
        ("--python 3.11", "--python 3.12", "the nodes' Python"),
        ("(sudo apt-get update", "sudo apt-get update", "bash: "),
        ("ray start --head", "ray strat --head", "ray: no command 'strat'"),
        ("--object-manager-port=8076 --dash", "--object-port=8076 --dash", "No such option"),
        (
            "RAY_AUTH_MODE=token;\n    ray start --address",
            "X=1;\n    ray start --address",
            "worker: no",
        ),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "listens to the world"),
        ("--autoscaling-config=~/ray_bootstrap_config.yaml", "", "the head starts no nodes"),
    ],
)
def test_a_fault_in_the_cluster_file_is_found(old, new, fault):
    assert old in CLUSTER
    assert any(fault in found for found in cluster_faults(CLUSTER.replace(old, new, 1)))


def job_faults(text: str) -> list[str]:
    """Return a line for each problem of a RayJob manifest."""
    found = {tree["kind"]: tree for tree in yaml.safe_load_all(text)}
    job = found["RayJob"]
    try:
        # KubeRay's schema; the file names its source.
        jsonschema.validate(
            job, yaml.safe_load((ROOT / "tests" / "rayjob_schema.json").read_text())
        )
    except jsonschema.ValidationError as error:
        return [f"schema: {error.message}"]
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    entrypoint = spec["entrypoint"]
    faults = shell_faults([entrypoint])
    head = cluster["headGroupSpec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in head["volumes"]}
    lasting, config = [], []
    for mount in head["containers"][0]["volumeMounts"]:
        volume = volumes[mount["name"]]
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim == found["PersistentVolumeClaim"]["metadata"]["name"]:
            lasting.append(mount["mountPath"])
        config += [mount["mountPath"]] if "configMap" in volume else []
    # The folders that the driver writes to, from `docs/reference/configuration.md`.
    for pattern in (r"--folder (\S+)", r"--set zoo=(\S+)", r"--set tracking.uri=sqlite:///(\S+)"):
        place = re.search(pattern, entrypoint)
        if place is None or not any(place[1].startswith(f"{path}/") for path in lasting):
            faults.append(f"{pattern.partition('=')[0].partition(' (')[0]}: not on the volume")
    if not any(f"sweep {path}/config.yml " in entrypoint for path in config):
        faults.append("the configuration is not where it is mounted")
    faults += [f"{o} is missing" for o in ("--address auto", "--resume") if o not in entrypoint]
    if cluster["rayVersion"] != PINNED["ray"]:
        faults.append(f"Ray {cluster['rayVersion']}, tried was {PINNED['ray']}")
    if cluster.get("authOptions") != {"mode": "token"}:
        faults.append("no token is demanded")
    if not cluster.get("enableInTreeAutoscaling"):
        faults.append("no nodes are started")
    groups = cluster["workerGroupSpecs"]
    faults += [f"{g['groupName']} never ends" for g in groups if g.get("minReplicas", 0)]
    templates = [group["template"]["spec"] for group in [cluster["headGroupSpec"], *groups]]
    workers = re.search(r"--workers (\d+)", entrypoint)
    cpus = sum(
        g["maxReplicas"] * int(g["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for g in groups
    )
    if workers is None or int(workers[1]) != cpus:
        faults.append(f"--workers is not {cpus}")
    images = {container["image"] for pod in templates for container in pod["containers"]}
    if images != {f"{PROJECT['name']}:{PROJECT['version']}"}:
        faults.append(f"images {sorted(images)}")
    return faults


def test_kuberay_takes_the_job():
    assert job_faults(JOB) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("entrypoint:", "entryPoint:", "schema: Additional properties"),
        ('num-cpus: "0"', "num-cpus: 0", "schema: 0 is not of type 'string'"),
        ("mode: token", "mode: tokens", "schema: 'tokens' is not one of"),
        ("volumeMounts:", "volumeMount:", "schema: Additional properties"),
        ("stitch-sweep sweep /config", "stitch-sweep swep /config", "no command 'swep'"),
        ("--address auto", "--adress auto", "No such option"),
        (" --address auto", "", "--address auto is missing"),
        (" --resume\n", "\n", "--resume is missing"),
        ("maxReplicas: 8", "maxReplicas: 4", "--workers is not 32"),
        ("--folder /sweeps/my", "--folder my", "--folder: not on the volume"),
        ("--set zoo=/sweeps/zoo ", "", "--set zoo: not on the volume"),
        ("sqlite:////sweeps/", "sqlite:///", "--set tracking.uri: not on the volume"),
        ("claimName: stitch-sweep", "claimName: other", "--folder: not on the volume"),
        ("mountPath: /config", "mountPath: /conf", "the configuration is not where"),
        ('rayVersion: "2.60.0"', 'rayVersion: "2.59.0"', "Ray 2.59.0, tried was"),
        ("    authOptions:\n      mode: token", "    suspend: false #", "no token is demanded"),
        ("enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "no nodes are started"),
        ("minReplicas: 0", "minReplicas: 1", "cpu never ends"),
        ("image: stitch-sweep:0.1.0", "image: stitch-sweep:latest", "images "),
    ],
)
def test_a_fault_in_the_job_is_found(old, new, fault):
    assert old in JOB
    found = job_faults(JOB.replace(old, new, 1))
    assert any(fault in line for line in found)


def test_a_configuration_takes_what_the_job_sets(tmp_path):
    entrypoint = next(t for t in yaml.safe_load_all(JOB) if t["kind"] == "RayJob")["spec"][
        "entrypoint"
    ]
    changes = dict(re.findall(r"--set ([^= ]+)=(\S+)", entrypoint))
    read = read_config(write_config(tmp_path, tmp_path / "zoo"), changes)
    assert (read.zoo, read.tracking.uri) == ("/sweeps/zoo", "sqlite:////sweeps/mlflow.db")


def image_faults(text: str, ignored: str) -> list[str]:
    """Return a line for each problem of a Dockerfile."""
    python = PYTHON.replace(".", "")
    faults = install_faults(text)
    if f"FROM rayproject/ray:{PINNED['ray']}-py{python}\n" not in text:
        faults.append("not from the Ray and the Python that were tried")
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (.*)$", text, flags=re.MULTILINE)
        for source in [word for word in line.split() if not word.startswith("--")][:-1]
    }
    if "RAY_USAGE_STATS_ENABLED=0" not in text:
        faults.append("Ray reports its use")
    let = set(re.findall(r"^!(.*)$", ignored, flags=re.MULTILINE))
    faults += [f"{name} is ignored" for name in sorted(copied - let)]
    return faults + copied_faults(copied)


def test_the_image_is_of_this_folder_and_of_what_was_tried():
    assert image_faults(DOCKERFILE, (ROOT / ".dockerignore").read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("2.60.0-py311", "2.59.0-py311", "not from the Ray"),
        ("-py311", "-py312", "not from the Ray"),
        ("-c constraints.txt ", "-c versions.txt ", "without constraints.txt"),
        ("'.[cluster]'", "'.[ray]'", "no extra ray"),
        (" LICENSE ", " ", "LICENSE is not copied"),
        ("STATS_ENABLED=0", "STATS_ENABLED=1", "Ray reports its use"),
        (" LICENSE ", " COPYING ", "COPYING does not exist"),
        ("COPY --chown=ray:users search_spaces", "COPY tests", "tests is ignored"),
    ],
)
def test_a_fault_in_the_image_is_found(old, new, fault):
    assert old in DOCKERFILE
    found = image_faults(DOCKERFILE.replace(old, new, 1), (ROOT / ".dockerignore").read_text())
    assert any(fault in line for line in found)


def typed(text: str) -> list[str]:
    """Return the commands in a Markdown file, a line each."""
    blocks = "".join(code for _, code in code_blocks(text, "sh"))
    lines = blocks.replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0] for line in lines if line and not line.startswith("#")]


def test_what_the_documentation_tells_to_type_is_understood():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*/*.md"))]
    commands = [c for page in pages for c in typed(page.read_text()) if c.startswith("ray ")]
    assert any("ray job submit" in command for command in commands)
    assert shell_faults(commands) == []


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (
            "ray job submit --adress http://127.0.0.1:8265 -- stitch-sweep sweep x.yml",
            "ray: No such",
        ),
        ("ray job submit -- stitch-sweep sweep x.yml --adress auto", "stitch-sweep: No such"),
        ("ray job submit -- stitch-sweep swep x.yml", "stitch-sweep: no command"),
        ("RAY_X=1 ray upp ray_cluster.yaml", "ray: no command"),
        ("ray exec ray_cluster.yaml 'stitch-sweep stat my'", "stitch-sweep: no command"),
        ("stitch-sweep sweep", "stitch-sweep: Missing argument"),
        ("echo 'x", "bash: "),
    ],
)
def test_a_command_that_nothing_understands_is_found(command, fault):
    (found,) = shell_faults([command])
    assert found.startswith(fault)


class TestAClusterThatGrows:
    @pytest.fixture
    def on_its_head(self, monkeypatch, tmp_path) -> None:
        """Write the file of `ray up` on the head, with the nodes' resources from the cloud."""
        from ray.autoscaler._private.util import prepare_config

        cluster = prepare_config(yaml.safe_load(CLUSTER))
        cluster["available_node_types"]["cpu"]["resources"] = {"CPU": 16}
        cluster["available_node_types"]["gpu"]["resources"] = {"CPU": 4, "GPU": 1}
        (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(cluster))
        monkeypatch.setenv("HOME", str(tmp_path))

    @pytest.mark.parametrize(
        ("takes", "slots"),
        [
            ({"cpu": 1}, 8 * 16),  # the limit of 8 nodes goes to the largest type
            ({"cpu": 5}, 8 * 3),
            ({"cpu": 1, "gpu": 1}, 4),
            ({"cpu": 1, "gpu": 0.5}, 4 * 2),
            ({"cpu": 17}, 0),
        ],
    )
    def test_is_asked_for_as_many_trials_as_will_fit(self, on_its_head, takes, slots):
        assert count_autoscaled_slots(takes.get("cpu", 1), takes.get("gpu", 0)) == slots

    def test_and_doesnt_say_how_far_is_asked_for_some(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        start = "ray start --head --no-monitor --num-cpus=0"
        monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", start)
        assert count_autoscaled_slots(1, 0) == UNLIMITED_SLOTS
        assert count_autoscaled_slots(1, 0, workers=4 * UNLIMITED_SLOTS) == 4 * UNLIMITED_SLOTS, (
            "what the user says"
        )
        monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", start.replace("--no-monitor ", ""))
        assert count_autoscaled_slots(1, 0) == 0

    @pytest.mark.long
    def test_may_have_no_node_when_a_sweep_starts(self, on_its_head, tmp_path):
        pair = {"sender": "a", "receiver": "b", "sender_layers": [3], "receiver_layers": [3]}
        config = write_config(tmp_path, tmp_path / "zoo", tracking={"enabled": False}, pairs=[pair])
        one = ("--set", "search.samples=1")
        with closing(Cluster(0)) as cluster:
            home = {**cluster.environment, "HOME": str(tmp_path)}
            driver = Driver(config, "--address", cluster.address, *one, **home)
            wait_for(lambda: "waiting for nodes" in driver.said or not driver.runs, "it waits")
            cluster.add_worker()
            assert driver.wait() == 0, driver.said
        assert f"{8 * 16} trials at a time" in driver.said


class TestAJob:
    @pytest.fixture
    def submitted(self, monkeypatch, tmp_path) -> Path:
        """Simulate the process of a Ray job in its copy of the working directory."""
        here = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
        here.mkdir(parents=True)
        monkeypatch.chdir(here)
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
        return here

    def test_that_would_lose_its_results_is_refused(self, submitted):
        with pytest.raises(InputError) as caught:
            check_job(Path(), Path("zoo"), address=None, database=Path("mlflow.db"))
        starts = [
            "--address is missing",
            "--folder .: is deleted with the job",
            "zoo zoo: is deleted with the job",
            "tracking.uri: mlflow.db is deleted with the job",
        ]
        problems = caught.value.problems
        assert [p.startswith(s) for p, s in zip(problems, starts, strict=True)] == [True] * 4

    def test_that_writes_where_it_lasts_is_not(self, submitted, tmp_path):
        lasting = tmp_path / "sweeps"
        check_job(lasting, lasting / "zoo", address="auto", database=None)
        (submitted / "zoo").mkdir()  # a zoo that was submitted with the configuration
        check_job(lasting, Path("zoo"), address="auto", database=None)

    def test_is_not_what_runs_elsewhere(self, submitted, monkeypatch):
        monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
        check_job(Path(), Path("zoo"), address=None, database=Path("mlflow.db"))


@dataclass(frozen=True)
class Head:
    """A running head node that needs a token."""

    address: str
    dashboard: str
    environment: dict[str, str]

    def run(self, *command: object, cwd: Path, **changes: str) -> tuple[int, str]:
        """Run a command with the token; return its exit status and output."""
        ran = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**self.environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return ran.returncode, ran.stdout

    def sweep(self, *arguments: object, cwd: Path, **changes: str) -> tuple[int, str]:
        """Run `stitch-sweep sweep`; return its exit status and output."""
        code = "from stitch_sweep.cli.main import main; main()"
        return self.run(sys.executable, "-c", code, "sweep", *arguments, cwd=cwd, **changes)

    def submit(self, *entrypoint: object, working_dir: Path) -> tuple[int, str]:
        """Run `ray job submit` with this checkout's code; return its exit status and output."""
        # The installed package may be another checkout; on a real cluster the nodes have it.
        ours = f'{{"env_vars": {{"PYTHONPATH": "{ROOT}"}}}}'
        submit = ["job", "submit", "--address", self.dashboard, "--runtime-env-json", ours]
        command = [sys.executable, "-m", "ray.scripts.scripts", *submit, "--working-dir", "."]
        return self.run(*command, "--", *entrypoint, cwd=working_dir, RAY_AUTH_MODE="token")


def free_ports(count: int) -> list[int]:
    """Return free ports above the range that Ray uses for its workers."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    dropped = (
        "PYTHONPATH",
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
    )
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    gcs, dashboard, agent, client = free_ports(4)
    # A short path, because it contains sockets.
    scratch = tempfile.mkdtemp(prefix="ray-")
    options = [f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    options += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    options += ["--num-cpus=2", "--num-gpus=0", f"--temp-dir={scratch}"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
    try:
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home,
            env={**environment, "RAY_AUTH_MODE": "token"},
        ) as process:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if "Ray runtime started" in line:
                    break
            else:
                pytest.fail("the head didn't start: " + "".join(said))
            yield Head(
                f"127.0.0.1:{gcs}",
                f"http://127.0.0.1:{dashboard}",
                {**environment, "PYTHONPATH": str(ROOT)},
            )
            process.send_signal(signal.SIGTERM)
            process.communicate()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# A worker with the dependencies and without the package, which it must get from the driver.
BARE = """
import sys

from stitch_sweep.config.resources import ResourcesConfig
from stitch_sweep.sweep.ray_connection import connect
from stitch_sweep.sweep.ray_setup import ray


@ray.remote
def import_it():
    assert "stitch_sweep" not in sys.modules
    # An editable installation would answer from its folder.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
    import stitch_sweep.sweep.trainable

    return stitch_sweep.sweep.trainable.__file__


address, with_code = sys.argv[1:]
if with_code == "yes":
    assert connect(address, ResourcesConfig()) == 2
else:
    ray.init(address=address)
print("imported from", ray.get(import_it.remote()))
"""


@needs_dashboard
class TestACluster:
    def test_a_bare_worker_gets_the_code_from_the_driver(self, head, tmp_path):
        (tmp_path / "driver.py").write_text(BARE)
        script = [sys.executable, "driver.py", head.address]
        status, output = head.run(*script, "yes", cwd=tmp_path)
        assert status == 0, output
        assert re.search(
            r"^imported from .*/py_modules_files/.*/trainable\.py$", output, re.MULTILINE
        )

    def test_without_it_there_is_none(self, head, tmp_path):
        (tmp_path / "driver.py").write_text(BARE)
        script = [sys.executable, "driver.py", head.address]
        status, output = head.run(*script, "no", cwd=tmp_path, RAY_AUTH_MODE="token")
        assert status != 0
        assert "No module named 'stitch_sweep" in output

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"HOME": "empty"}, "there is no token"),
            ({"RAY_AUTH_MODE": "disabled"}, "there is no token"),
            ({"HOME": "empty", "RAY_AUTH_MODE": "token"}, "there is no token"),
            ({"RAY_AUTH_TOKEN_PATH": "missing"}, "there is no token"),
            ({"RAY_AUTH_TOKEN": "of another cluster"}, "the cluster refuses the token"),
        ],
    )
    def test_without_its_token_it_is_refused(
        self, head, tmp_path, tmp_path_factory, changes, problem
    ):
        if "HOME" in changes:
            changes = {**changes, "HOME": str(tmp_path_factory.mktemp(changes["HOME"]))}
        config = write_config(tmp_path, tmp_path / "zoo", tracking={"enabled": False})
        status, output = head.sweep(config, "--address", head.address, cwd=tmp_path, **changes)
        assert status == 2, output
        assert f"error: --address {head.address}: {problem} (" in output
        assert "~/.ray/auth_token" in output
        assert "Traceback" not in output
        assert [path.name for path in tmp_path.iterdir()] == ["config.yml"]

    def test_a_job_that_would_lose_its_results_fails_and_says_what_it_lacks(self, head, tmp_path):
        write_config(tmp_path, Path("zoo"), tracking={})
        status, output = head.submit("stitch-sweep", "sweep", "config.yml", working_dir=tmp_path)
        assert status == 1
        assert "failed with exit code 2" in output
        for option in ("--address is missing", "--folder .:", "zoo /", "tracking.uri:"):
            assert f"error: {option}" in output, output

    @pytest.mark.long
    def test_a_job_leaves_its_results_where_they_last(self, head, tmp_path):
        """A second job resumes the sweep there, as after the death of the first."""
        submitted, lasting = tmp_path / "my", tmp_path / "lasting"
        pair = {"sender": "a", "receiver": "b", "sender_layers": [1], "receiver_layers": [1]}
        write_config(submitted, Path("zoo"), tracking={"enabled": False}, pairs=[pair])
        sweep = ["stitch-sweep", "sweep", "config.yml", "--address", "auto"]
        where = ["--folder", lasting / "my", "--set", f"zoo={lasting / 'zoo'}"]
        first = ["--set", "search.samples=1"]
        status, output = head.submit(*sweep, *where, *first, working_dir=submitted)
        assert status == 0, output
        assert "2 of 2 trials ended, 0 failed." in output
        status, output = head.submit(*sweep, *where, "--resume", working_dir=submitted)
        assert status == 0, output
        assert "trials: 2/4" in output
        assert "4 of 4 trials ended, 0 failed." in output
        assert len(pd.read_parquet(lasting / "my" / "results.parquet")) == 4
        assert [path.name for path in submitted.iterdir()] == ["config.yml"]
