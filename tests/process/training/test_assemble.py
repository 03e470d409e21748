"""`stitch-sweep assemble` as a process, from a configuration to its files."""

from __future__ import annotations

import json

import pandas as pd

from stitch_sweep.config.reading import read_config
from stitch_sweep.stitches.storage import load_stitch
from stitch_sweep.sweep.assemble import run_assembly
from tests.support.assemblies import three_parts, write_assembly
from tests.support.sweeps import run


def test_from_a_file_to_its_trajectory(tmp_path):
    config = write_assembly(
        tmp_path, tmp_path / "zoo", three_parts(start="least_squares"), order="in_turn"
    )
    status, output = run("assemble", config)
    assert status == 0, output
    assert "penalty" in output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "finished"
    trajectory = pd.read_pickle(tmp_path / "traj.pkl")
    pd.testing.assert_frame_equal(trajectory, pd.read_parquet(tmp_path / "traj.parquet"))
    assert trajectory["part"].drop_duplicates().tolist() == [1, 3]
    assert len(pd.read_parquet(tmp_path / "predictions.parquet")) == 100
    stitch = load_stitch(tmp_path / "parts" / "1-stitch.safetensors")
    again = load_stitch(tmp_path / "parts" / "3-stitch.safetensors")
    sizes = sum(p.numel() for module in (stitch, again) for p in module.parameters())
    assert sizes == summary["parameters"]
    resolved = read_config(tmp_path / "config.resolved.yml")
    assert run_assembly(resolved, tmp_path / "again")["test_accuracy"] == summary["test_accuracy"]
    assert run("sweep", config)[0] == 2, "there is nothing to sweep over"
