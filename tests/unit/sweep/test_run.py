"""The run of a sweep up to its first trial."""

from __future__ import annotations

import errno
import json

import pytest

from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import StoppedError
from stitch_sweep.sweep.run import run_sweep
from tests.support.sweeps import TRIALS, invoke, write_config


def test_a_dry_run_writes_nothing(tmp_path):
    config = write_config(tmp_path / "sweep", tmp_path / "zoo")
    status, output = invoke("sweep", config, "--dry-run", "--json")
    assert status == 0, output
    *said, found = output.splitlines()
    assert json.loads(found)["trials"] == TRIALS
    assert sum("timing the first steps of " in line for line in said) == 3, "it may take minutes"
    assert [p.name for p in (tmp_path / "sweep").iterdir()] == ["config.yml"]
    assert not (tmp_path / "zoo").exists()


def test_no_cluster_at_the_address(tmp_path):
    status, output = invoke(
        "sweep", write_config(tmp_path, tmp_path / "zoo"), "--address", "127.0.0.1:1"
    )
    assert status == 2
    assert "127.0.0.1:1" in output
    assert "Traceback" not in output
    assert [p.name for p in tmp_path.iterdir()] == ["config.yml"]


@pytest.mark.parametrize(("where", "told"), [("prepare", PermissionError), ("_run", StoppedError)])
def test_only_a_sweep_that_began_can_be_stopped(tmp_path, monkeypatch, where, told):
    """The same error has two causes: an unreadable image, or a record that can't be written."""

    def denied(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "a file")

    path = write_config(tmp_path / "config", tmp_path / "zoo", tracking={"enabled": False})
    monkeypatch.setattr(f"stitch_sweep.sweep.run.{where}", denied)
    with pytest.raises(told, match="Permission denied"):
        run_sweep(read_config(path), tmp_path / "experiment")
    assert (tmp_path / "experiment").exists() == (where == "_run")
