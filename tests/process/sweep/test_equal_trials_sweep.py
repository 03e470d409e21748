"""A sweep with equal trials."""

from __future__ import annotations

import signal

import pytest

from tests.support.sweeps import figures, run, start, stop_when, write_config


@pytest.mark.long
def test_a_sweep_says_how_many_trials_were_copied(tmp_path):
    """Two workers, an interruption and a resume give the same copies as one worker."""
    space = {"training.optimizer.lr": {"type": "categorical", "choices": [0.01, 0.03]}}
    changes = {"search__space": space, "search__samples": 5, "search__parallel_per_study": 2}
    trials = 10 * 5
    outputs, found = [], []
    for name, workers in (("one", 1), ("two", 2)):
        config = write_config(tmp_path / name, tmp_path / "zoo", **changes)
        if name == "two":
            process = start("sweep", config, "--workers", workers)
            stop_when(process, config.parent, 15, signal.SIGKILL)
            process.communicate()
        resume = ["--resume"] if name == "two" else []
        status, output = run("sweep", config, "--workers", workers, *resume)
        assert status == 0, output
        outputs.append(output)
        found.append(figures(config.parent))
    assert found[0] == found[1]
    copied = sum(row["copied_from"] is not None for row in found[0]["results"])
    assert copied >= trials - 2 * 10
    assert all(f"{copied} of {trials} trials were equal to earlier ones" in o for o in outputs)
