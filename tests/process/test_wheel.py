"""The wheel holds all that Stitch Sweep needs: it is installed outside of the checkout, and tried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "tests" / "support" / "installed.py"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of what the package is made from, so that no earlier build leaks in."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "stitch_sweep", folder / "stitch_sweep", ignore=shutil.ignore_patterns("__pycache__")
    )
    options = ["--wheel", "--no-isolation", "--outdir", str(folder / "dist")]
    command = [sys.executable, "-m", "build", *options, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; its dependencies are those of the tests' environment."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    (place,) = subprocess.check_output([python, "-c", code], text=True).split()
    # Last on the path, and without its .pth files: an editable installation is not found through it.
    (Path(place) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*command, "--no-index", str(wheel)], check=True, capture_output=True)
    return folder


def run_outside(environment: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in a folder that isn't the checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    program, *arguments = command
    return subprocess.run(
        [environment / "bin" / program, *arguments],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_the_installed_wheel_works(environment, tmp_path):
    shutil.copy(SCRIPT, tmp_path / "try.py")
    ran = run_outside(environment, tmp_path, "python", "try.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "works on Python" in ran.stdout

    # The planted fault: the trial finds a wheel without its templates.
    (templates,) = (environment / "lib").glob("python*/site-packages/stitch_sweep/report/templates")
    templates.rename(templates.with_name("hidden"))
    ran = run_outside(environment, tmp_path, "stitch-sweep", "analyze", "matrix")
    templates.with_name("hidden").rename(templates)
    assert ran.returncode != 0
    assert "templates" in ran.stdout + ran.stderr


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    tracked = subprocess.check_output(["git", "ls-files", "stitch_sweep"], cwd=ROOT, text=True)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == set(tracked.split())
