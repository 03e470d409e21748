"""A sweep that is resumed from its mirror."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.support.mirrors import read_files
from tests.support.sweeps import TRIALS, ended, figures, run, start, stop_when, write_config


@pytest.mark.long
def test_a_sweep_goes_on_on_another_machine_from_its_copy(tmp_path):
    """The driver is killed and its disk is lost; only the copy remains."""
    zoo, uri = tmp_path / "zoo", f"file://{tmp_path}/bucket"
    whole = write_config(tmp_path / "whole", zoo)
    status, output = run("sweep", whole)
    assert status == 0, output
    first = write_config(tmp_path / "first", zoo)
    process = start("sweep", first, "--mirror", uri, "--workers", 1)
    stop_when(process, tmp_path / "bucket", 3, signal.SIGKILL)
    process.communicate()
    shutil.rmtree(first.parent)
    second = write_config(tmp_path / "second", zoo)
    status, output = run("sweep", second, "--mirror", uri)
    assert status == 2
    assert "add --resume" in output
    copied = ended(tmp_path / "bucket")
    assert 3 <= copied < TRIALS
    status, output = run("sweep", second, "--mirror", uri, "--resume")
    assert status == 0, output
    assert figures(second.parent) == figures(whole.parent)
    assert figures(tmp_path / "bucket") == figures(whole.parent)
    left = set(read_files(second.parent)) - set(read_files(tmp_path / "bucket"))
    # MLflow's store lies in the project, beside the experiment.
    left = {name for name in left if not name.startswith("mlruns/")}
    assert left == {"config.yml", "mlflow.db", "ledger/tracking.lock"}
