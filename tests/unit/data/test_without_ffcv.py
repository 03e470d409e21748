"""Where FFCV isn't installed, selecting it is refused with the commands that install it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml

from stitch_sweep.cli import main as cli
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.loading import make_loaders
from tests.support.documents import unwrap
from tests.support.ffcv import ffcv_config, with_ffcv
from tests.support.paths import ROOT


def test_pixels_that_ffcv_reads_are_not_sent_to_the_device(digits):
    moved = with_ffcv(digits, Path("nowhere")).to("meta")
    assert moved.train.labels.device.type == "meta"
    assert moved.train.images is digits.train.images
    assert digits.to("meta").train.images.device.type == "meta"
    assert digits.to("cpu").train is digits.train


@pytest.fixture
def without_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make FFCV unavailable in this process."""
    importers = "stitch_sweep.data.beton", "stitch_sweep.data.ffcv_loader"
    for name in [n for n in sys.modules if n.startswith("ffcv.") or n in importers]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ffcv", None)


INSTALL = [
    "make ffcv",
    "pip install 'ffcv>=1.0.2'",
    "apt-get install g++ pkg-config python3-dev libopencv-dev libturbojpeg0-dev",
]


@pytest.mark.usefixtures("without_ffcv")
@pytest.mark.parametrize("command", [["sweep"], ["sweep", "--dry-run"], ["zoo", "train"]], ids=str)
def test_the_command_line_says_how_to_install_what_is_missing(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(ffcv_config(loader="ffcv").model_dump(mode="json")))
    monkeypatch.setattr(sys, "argv", ["stitch-sweep", *command, str(file)])
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: data.loader is 'ffcv', but FFCV can't be imported")
    assert all(way in line for way in INSTALL)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yml"]
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("without_ffcv")
def test_a_worker_without_ffcv_says_so(digits, tmp_path):
    with pytest.raises(InputError, match="make ffcv"):
        make_loaders(with_ffcv(digits, tmp_path), 32, seed=0)


def test_the_packages_named_are_those_that_make_and_ci_name():
    packages = INSTALL[2].removeprefix("apt-get install ")
    assert f"FFCV_NEEDS := {packages}\n" in (ROOT / "Makefile").read_text()
    assert packages in (ROOT / ".ci/run").read_text()
    assert packages in unwrap((ROOT / "docs/reference/configuration.md").read_text())
