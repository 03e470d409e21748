"""TensorBoard and Weights & Biases: what they store is what the ledger has."""

from __future__ import annotations

import importlib.machinery
import re
from typing import Any

import pytest

from stitch_sweep.config.root import Config
from stitch_sweep.config.tracking import TrackingConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.tracking import loggers
from stitch_sweep.tracking.loggers import check_loggers, tensorboard_folder
from stitch_sweep.tracking.tensorboard_logger import (
    TensorBoardDestination,
    TensorBoardLogger,
    folder_name,
)
from stitch_sweep.tracking.wandb_logger import MissingKeyError, WandbDestination
from tests.support.faults import wait_for
from tests.support.tracking import BASE, end_trial, make_ledger
from tests.support.wandb_files import read_wandb


class TestTensorBoard:
    def test_its_reader_finds_trajectories_metrics_and_settings(self, tmp_path):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        ledger = make_ledger(tmp_path)
        end_trial(ledger, 1)
        target = tmp_path / "tensorboard"
        assert list(TensorBoardLogger(tmp_path, target).send()) == ["s-n0", "s-n1"]
        names = [folder_name(record) for record in map(ledger.read, ("s-n0", "s-n1"))]
        assert {path.name for path in target.iterdir()} == set(names)
        assert re.fullmatch(r"a\d-b\d, \w+, task, number 1, s", names[1])
        run = EventAccumulator(str(target / names[1]))
        run.Reload()
        for name in ("train/loss", "val/loss"):
            events = [(e.step, e.value, e.wall_time) for e in run.Scalars(name)]
            assert events == [(0, 1.0, 2000.5), (1, 0.5, 2001.5)]
        assert [e.value for e in run.Scalars("final/val_accuracy")] == [0.25]
        plugins = run.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        assert b"linear" in plugins
        assert b"sender_layer" in plugins

    def test_what_was_sent_is_not_sent_again_and_what_was_half_sent_is(self, tmp_path, monkeypatch):
        from torch.utils.tensorboard import SummaryWriter

        ledger = make_ledger(tmp_path)
        target = tmp_path / "tensorboard"
        logger = TensorBoardLogger(tmp_path, target)

        def full(*_: object) -> None:
            raise OSError("full")

        with monkeypatch.context() as patch:
            patch.setattr(SummaryWriter, "add_text", full)
            with pytest.raises(OSError, match="full"):
                list(logger.send())
        assert list(target.iterdir()) == []
        assert list(logger.send()) == ["s-n0"]
        end_trial(ledger, 1)
        assert list(TensorBoardLogger(tmp_path, target).send()) == ["s-n1"]

    def test_a_running_trial_is_not_sent(self, tmp_path):
        ledger = make_ledger(tmp_path, trials=0)
        ledger.begin("s-n0", {"study": "s", "number": 0})
        assert list(TensorBoardLogger(tmp_path, tmp_path / "tensorboard").send()) == []

    def test_several_sweeps_may_share_a_folder(self, tmp_path):
        assert tensorboard_folder(tmp_path / "x", TrackingConfig(tensorboard=True)) == (
            tmp_path / "x" / "tensorboard"
        )
        shared = TrackingConfig(tensorboard=str(tmp_path / "all"))
        assert tensorboard_folder(tmp_path / "x", shared) == tmp_path / "all" / "x"

    def test_explains_a_folder_that_can_not_be_written(self):
        explain = TensorBoardDestination("/x").explain
        assert "another folder" in (explain(PermissionError("no")) or "")
        assert explain(OSError(28, "No space left on device")) is None


def _ended(runs: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    return runs if all(run["exit"] is not None for run in runs) else None


class TestWandb:
    def test_its_reader_finds_offline_runs(self, tmp_path):
        ledger = make_ledger(tmp_path)
        end_trial(ledger, 1)
        end_trial(ledger, 2, status="failed", metrics={}, metric=None, error="it broke")
        destination = WandbDestination("project x", "offline")
        destination.load()
        destination.check_early(tmp_path)
        assert list(destination.connect(tmp_path).send()) == ["s-n0", "s-n1", "s-n2"]
        assert list(destination.connect(tmp_path).send()) == []
        files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
        # The client's own process writes the files, and may still do so when `finish` returns.
        runs = wait_for(
            lambda: _ended([read_wandb(path) for path in files]), "the ends of the runs"
        )
        by_trial = {run["config"]["trial"]: run for run in runs}
        assert set(by_trial) == {"s-n0", "s-n1", "s-n2"}
        run = by_trial["s-n1"]
        assert (run["name"], run["project"]) == ("a:0 -> b:1, linear, task, number 1", "project x")
        assert len({run["group"] for run in runs}) == 1
        assert len({run["id"] for run in runs}) == 3
        assert run["config"]["stitch"] == "linear"
        steps = [
            {key: row[key] for key in ("_step", "train/loss", "val/loss")} for row in run["history"]
        ]
        assert steps == [
            {"_step": 0, "train/loss": 1.0, "val/loss": 1.0},
            {"_step": 1, "train/loss": 0.5, "val/loss": 0.5},
        ]
        assert run["summary"]["val_accuracy"] == 0.25
        assert (run["exit"], by_trial["s-n2"]["exit"]) == (0, 1)
        assert by_trial["s-n2"]["summary"]["error"] == "it broke"

    def test_online_it_needs_a_key_before_anything_is_sent(self, tmp_path, monkeypatch):
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        destination = WandbDestination("p", "online")
        destination.load()
        with pytest.raises(MissingKeyError) as caught:
            destination.check_early(tmp_path)
        assert "run `wandb login`, set WANDB_API_KEY" in (destination.explain(caught.value) or "")
        assert destination.explain(ConnectionError("no route")) is None


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_an_error_with_its_extra(name, monkeypatch):
    value = {"tensorboard": True, "wandb": {"mode": "offline"}}[name]
    config = Config.model_validate({**BASE, "tracking": {"enabled": False, name: value}}).tracking
    check_loggers(config)
    folder = importlib.machinery.ModuleSpec(name, None, is_package=True)  # a folder, no package
    for spec in (None, folder):
        with monkeypatch.context() as patch:
            patch.setattr(loggers, "find_spec", lambda _, spec=spec: spec)
            check_loggers(TrackingConfig(enabled=False))
            with pytest.raises(InputError, match=rf"pip install 'stitch-sweep\[{name}\]'"):
                check_loggers(config)


def test_the_project_alone_is_a_short_form():
    assert TrackingConfig.model_validate({"wandb": "mine"}).wandb == (
        TrackingConfig.model_validate({"wandb": {"project": "mine", "mode": "online"}}).wandb
    )
    with pytest.raises(ValueError, match="without any of"):
        TrackingConfig.model_validate({"wandb": "a/b"})


def test_a_folder_of_event_files_must_not_be_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        check_loggers(TrackingConfig(enabled=False, tensorboard=str(file)))


def test_a_configuration_without_them_is_described_as_before():
    dumped = Config.model_validate(BASE).model_dump(mode="json")
    assert dumped["tracking"].keys() == {"experiment", "uri", "enabled"}
