"""The quickstart, its report and a study: the commands and files of three tutorials, in their order."""

from __future__ import annotations

import json
import os
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

from tests.support.documents import check_shell, read_blocks, split_commands, unwrap, write_script
from tests.support.faults import free_port, kill_tree, wait_for
from tests.support.paths import ROOT

TUTORIALS = ROOT / "docs/tutorials"
QUICKSTART, REPORT, STUDY = (
    (TUTORIALS / name).read_text() for name in ("quickstart.md", "report.md", "study.md")
)
SERVER = "stitch-sweep ui"
COPYING = "cp -r ~/seeds ~/seeds-copy"
HASHING = "find ~/seeds -type f -exec sha256sum {} + > ~/before.txt"


def commands() -> list[str]:
    """Return the commands that a user of the study types."""
    blocks = (block for block in read_blocks(STUDY) if block.language == "sh")
    return [command for block in blocks for command in split_commands(block.code)]


def script() -> str:
    """Return the three pages as one shell script, which starts no server."""
    pages = [
        write_script(QUICKSTART, skip=[SERVER]),
        write_script(REPORT),
        write_script(STUDY, skip=[SERVER], replace={COPYING: f"{HASHING}\n{COPYING}"}),
    ]
    return "\n".join(pages)


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
        "BLOCKS": str(tmp_path),
    }


def test_the_page_counts_what_a_user_types():
    (config,) = (block for block in read_blocks(STUDY) if block.file == "config.yml")
    lines = config.code.splitlines()
    assert f"You type {len(commands())} commands and {len(lines)} lines of YAML" in unwrap(STUDY)


def test_the_quickstart_shows_its_configuration():
    (shown,) = (block for block in read_blocks(QUICKSTART) if block.language == "yaml")
    stored = (ROOT / "experiments/quickstart/digits/config.yml").read_text().splitlines()
    assert shown.code.splitlines() == [line for line in stored if not line.startswith("#")]


@pytest.mark.timeout(1500)
def test_the_quickstart_and_the_study(checkout, environment, tmp_path):
    for page in (QUICKSTART, REPORT, STUDY):
        check_shell(page)
    ended = subprocess.run(
        ["bash", "-c", script()],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    study, copy = tmp_path / "seeds", tmp_path / "seeds-copy"

    assert "Created wheel for stitch-sweep" in ended.stdout, "pip installed the checkout"
    quickstart = checkout / "experiments/quickstart/digits"
    assert (quickstart / "report.html").is_file()
    assert list((quickstart / "figures").glob("matrices_*.pdf"))
    assert "gradient" in ended.stdout
    assert "full" in ended.stdout

    results = pd.read_parquet(study / "results.parquet")
    assert len(results) == 16 * 2 * 2
    assert set(results["status"]) == {"finished"}
    assert set(results["sender"]) == {"a", "a-untrained"}
    checks = json.loads((study / "sanity.json").read_text())["checks"]
    assert [check["name"] for check in checks if check["verdict"] == "fail"] == []
    assert len(pd.read_csv(study / "measured/longer.csv")) >= 2
    assert "Sanity" in (study / "report.html").read_text()

    trials = len(results)
    assert len(list((copy / "ledger").glob("trials/*"))) == len(
        list((study / "ledger").glob("trials/*"))
    )
    (ui,) = (command for command in commands() if command.startswith(SERVER))
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

    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", tmp_path / "before.txt"], capture_output=True, text=True
    )
    assert checked.returncode == 0, f"the original has changed: {checked.stdout}"
