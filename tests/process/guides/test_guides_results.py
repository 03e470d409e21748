"""The blocks of the guides on controls, MLflow, Optuna, comparing, publishing, copies and clusters.

Slurm and Kubernetes can't run here. Slurm's commands have stand-ins, and Ray's and Stitch Sweep's parsers
check the other commands. `tests/cluster/test_launching.py` checks the manifest for Kubernetes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pandas as pd
import pytest
import yaml

from tests.support.documents import check_shell, heredoc, read_blocks, run_page, split_commands
from tests.support.faults import free_port, kill_tree, wait_for
from tests.support.paths import ROOT
from tests.support.shell_commands import shell_faults

GUIDES = ROOT / "docs/guides"
# Ray warns when its command line is imported.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the two networks of all pages, which the first page trains."""
    return tmp_path_factory.mktemp("networks") / "zoo"


UNTRACKED = {"\ntraining:": "\ntracking: {enabled: false}\ntraining:"}
"""Disables MLflow in the configuration of a page, because other tests cover it."""


def run(
    name: str,
    folder: Path,
    zoo: Path,
    *,
    before: str = "",
    skip: Sequence[str] = (),
    replace: Mapping[str, str] = UNTRACKED,
) -> str:
    """Run a page, and return its output; `work` in the folder has its files.

    Args:
        name: file name of the page.
        folder: an empty folder.
        zoo: the networks of the pages that ran before.
        before: shell commands that run first.
        skip: see `run_page`.
        replace: see `run_page`.
    """
    return run_page(
        GUIDES / name,
        folder,
        before=f"mkdir my; [ ! -d {zoo} ] || cp -r {zoo} my/zoo\n{before}",
        after=f"[ -d {zoo} ] || cp -r my/zoo {zoo}",
        skip=skip,
        replace=replace,
    )


def find_block(name: str, text: str) -> str:
    """Return the only code block of a page that contains a text."""
    (code,) = (b.code for b in read_blocks((GUIDES / name).read_text()) if text in b.code)
    return code


@contextmanager
def serving(command: str, url: str, folder: Path) -> Iterator[None]:
    """Run a server in a folder until the block ends; it must answer at a URL."""
    with (folder / "server.txt").open("w") as output:
        words = shlex.split(command)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdout=output,
            stderr=output,
        )
        try:
            wait_for(
                lambda: process.poll() is not None or answers(url), f"{command} to answer", 400
            )
            assert process.poll() is None, (folder / "server.txt").read_text()
            yield
        finally:
            kill_tree(process)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def results(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results.parquet")


def test_controls(tmp_path, zoo):
    printed = run("controls.md", tmp_path, zoo)
    work = tmp_path / "work/my"
    assert re.search(r"trials +12\n", printed)
    senders = results(work).groupby("sender").size().to_dict()
    assert senders == {"a": 4, "a-untrained": 4, "a-logits-only": 4}
    verdicts = json.loads((work / "verdicts.json").read_text())
    assert all("explained_by" in verdict for verdict in verdicts["matrices"])
    assert len(pd.read_csv(work / "tables/beyond_logits.csv")) == 4
    assert len(pd.read_parquet(work / "measured/probes.parquet")) > 0


def test_mlflow(tmp_path, zoo):
    port = free_port()
    text = (GUIDES / "mlflow.md").read_text().replace("5000", str(port))
    (server,) = (b.code for b in read_blocks(text) if b.code.startswith("mlflow server"))
    (tmp_path / "server").mkdir()
    url = f"http://127.0.0.1:{port}"
    with serving(f"{server.strip()} --workers 1", f"{url}/health", tmp_path / "server"):
        ports = {"5000": str(port)}
        run("mlflow.md", tmp_path / "page", zoo, skip=["mlflow server"], replace=ports)
        api = f"{url}/api/2.0/mlflow"
        with urlopen(f"{api}/experiments/get-by-name?experiment_name=digits") as answer:
            experiment = json.load(answer)["experiment"]["experiment_id"]
        body = json.dumps({"experiment_ids": [experiment]}).encode()
        request = Request(f"{api}/runs/search", body, {"Content-Type": "application/json"})
        with urlopen(request) as answer:
            runs = json.load(answer)["runs"]
    assert len(runs) == 4 + 1, "a run per trial, and that of the sweep"
    assert (tmp_path / "page/work/my/report.html").is_file()


def test_optuna_dashboard(tmp_path, zoo):
    printed = run("optuna_dashboard.md", tmp_path, zoo, skip=["pip install", "optuna-dashboard"])
    assert "'training.optimizer.lr'" in printed
    command = find_block("optuna_dashboard.md", "optuna-dashboard my").strip()
    url = f"http://127.0.0.1:{(port := free_port())}"
    url += "/api/studies"
    with serving(f"{command} --port {port}", url, tmp_path / "work"), urlopen(url) as answer:
        names = {study["study_name"] for study in json.load(answer)["study_summaries"]}
    assert len(names) == 2 * 2 * 2
    assert "a:1 -> b:3, loss = mse" in names


def test_compare(tmp_path, zoo):
    printed = run("compare.md", tmp_path, zoo)
    work = tmp_path / "work/my"
    verdicts = json.loads((work / "both/verdicts.json").read_text())["matrices"]
    assert sorted(verdict["factors"]["loss"] for verdict in verdicts) == ["mse", "task"]
    assert "spearman" in printed, "the table of `against_task`"
    assert "--allow" not in printed, "networks that the report may not read"


def test_published_matrix(tmp_path, zoo):
    (table,) = (
        b for b in read_blocks((GUIDES / "published_matrix.md").read_text()) if b.language == "csv"
    )
    printed = run_page(
        GUIDES / "published_matrix.md", tmp_path, before=heredoc(table.code, table.file)
    )
    assert "triangle" in printed
    table_of_paper = pd.read_csv(ROOT / "docs/results/published_matrices.csv")
    index = re.search(r"^triangle (0\.\d+)", printed, re.M)
    assert index is not None
    assert round(float(index[1]), 3) == table_of_paper["triangle"][0]
    assert (tmp_path / "work/judged/report.html").is_file()


def test_export(tmp_path, zoo):
    printed = run("export.md", tmp_path, zoo)
    work = tmp_path / "work"
    paths = re.findall(r"\{(my/[^}]+)\}", find_block("export.md", "includegraphics"))
    assert len(paths) == 2
    assert [path for path in paths if not (work / path).is_file()] == []
    assert "\\toprule" in (work / "my/tables/verdicts.tex").read_text()
    assert (work / "accuracies.csv").is_file()
    assert re.search(r"^stitch-sweep \d", printed, re.M)


def test_differing_runs(tmp_path, zoo):
    printed = run("differing_runs.md", tmp_path, zoo)
    first, second = re.findall(r"SHA-256 of the recording: (\w+)", printed)
    assert first == second
    page = (GUIDES / "differing_runs.md").read_text()
    (named,) = re.findall(r"in their order: ([^.]*)\.", page)
    stages = re.findall(r"^ (\w+) +\d+ \w+", printed, re.M)
    assert re.split(r",\s|\sand\s", named) == stages


def test_the_checks_of_the_table_exist():
    from stitch_sweep.checks.sanity.catalog import CHECKS

    text = (GUIDES / "differing_runs.md").read_text().partition("| check |")[2]
    rows = re.findall(r"^\| ([a-z, ]+) \|", text, re.M)
    assert sorted(", ".join(rows).split(", ")) == sorted(CHECKS)


def test_mirror(tmp_path, zoo):
    run("mirror.md", tmp_path, zoo)
    work = tmp_path / "work"
    same = ["sender_layer", "receiver_layer", "test_accuracy"]
    pd.testing.assert_frame_equal(results(work / "my")[same], results(work / "other")[same])
    copied = {path.name for path in (work / "copy").iterdir()}
    assert {"ledger", "stitches", "config.resolved.yml", "results.parquet"} <= copied
    assert "config.yml" not in copied


SBATCH = 'SLURM_JOB_ID=7 bash "$1"'
SCONTROL = 'echo "$@" >> ../scontrol.txt'


def write_commands(folder: Path, **scripts: str) -> str:
    """Write stand-ins for commands; return the shell line that puts them before the others."""
    folder.mkdir()
    for name, script in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
    return f"export PATH='{folder}':$PATH"


def scripts_of_slurm() -> dict[str, str]:
    blocks = read_blocks((GUIDES / "slurm.md").read_text())
    return {block.file: block.code for block in blocks if block.language == "bash"}


def test_slurm(tmp_path, zoo):
    """The job of one node runs with stand-ins for Slurm's commands."""
    config = find_block("mirror.md", "networks:") + "tracking: {enabled: false}\n"
    path = write_commands(tmp_path / "commands", sbatch=SBATCH, scontrol=SCONTROL)
    job = heredoc(scripts_of_slurm()["sweep.sh"], "sweep.sh")
    before = f"{path}\n{heredoc(config, 'my/config.yml')}\n{job}"
    printed = run("slurm.md", tmp_path / "page", zoo, before=before, replace={})
    assert "4 of 4 trials ended, 0 failed" in printed
    assert not (tmp_path / "page/scontrol.txt").exists(), "a job that ends is not started again"


def test_a_job_of_slurm_at_its_time_limit_stops_the_sweep_and_is_queued_again(tmp_path):
    sweep = "trap 'echo stopped > stopped.txt; exit 130' TERM\ntouch started.txt\nsleep 60 & wait"
    path = write_commands(tmp_path / "commands", stitch_sweep=sweep, scontrol=SCONTROL)
    work = tmp_path / "work"
    work.mkdir()
    (work / "sweep.sh").write_text(scripts_of_slurm()["sweep.sh"])
    command = f"{path}; export SLURM_JOB_ID=7; exec bash sweep.sh"
    process = subprocess.Popen(["bash", "-c", command], cwd=work)
    try:
        wait_for(lambda: (work / "started.txt").exists(), "the sweep to start")
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        kill_tree(process)
    assert (work / "stopped.txt").exists()
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 7\n"


@pytest.mark.parametrize(("file", "count"), [("sweep.sh", 1), ("nodes.sh", 2)])
def test_the_commands_of_slurm_jobs_are_understood(file, count):
    """Bash reads the scripts; Ray and Stitch Sweep parse their commands, with 4 for Slurm's numbers."""
    script = scripts_of_slurm()[file]
    ended = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    lines = re.sub(r'"\$SLURM_\w+"', "4", script.replace("\\\n", " ")).splitlines()
    # The command behind " -- " is that of the first node.
    parts = [
        re.sub("^srun .*? ray ", "ray ", part.strip())
        for line in lines
        for part in line.split(" -- ")
    ]
    commands = [part.partition(" &")[0] for part in parts if part.startswith(("ray ", "stitch-"))]
    assert len(commands) == count
    assert shell_faults(commands) == []


def test_kubernetes():
    text = (GUIDES / "kubernetes.md").read_text()
    check_shell(text)
    job = next(
        t for t in yaml.safe_load_all((ROOT / "ray_job.yaml").read_text()) if t["kind"] == "RayJob"
    )
    assert find_block("kubernetes.md", "--workers").split() == job["spec"]["entrypoint"].split()
    commands = [c for b in read_blocks(text) if b.language == "sh" for c in split_commands(b.code)]
    assert {command.split()[0] for command in commands} == {"docker", "kubectl"}
    assert job["metadata"]["name"] == "stitch-sweep"
    volumes = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert {"name": "config", "configMap": {"name": "stitch-sweep-config"}} in volumes
    assert job["spec"]["backoffLimit"] == 2
