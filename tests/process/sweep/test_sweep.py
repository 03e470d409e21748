"""Whole sweeps with Ray, Optuna and the ledger: the same results after the loss of any process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.sweep.ray_setup import ray
from stitch_sweep.sweep.retries import RETRIES
from stitch_sweep.tracking.process import TrackingProcess
from tests.support.faults import descendants, kill, named, wait_for
from tests.support.sweeps import (
    TRIALS,
    ended,
    figures,
    head,
    invoke,
    run,
    start,
    stop_when,
    write_config,
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Path:
    """The small sweep with two workers, without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    status, output = run("sweep", write_config(folder, zoo), "--workers", 2, PYTHONHASHSEED="1")
    assert status == 0, output
    return folder


def records(folder: Path) -> list[dict]:
    return list(Ledger(folder).records())


def test_every_trial_is_in_the_results_once(undisturbed):
    results = pd.read_parquet(undisturbed / "results.parquet")
    assert len(results) == TRIALS == results["trial"].nunique()
    assert set(results["status"]) == {"finished"}


def test_two_runs_of_a_sweep_are_identical(undisturbed, tmp_path):
    """Compare two sweeps bit for bit: results, trajectories, predictions, stitches and matrices.

    The second sweep has another driver, one worker instead of two and another hash seed of Python. It
    trains its networks again, and the first process that trains a network is killed.
    """
    assert len({r["worker"] for r in records(undisturbed)}) == 2, "both workers must have worked"
    config = write_config(tmp_path, tmp_path / "zoo")
    process = start("sweep", config, "--workers", 1, PYTHONHASHSEED="2")
    kill(
        *wait_for(
            lambda: named(descendants(process.pid), b"train_network_remotely"),
            "a network in training",
        )
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert output.count("its process died; its training resumes") == 1
    assert len({r["worker"] for r in records(tmp_path)}) == 1
    assert figures(tmp_path) == figures(undisturbed)


@pytest.mark.long
def test_a_driver_killed_again_and_again_ends_with_the_same_figures(undisturbed, tmp_path):
    """SIGKILL while networks train, several signals during trials, then a run to the end."""
    config = write_config(tmp_path / "sweep", tmp_path / "zoo")
    folder = config.parent
    process = start("sweep", config)
    while not list((tmp_path / "zoo").glob(".*.lock")):  # until the first network is in training
        assert process.poll() is None, process.communicate()[0]
    process.kill()
    process.communicate()
    for count, sign in (
        (1, signal.SIGKILL),
        (4, signal.SIGINT),
        (9, signal.SIGTERM),
        (14, signal.SIGKILL),
    ):
        process = start("sweep", config, "--resume")
        stop_when(process, folder, count, sign)
        output, _ = process.communicate()
        assert process.returncode == (-sign if sign == signal.SIGKILL else 130), output
        assert "Traceback" not in output
        assert count <= ended(folder) < TRIALS, "the sweep was over before it was disturbed"
    assert "--resume" in run("sweep", config)[1], "a folder with a sweep in it needs --resume"
    status, output = run("sweep", config, "--resume")
    assert status == 0, output
    assert figures(folder) == figures(undisturbed)
    assert sorted(r["trial"] for r in records(folder)) == sorted(
        r["trial"] for r in records(undisturbed)
    )


def test_a_killed_worker_costs_nothing_but_time(undisturbed, zoo, tmp_path):
    config = write_config(tmp_path, zoo)
    process = start("sweep", config, "--workers", 1)
    while ended(tmp_path) < 2:
        assert process.poll() is None, process.communicate()[0]
    victims = named(descendants(process.pid), b"Trainable")
    assert victims, "no worker process was found"
    kill(victims[0])
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert len({r["worker"] for r in records(tmp_path)}) == 2, (
        "another process must have taken over"
    )
    assert figures(tmp_path) == figures(undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("name", [b"raylet/raylet", b"gcs_server"])
def test_a_killed_process_of_ray_ends_the_sweep_with_one_sentence(zoo, tmp_path, name):
    process = start("sweep", write_config(tmp_path, zoo, training__epochs=100))
    wait_for(lambda: ended(tmp_path) >= 1, "a trial has ended")
    kill(*named(descendants(process.pid), name))
    output, _ = process.communicate()
    assert process.returncode == 1, output
    assert output.count("error: the sweep stopped: Ray's process") == 1
    assert "--resume" in output
    assert "Last 20 lines" not in output
    assert "Traceback" not in output


DYING_WORKER = """
import os, signal, sys
from pathlib import Path
import stitch_sweep.sweep.trainable as workers
import stitch_sweep.sweep.tuning as tuning
from stitch_sweep.cli.main import main

died = Path(sys.argv.pop(1))

class Dying(workers.StitchTrainable):
    def reset_config(self, new_config):
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset_config(new_config)

tuning.StitchTrainable = Dying
main()
"""


def test_a_worker_that_dies_between_two_trials_costs_nothing_either(undisturbed, zoo, tmp_path):
    config, died = write_config(tmp_path / "sweep", zoo), tmp_path / "died"
    command = [sys.executable, "-c", DYING_WORKER, died, "sweep", config, "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert died.exists()
    assert "tried again: its worker died" in done.stderr
    assert figures(config.parent) == figures(undisturbed)


BROKEN_WORKER = """
from dataclasses import replace
import stitch_sweep.sweep.trainable as workers
import stitch_sweep.sweep.tuning as tuning
from stitch_sweep.sweep.ray_setup import ray
from stitch_sweep.cli.main import main

class Broken(workers.StitchTrainable):
    def setup(self, config, shared=None):
        super().setup(config, replace(shared, networks=ray.put(None)))

tuning.StitchTrainable = Broken
main()
"""


@pytest.mark.long
def test_a_worker_that_can_not_be_set_up_says_why(zoo, tmp_path):
    pairs = [{"sender": "a", "receiver": "b", "sender_layers": [3], "receiver_layers": [4]}]
    config = write_config(tmp_path, zoo, pairs=pairs, search={})
    command = [sys.executable, "-c", BROKEN_WORKER, "sweep", config, "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    why = "AttributeError: 'NoneType' object has no attribute 'items'"
    assert done.stderr.count(f"tried again: {why}") == RETRIES
    assert f"too many attempts: {why}" in done.stderr
    (record,) = records(tmp_path)
    assert record["status"] == "running", "it is no result: --resume tries it again"
    assert record["error"] == why


def test_a_sweep_writes_down_what_it_was_made_with(undisturbed):
    description = Ledger(undisturbed).description()
    assert description["versions"]["torch"] == torch.__version__
    assert description["versions"]["ray"] == ray.__version__
    assert description["processor"]


def test_resuming_a_finished_sweep_shows_it_again(undisturbed):
    before = {p: p.read_bytes() for p in (undisturbed / "ledger" / "trials").iterdir()}
    status, output = invoke("sweep", undisturbed / "config.yml", "--resume")
    assert status == 0, output
    assert f"{TRIALS} of {TRIALS} trials ended" in output
    assert {p: p.read_bytes() for p in (undisturbed / "ledger" / "trials").iterdir()} == before


def test_a_sweep_ends_with_a_report(undisturbed, tmp_path):
    """The page is written, a sentence about every matrix printed; a foreign page is left alone."""
    assert "<html" in (undisturbed / "report.html").read_text()
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    for name in (".report.json", "verdicts.json"):
        (folder / name).unlink()
    (folder / "report.html").write_text("mine")
    status, output = invoke("sweep", folder / "config.yml", "--resume")
    assert status == 0, output
    assert "no report was written" in output
    assert (folder / "report.html").read_text() == "mine"
    (folder / "report.html").unlink()
    status, output = invoke("sweep", folder / "config.yml", "--resume", "--set", "report=never")
    assert status == 0, output
    assert not (folder / "report.html").exists()
    status, output = invoke("sweep", folder / "config.yml", "--resume")
    assert status == 0, output
    assert "<html" in (folder / "report.html").read_text()
    assert "The sanity suite has not been run" in output
    assert f"for a browser: {folder / 'report.html'}" in output


def test_a_change_to_finished_work_is_refused_and_named(undisturbed):
    status, output = invoke(
        "sweep", undisturbed / "config.yml", "--resume", "--set", "training.epochs=3"
    )
    assert status == 2
    assert "error: training.epochs: was 10, is 3" in output
    assert "Traceback" not in output
    status, output = invoke(
        "sweep", undisturbed / "config.yml", "--resume", "--set", "search.samples=1"
    )
    assert status == 2
    assert "the configuration no longer contains" in output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("networks.0.width=8", "networks.a.weights.options.width: was 4, is 8"),
        ("pretraining.epochs=3", "networks.a.weights.pretraining.epochs: was 2, is 3"),
        ("networks.1.layers=[relu, layer1.0, layer2.0, layer3.0, layer4.0]", "networks.b.layers"),
        ("data.split_seed=1", "data: images or labels differ from those"),
    ],
)
def test_networks_that_are_no_longer_the_same_are_refused(undisturbed, change, said):
    status, output = invoke("sweep", undisturbed / "config.yml", "--resume", "--set", change)
    assert status == 2
    assert said in output


def test_a_second_sweep_at_once_is_refused(undisturbed):
    with Ledger(undisturbed).lock():
        status, output = run("sweep", undisturbed / "config.yml", "--resume")
    assert status == 2
    assert f"process {os.getpid()}" in output


def test_more_samples_and_cells_extend_a_sweep(zoo, tmp_path):
    pairs = [{"sender": "a", "receiver": "b", "sender_layers": [3], "receiver_layers": [4]}]
    config = write_config(tmp_path, zoo, pairs=pairs, search__samples=1)
    assert run("sweep", config)[0] == 0
    first = {r["trial"]: r for r in records(tmp_path)}
    pairs = [{**pairs[0], "sender_layers": [3, 4]}]
    config = write_config(tmp_path, zoo, pairs=pairs, search__samples=2)
    status, output = run("sweep", config, "--resume")
    assert status == 0, output
    extended = {r["trial"]: r for r in records(tmp_path)}
    assert len(first) == 2
    assert len(extended) == 8
    assert {trial: extended[trial] for trial in first} == first


@pytest.mark.long
def test_a_default_crossed_with_a_value(zoo, tmp_path):
    """Parquet has no column for a number beside None."""
    config = write_config(
        tmp_path,
        zoo,
        pairs=[{"sender": "a", "receiver": "b", "sender_layers": [3], "receiver_layers": [3]}],
        search={"cross": {"training.optimizer.lr": [None, 0.01]}},
    )
    status, output = run("sweep", config)
    assert status == 0, output
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert list(results["factor.training.optimizer.lr"]) == ["null", "0.01"]


def test_a_diverging_trial_fails_alone_with_its_last_good_trajectory(zoo, tmp_path):
    config = write_config(
        tmp_path,
        zoo,
        search={"cross": {"training.optimizer.lr": [0.01, 1e30]}},
        training={"epochs": 4, "batch_size": 32, "optimizer": {"name": "sgd"}},
        stitch={"start": "random"},
        loss={"mse": 1.0},
    )
    status, output = run("sweep", config)
    assert status == 1, output
    results = pd.read_parquet(tmp_path / "results.parquet")
    wild = results["training.optimizer.lr"] == 1e30
    assert set(results[wild]["status"]) == {"failed"}
    assert set(results[~wild]["status"]) == {"finished"}
    trajectories = pd.read_parquet(tmp_path / "traj.parquet")
    assert trajectories["loss"].notna().all()
    assert (trajectories["loss"].abs() < float("inf")).all()


def test_studies_open_with_optuna(undisturbed):
    storage = JournalStorage(JournalFileBackend(str(undisturbed / "optuna.log")))
    summaries = optuna.get_all_study_summaries(storage)
    assert len(summaries) == TRIALS // 2
    by_id = {r["trial"]: r for r in records(undisturbed)}
    for summary in summaries:
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        for trial in study.trials:
            record = by_id[f"{study.user_attrs['study']}-n{trial.number}"]
            assert trial.params == record["params"]
            assert trial.value == record["metric"]


def _mlflow(folder: Path, query: str) -> list[tuple]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return database.execute(query).fetchall()


def test_mlflow_has_every_trial_and_every_step_once(undisturbed):
    trials = _mlflow(undisturbed, "select value from tags where key = 'stitch_sweep.trial'")
    assert sorted(t for (t,) in trials) == sorted(r["trial"] for r in records(undisturbed))
    parents = _mlflow(undisturbed, "select value from tags where key = 'mlflow.parentRunId'")
    assert len(parents) == TRIALS
    assert len(set(parents)) == 1
    steps = dict(
        _mlflow(
            undisturbed,
            "select tags.value, count(*) from metrics join tags on tags.run_uuid = metrics.run_uuid"
            " where tags.key = 'stitch_sweep.trial' and metrics.key in ('train/loss', 'val/loss')"
            " group by tags.value",
        )
    )
    assert steps == {r["trial"]: len(r["trajectory"]) for r in records(undisturbed)}
    params = _mlflow(undisturbed, "select distinct key from params")
    assert {"sender", "sender_layer", "receiver", "receiver_layer", "stitch", "loss"} <= {
        key for (key,) in params
    }


def test_sending_again_adds_nothing(undisturbed):
    def everything() -> list[tuple]:
        tables = ("runs", "metrics", "params")
        return [_mlflow(undisturbed, f"select count(*) from {table}")[0] for table in tables]

    before = everything()
    uri = f"sqlite:///{undisturbed / 'mlflow.db'}"
    assert TrackingProcess(undisturbed, "stitch-sweep", uri).finish()
    # The parent's run is closed. Runs that are open again are sent again, without new entries.
    assert everything() == before
    with sqlite3.connect(undisturbed / "mlflow.db") as database:
        database.execute("update runs set status = 'RUNNING'")
    assert TrackingProcess(undisturbed, "stitch-sweep", uri).finish()
    assert everything() == before


def test_a_dead_tracking_server_loses_nothing(undisturbed):
    process = TrackingProcess(undisturbed, "stitch-sweep", "http://127.0.0.1:9")
    assert not process.finish(patience=15.0)


def test_stitches_and_networks_load_in_one_line(undisturbed, zoo):
    from stitch_sweep.networks.zoo import load
    from stitch_sweep.stitches.storage import load_stitch

    for record in records(undisturbed):
        stitch = load_stitch(undisturbed / "stitches" / f"{record['trial']}.safetensors")
        assert sum(p.numel() for p in stitch.parameters()) == record["metrics"]["stitch_parameters"]
    for folder in zoo.iterdir():
        if folder.is_dir():
            assert not load(folder).training


def test_status_and_json_speak_for_programs(undisturbed):
    status, output = invoke("status", undisturbed, "--json")
    found = json.loads(output)
    assert status == 0
    assert (found["state"], found["finished"], found["not_started"]) == ("complete", TRIALS, 0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a running Ray cluster."""
    with head("--num-cpus=2", "--num-gpus=0") as address:
        yield address


def test_a_running_cluster_gives_the_same_figures(undisturbed, zoo, tmp_path, cluster):
    status, output = run("sweep", write_config(tmp_path, zoo), "--address", cluster)
    assert status == 0, output
    assert figures(tmp_path) == figures(undisturbed)


def test_a_cluster_without_a_gpu_is_refused_one(zoo, tmp_path, cluster):
    config = write_config(tmp_path, zoo, resources={"gpu": 1.0})
    status, output = run("sweep", config, "--address", cluster)
    assert status == 2
    assert "gpu: 1" in output
    assert "Traceback" not in output
    assert [p.name for p in tmp_path.iterdir()] == ["config.yml"]
