"""A command loads no heavy dependency that it doesn't use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.image_files import write_folder
from tests.support.paths import ROOT

HEAVY = {"ray", "mlflow", "sklearn", "matplotlib", "torchvision"}

RUN = """
import atexit, sys

def list_modules():
    with open({listing!r}, "w") as file:
        file.write(" ".join(name for name in sys.modules if "." not in name))

atexit.register(list_modules)
sys.argv = ["stitch-sweep", *{arguments!r}]
from stitch_sweep.__main__ import main
main()
"""


def run_command(folder: Path, *arguments: object) -> set[str]:
    """Run a command in a process, and return the top-level modules that it loaded."""
    listing = folder / "modules.txt"
    code = RUN.format(listing=str(listing), arguments=[str(a) for a in arguments])
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return set(listing.read_text().split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose data set needs neither scikit-learn nor torchvision."""
    folder = tmp_path_factory.mktemp("imports")
    write_folder(folder / "pets", shape=(16, 16, 3))
    tree: dict[str, Any] = {
        "data": {"name": "image_folder", "path": str(folder / "pets"), "val_fraction": 0.5},
        "networks": [{"name": "a", "family": "resnet1111", "width": 1}],
        "pretraining": {"epochs": 1},
        "pairs": [{"sender": "a", "receiver": "a", "sender_layers": [1], "receiver_layers": [1]}],
        "training": {"epochs": 1},
        "zoo": str(folder / "zoo"),
        "tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}"},
    }
    (folder / "config.yml").write_text(yaml.safe_dump(tree))
    return folder


@pytest.fixture(scope="module")
def sweep(folder: Path) -> Path:
    """The folder of a finished sweep."""
    loaded = run_command(folder, "sweep", folder / "config.yml")
    assert "ray" in loaded, "the listing of modules works"
    return folder


def test_describe_loads_what_it_uses(tmp_path):
    assert run_command(tmp_path, "describe", "resnet34") & HEAVY == set()


def test_stitch_loads_what_it_uses(folder):
    loaded = run_command(folder, "stitch", folder / "config.yml", "--pair", "a:1,a:1")
    assert loaded & HEAVY == set()


def test_zoo_list_loads_what_it_uses(sweep):
    assert run_command(sweep, "zoo", "list", sweep / "zoo") & HEAVY == set()


def test_status_loads_what_it_uses(sweep):
    assert run_command(sweep, "status", sweep) & HEAVY == set()
