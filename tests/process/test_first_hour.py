"""A newcomer's first hour: the commands and files of docs/tutorials/first_hour.md, in its order."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pandas as pd
import pytest
import yaml

from tests.support.documents import code_blocks
from tests.support.faults import free_port, kill_tree, wait_for
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/tutorials/first_hour.md").read_text()
BLOCKS = code_blocks(PAGE, "sh", "python")
SERVERS = ("stitch-sweep ui", "optuna-dashboard")
COPYING = "cp -r ~/study ~/study-copy"


def commands() -> list[str]:
    """Return the commands that a user types."""
    return [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


def first_script(checkout: Path) -> str:
    """Return one shell script that types the commands and writes the files, but starts no server."""
    lines = ["set -eux", f"cd '{checkout}'"]
    names = iter(re.findall(r"Write `(\w+\.py)`", PAGE))
    for kind, text in BLOCKS:
        if kind == "python":
            lines.append(f"cat > {next(names)} <<'END'\n{text}END")
            continue
        for command in text.splitlines():
            if command == COPYING:
                lines.append("find ~/study -type f -exec sha256sum {} + > ~/before.txt")
            if not command.startswith(SERVERS):
                lines.append(command)
    return "\n".join(lines)


@contextmanager
def serving(command: str, url: str, **options: Any) -> Iterator[None]:
    """Run a server until the block ends; it must answer at a URL."""
    process = subprocess.Popen(
        command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        wait_for(lambda: process.poll() is not None or answers(url), f"{command} to answer")
        assert process.poll() is None
        yield
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        kill_tree(process)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def ask(url: str, **body: Any) -> Any:
    """Return what a server answers to a request, as JSON; a request with a body is a POST."""
    data = json.dumps(body).encode() if body else None
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=60) as answer:
        return json.load(answer)


@pytest.fixture
def checkout(tmp_path):
    """A checkout without outputs; its environment has the dependencies, but not Stitch Sweep."""
    listing = ("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    ended = subprocess.run(listing, capture_output=True, text=True)
    if ended.returncode != 0:
        pytest.skip("needs git and a checkout, to tell the project's files from outputs")
    folder = tmp_path / "checkout"
    for name in filter(None, ended.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (packages,) = (folder / ".venv/lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder


@pytest.fixture
def environment(tmp_path, checkout):
    """A user's environment, in which pip needs no network."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MLFLOW_TRACKING_URI", "OMP_NUM_THREADS")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    installed = f"{checkout / '.venv/bin'}:{Path(sys.executable).parent}"
    return {
        **kept,
        "HOME": str(tmp_path),
        "PATH": f"{installed}:{os.environ['PATH']}",
        "PIP_NO_BUILD_ISOLATION": "0",  # for pip, 0 turns the isolation off
        "PIP_NO_INDEX": "1",
    }


def test_the_page_counts_what_a_user_types():
    lines = [
        line for kind, text in BLOCKS if kind == "python" for line in text.splitlines() if line
    ]
    assert f"You type {len(commands())} commands, {len(lines)} lines of Python" in PAGE


@pytest.mark.timeout(1500)
def test_the_first_hour(checkout, environment, tmp_path):
    ended = subprocess.run(
        ["bash", "-c", first_script(checkout)],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    study, copy = tmp_path / "study", tmp_path / "study-copy"

    assert "Created wheel for stitch-sweep" in ended.stdout, "pip installed the checkout"
    quickstart = checkout / "experiments/quickstart/digits"
    assert (quickstart / "report.html").is_file()

    accuracy = re.search(r"^0\.\d+$", ended.stdout, re.M)
    assert accuracy is not None
    assert float(accuracy[0]) > 0.8
    assert len(pd.read_parquet(study / "first/results.parquet")) == 2 * 3 * 3
    assert (study / "first.png").stat().st_size > 10_000

    results = pd.read_parquet(study / "results.parquet")
    assert set(results["loss"]) == {"absolute"}
    assert set(results["status"]) == {"finished"}
    assert yaml.safe_load((study / "config.yml").read_text())["plugins"] == ["my_loss.py"]

    trials = len(results)
    assert len(list((copy / "ledger").glob("trials/*"))) == len(
        list((study / "ledger").glob("trials/*"))
    )
    page = (copy / "report.html").read_text()
    assert "absolute" in page

    ui, dashboard = (next(c for c in commands() if c.startswith(name)) for name in SERVERS)
    url = f"http://127.0.0.1:{(port := free_port())}"
    with serving(f"{ui} --port {port}", url, cwd=copy, env=environment):
        api = f"{url}/api/2.0/mlflow"
        (experiment,) = (
            entry["experiment_id"]
            for entry in ask(f"{api}/experiments/search", max_results=10)["experiments"]
            if entry["name"] != "Default"
        )
        found = ask(f"{api}/runs/search", experiment_ids=[experiment], max_results=1000)
        assert len(found["runs"]) == trials + 1, "a run per trial, and that of the sweep"
    url = f"http://127.0.0.1:{(port := free_port())}"
    with serving(f"{dashboard} --port {port}", url, cwd=copy, env=environment):
        names = [study["study_name"] for study in ask(f"{url}/api/studies")["study_summaries"]]
        assert len(names) == trials // 2
        assert "a:4 -> b:1, loss = absolute" in names

    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", tmp_path / "before.txt"], capture_output=True, text=True
    )
    assert checked.returncode == 0, f"the original has changed: {checked.stdout}"
