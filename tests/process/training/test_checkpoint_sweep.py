"""A sweep that is killed in the middle of a trial and resumes from a damaged checkpoint."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from stitch_sweep.config.reading import read_config
from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.predictions import decode_predictions
from stitch_sweep.training.workbench import Workbench
from tests.support.faults import kill_tree
from tests.support.sweeps import write_config

# Every epoch is reported and stored.
SWEEP = """
import sys
from pathlib import Path
from stitch_sweep.config.reading import read_config
from stitch_sweep.sweep.run import run_sweep

path = Path(sys.argv[1])
run_sweep(read_config(path), path.parent, resume=True, report_seconds=0, checkpoint_seconds=0)
"""


def sweep(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def undisturbed(config: Config) -> dict:
    """Train the sweep's single trial in this process, without Ray."""
    prepared = prepare(config)
    (study,) = prepared.studies
    bench = Workbench(config, prepared.data, provide_networks(prepared))
    cell = (study.sender, study.sender_layer, study.receiver, study.receiver_layer)
    training = bench.training(*cell, TrialSettings.model_validate(config.settings))
    while not training.done:
        training.run_epoch()
    result = training.finish()
    return {
        "status": result.status,
        "metrics": result.metrics,
        "trajectory": [{k: v for k, v in row.items() if k != "time"} for row in result.trajectory],
        "predictions": result.predictions.tolist(),
    }


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers through /proc")
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path):
    path = write_config(
        tmp_path.resolve(),
        tmp_path / "zoo",
        pairs=[{"sender": "a", "receiver": "r", "sender_layers": [3], "receiver_layers": [3]}],
        pretraining={"epochs": 1, "batch_size": 64},
        training={"epochs": 80, "batch_size": 32},
        search={},
        tracking={"enabled": False},
    )
    checkpoints = path.parent / "ledger" / "checkpoints"
    process = sweep(path)
    while not list(checkpoints.glob("*.previous")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)  # polling interval
    kill_tree(process)  # so that no worker of the dead sweep still writes a checkpoint
    ledger = Ledger(path.parent)
    (trial,) = ledger.trial_ids()
    assert ledger.read(trial)["status"] == "running"
    newest, earlier = ledger.read_checkpoints(trial)
    newest.path.write_bytes(newest.data[:-1] + bytes([newest.data[-1] ^ 1]))
    process = sweep(path)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert f"checkpoint {newest.path}: its checksum doesn't fit" in said
    assert f"; the previous checkpoint is used: {earlier.path}\n" in said
    record = ledger.read(trial)
    found = {
        "status": record["status"],
        "metrics": record["metrics"],
        "trajectory": [
            {k: v for k, v in row.items() if k != "time"} for row in record["trajectory"]
        ],
        "predictions": decode_predictions(record).tolist(),
    }
    assert found == undisturbed(read_config(path))
    assert ledger.read_checkpoints(trial) == []
