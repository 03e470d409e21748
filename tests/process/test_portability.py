"""`stitch`, `analyze` and the Python API use nothing that only POSIX has.

The check runs on Linux: modules of Stitch Sweep see a system without fork, `/proc`, `fcntl` and the like.
It can't show what libraries do on another system, and not what its file systems refuse.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import other_system
from tests.support.paths import ROOT

NETS = """
import torch
from torch import nn
import stitch_sweep as ss

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.block = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = torch.relu(self.block(torch.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))

labels = torch.arange(80) % 2
images = torch.rand(80, 1, 8, 8) / 2 + labels.view(-1, 1, 1, 1) / 2
data, settings = (images, labels), {"training": {"epochs": 1}}
"""

CONFIG = """
data: {name: digits, train_images: 200}
networks:
  - {name: a, family: resnet1111, width: 2}
pairs: [{sender: a, receiver: a, sender_layers: [1], receiver_layers: [1]}]
pretraining: {epochs: 1}
training: {epochs: 1}
tracking: {enabled: false}
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables of a process that sees another system."""
    folder = tmp_path_factory.mktemp("system")
    shutil.copy(other_system.__file__, folder / "sitecustomize.py")
    path = f"{folder}{os.pathsep}{ROOT}"
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run(system: dict[str, str], folder: Path, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=system, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import fcntl", "No module named 'fcntl'"),
        ("import os; os.fork()", "os has no fork on this system"),
        ("import os; os.sched_getaffinity(0)", "no sched_getaffinity"),
        ("import signal; signal.SIGHUP", "no SIGHUP"),
        ("import sys; assert sys.platform == 'linux'", "AssertionError"),
        ("from pathlib import Path; Path('/proc/cpuinfo').read_text()", "FileNotFoundError"),
    ],
)
def test_a_use_of_posix_is_found(system, tmp_path, code, error):
    """The planted faults: the same line fails in a module of Stitch Sweep, and works elsewhere."""
    for name, is_ours in (("stitch_sweep_elsewhere", False), ("stitch_sweep.fault", True)):
        executed = f"exec({code!r}, {{'__name__': {name!r}, '__builtins__': __builtins__}})"
        if "fork" in code and not is_ours:
            continue
        ran = subprocess.run(
            [sys.executable, "-c", executed],
            env=system,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (error in ran.stderr) == is_ours, ran.stderr
        assert (ran.returncode != 0) == is_ours


def test_one_stitch_in_python(system, tmp_path):
    code = f"{NETS}\nresult = ss.stitch(Net(3), Net(4), 1, 1, data=data, **settings)"
    code += "\nprint(result.status); result.plot(); result.save('stitch.safetensors')"
    assert "finished" in run(system, tmp_path, "-c", code)
    assert (tmp_path / "stitch.safetensors").is_file()


def test_a_matrix_its_report_and_analyze(system, tmp_path):
    """The sweep of `ss.matrix` runs on Ray without forked workers."""
    code = f"{NETS}\nmatrix = ss.matrix(Net(3), Net(4), data=data, layers=[1], losses=['task'],"
    code += " folder='matrix', **settings)\nprint(matrix.matrices)"
    (tmp_path / "matrix.py").write_text(code)
    run(system, tmp_path, "matrix.py")
    (tmp_path / "matrix" / "report.html").unlink(missing_ok=True)
    run(system, tmp_path, "-m", "stitch_sweep", "analyze", "matrix")
    assert (tmp_path / "matrix" / "report.html").is_file()
    assert '"trials": 1' in run(
        system, tmp_path, "-m", "stitch_sweep", "status", "matrix", "--json"
    )


def test_the_command_stitch(system, tmp_path):
    (tmp_path / "config.yml").write_text(CONFIG)
    arguments = ("-m", "stitch_sweep", "stitch", "config.yml", "--pair", "a:1,a:1")
    assert "accuracy" in run(system, tmp_path, *arguments)
