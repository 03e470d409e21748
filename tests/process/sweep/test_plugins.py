"""The tutorial on extensions, step by step, and the same sweep from a script without a plugin."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from stitch_sweep.core import plugins
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.storage import load_stitch
from tests.support.extensions import blocks, forgetting_plugins, write_tutorial
from tests.support.sweeps import figures, run

DESCRIBE, DRY_RUN, SWEEP, RESUME, ANALYZE, RUN_CODE = (
    shlex.split(line)[1:] for block in blocks("sh") for line in block.splitlines()
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's folder after its sweep."""
    folder = tmp_path_factory.mktemp("tutorial")
    write_tutorial(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        status, output = run(*SWEEP, "--workers", "2")
    assert status == 0, output
    return folder


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_the_family_is_described_and_the_sweep_is_planned(tmp_path, monkeypatch):
    write_tutorial(tmp_path)
    monkeypatch.chdir(tmp_path)
    status, output = run(*DESCRIBE)
    assert status == 0, output
    assert "blocks.1" in output
    status, output = run(*DRY_RUN, "--json")
    assert status == 0, output
    assert '"trials": 8' in output
    assert not (tmp_path / "ledger").exists()


def test_every_part_of_the_plugin_was_used(folder):
    results = pd.read_parquet(folder / "results.parquet")
    *diary, last = (folder / "diary.txt").read_text().splitlines()
    assert sorted(line.split()[0] for line in diary) == sorted(results["trial"])
    assert last == "end 8 finished"
    assert results["status"].tolist() == ["finished"] * 8
    assert set(results["sender"]) == {"a", "a-other-start"}
    assert set(results["setting.stitch.down"] if "setting.stitch.down" in results else
               results["factor.stitch.down"]) == {"average", "first"}  # fmt: skip
    assert set(results["loss"]) == {"channel_means"}
    assert (results["val_largest_error"] > 0).all()
    # Where no axis shrinks, the rule plays no part; where one does, it changes the result.
    same = results.groupby(["sender", "sender_layer"])["val_loss"].nunique().unstack()
    assert same[1].tolist() == [1, 1]
    assert same[0].tolist() == [2, 2]


def test_a_changed_plugin_stops_a_resume(inside):
    file = inside / "mine.py"
    text = file.read_text()
    try:
        file.write_text(text + "\n# a comment\n")
        status, output = run(*RESUME)
    finally:
        file.write_text(text)
    assert status == 2, output
    assert "plugin mine.py: its content has changed since the sweep began" in " ".join(
        output.split()
    )
    status, output = run(*RESUME)
    assert status == 0, output


def test_analyze_runs_the_plugin_only_if_asked(inside):
    file = inside / "mine.py"
    text = file.read_text()
    try:
        file.write_text(f"open({str(inside / 'sprung')!r}, 'w').close()\n" + text)
        for command in (ANALYZE, ["status", "."]):
            status, output = run(*command)
            assert status == 0, output
        assert not (inside / "sprung").exists()
        assert not (inside / "measured/networks.parquet").exists()
        status, output = run(*RUN_CODE)
        assert status == 0, output
        assert not (inside / "sprung").exists(), "it is not the plugin of the sweep"
    finally:
        file.write_text(text)
    status, output = run(*RUN_CODE)
    assert status == 0, output
    networks = pd.read_parquet(inside / "measured/networks.parquet")
    assert set(networks["family"]) == {"tower"}
    with forgetting_plugins():
        plugins.load(str(file))
        stitches = [load_stitch(path) for path in (inside / "stitches").iterdir()]
        assert {type(stitch) for stitch in stitches} == {STITCHES.get("gate").factory}


def test_a_script_that_registers_by_itself_has_the_same_results(folder, tmp_path):
    """Its objects travel to the workers by value."""
    tree = yaml.safe_load((folder / "config.yml").read_text())
    del tree["plugins"]
    tree["zoo"] = str(tmp_path / "zoo")
    script = tmp_path / "script.py"
    script.write_text(
        "\n\n".join(blocks("python")) + "\n\nimport stitch_sweep as ss\n"
        f"experiment = ss.sweep({tree!r}, folder={str(tmp_path / 'sweep')!r}, workers=2)\n"
        "assert (experiment.status['finished'], experiment.status['failed']) == (8, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert figures(tmp_path / "sweep") == figures(folder)
