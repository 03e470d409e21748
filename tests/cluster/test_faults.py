"""Sweeps with real faults on real clusters: nothing is lost or doubled, and no result changes."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from stitch_sweep.config.reading import read_config
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.sweep.retries import RETRIES
from stitch_sweep.sweep.searcher import SweepSearcher
from stitch_sweep.tracking.mlflow_tracker import Tracker
from stitch_sweep.tracking.process import TrackingProcess
from tests.support.faults import (
    CLOCK,
    Cable,
    Cluster,
    Driver,
    Mounts,
    Proxy,
    Tracking,
    can_mount,
    can_split,
    closing,
    kill,
    wait_for,
    without_view_of,
)
from tests.support.searches import only_spec
from tests.support.sweeps import ended, figures, run, write_config

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="finds processes through /proc"
)
in_a_namespace = pytest.mark.skipif(
    not can_mount(), reason="needs mount namespaces, which this user may not make"
)

FEW: dict[str, Any] = {
    "pairs": [{"sender": "a", "receiver": "b", "sender_layers": [0, 3], "receiver_layers": [3]}],
    "training": {"epochs": 20, "batch_size": 32},
}
FEW_TRIALS = 2 * 2 * 2
MANY: dict[str, Any] = {"training": {"epochs": 40, "batch_size": 32}, "search__samples": 8}
SEED = 11


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Path:
    """A small sweep on a local Ray, without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    status, output = run("sweep", write_config(folder, zoo, tracking={"enabled": False}, **FEW))
    assert status == 0, output
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    tracking = Tracking(tmp_path_factory.mktemp("mlflow"))
    yield tracking
    tracking.stop()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with closing(Cluster(2)) as made:
        yield made


@pytest.fixture
def proxy(server: Tracking) -> Iterator[Proxy]:
    with closing(Proxy(server.port)) as made:
        yield made


def records(folder: Path) -> list[dict]:
    return list(Ledger(folder).records())


def check(folder: Path, undisturbed: Path) -> None:
    """Check that a sweep ended as if nothing had happened, and left nothing behind."""
    assert figures(folder) == figures(undisturbed)
    trials = [record["trial"] for record in records(undisturbed)]
    assert [record["trial"] for record in records(folder)] == trials
    assert sorted(pd.read_parquet(folder / "results.parquet")["trial"]) == trials
    assert list((folder / "ledger" / "checkpoints").iterdir()) == []
    assert list(folder.rglob("*.tmp")) == []
    by_id = {record["trial"]: record for record in records(folder)}
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
    for summary in optuna.get_all_study_summaries(storage):
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        for trial in study.trials:
            record = by_id.pop(f"{study.user_attrs['study']}-n{trial.number}")
            assert trial.params == record["params"]
            assert trial.value == record["metric"]
    assert by_id == {}


def check_tracked(folder: Path, server: Tracking, experiment: str) -> None:
    """Check that MLflow has every trial of a sweep once, and every step of each trial once."""
    with sqlite3.connect(server.database) as database:
        runs = database.execute(
            "select runs.run_uuid, tags.value, runs.status from runs"
            " join experiments on experiments.experiment_id = runs.experiment_id"
            " join tags on tags.run_uuid = runs.run_uuid"
            " where experiments.name = ? and runs.lifecycle_stage = 'active'"
            " and tags.key in ('stitch_sweep.trial', 'stitch_sweep.sweep')",
            (experiment,),
        ).fetchall()
        sweep = json.loads((folder / "ledger" / "sweep.json").read_text())["id"]
        there = sorted([sweep, *(r["trial"] for r in records(folder))])
        assert sorted(name for _, name, _ in runs) == there
        assert {status for _, name, status in runs if name != sweep} == {"FINISHED"}
        sent = {
            trial: database.execute(
                "select key, step, value from metrics where run_uuid = ? and key like '%/%'", (run,)
            ).fetchall()
            for run, trial, _ in runs
        }
    splits = {"train": "train", "validation": "val"}
    for record in records(folder):
        steps = [
            (f"{splits[row['split']]}/{key}", row["step"], value)
            for row in record["trajectory"]
            for key, value in row.items()
            if key not in ("step", "split", "time", "epoch", "kept") and value is not None
        ]
        assert sorted(sent[record["trial"]]) == sorted(steps)


class Disturbed:
    """A sweep on a cluster, and the faults that a test can cause.

    Args:
        config: the configuration, as a path of the driver.
        folder: the experiment folder, as a path of the test.
        cluster: the cluster.
        random: decides victims and moments.
        before: prefix of the driver's command.
        **environment: of the driver.
    """

    def __init__(
        self,
        config: Path,
        folder: Path,
        cluster: Cluster,
        random: random.Random,
        before: list[str] | None = None,
        **environment: str,
    ) -> None:
        self.config, self.folder, self.cluster, self.random = config, folder, cluster, random
        self._before = before or []
        # Ray waits a minute for a head that is gone.
        self._environment = {"RAY_gcs_rpc_server_reconnect_timeout_s": "15", **environment}
        self.start()

    def start(self) -> None:
        """Start the driver, or a further one after a death."""
        self.driver = Driver(
            self.config,
            *("--resume", "--address", self.cluster.address),
            before=self._before,
            **{**self.cluster.environment, **self._environment},
        )

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for a condition (see `wait_for`); the sweep must not end before."""

        def look() -> Any:
            assert self.driver.runs, f"the sweep ended before this: {what}\n{self.driver.said}"
            return condition()

        return wait_for(look, what)

    def stored(self) -> dict[str, int]:
        """Return the time of each running trial's last checkpoint."""
        found = {}
        for path in (self.folder / "ledger" / "checkpoints").glob("*"):
            try:
                found[path.name] = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
        return found

    def go_on(self, times: int) -> None:
        """Wait until a trial has a number of checkpoints."""
        for _ in range(times):
            before = self.stored()
            self.wait(lambda before=before: self.stored().items() - before.items(), "is stored")

    def victim(self) -> int:
        """Return a random present worker."""

        def workers() -> list[int]:
            nodes = self.cluster.workers
            return [pid for node in nodes for pid in node.workers(b"Trainable")]

        return self.random.choice(self.wait(workers, "there is a worker"))

    def worker_during_training(self) -> None:
        victim = self.victim()
        self.go_on(1)
        time.sleep(self.random.uniform(0, 0.2))  # no event marks the middle of an epoch
        kill(victim)

    def worker_during_checkpoint(self) -> None:
        victim = self.victim()
        folder = self.folder / "ledger" / "checkpoints"
        self.wait(lambda: list(folder.glob(".*.tmp")), "is being stored")
        kill(victim)

    def worker_during_report(self) -> None:
        victim = self.victim()
        self.go_on(1)
        kill(victim)

    def ledgers_writer(self) -> None:
        find = self.cluster.head.workers
        kill(*self.wait(lambda: find(b"LedgerWriter"), "there is a writer"))

    def node(self) -> None:
        self.cluster.kill_worker(self.random.choice(self.cluster.workers))
        self.cluster.add_worker()

    def driver_dies(self) -> None:
        self.driver.kill()
        self.start()

    def driver_dies_and_files_are_torn(self) -> None:
        """Cut off two records and two views at a random byte."""
        self.driver.kill()
        trials = sorted((self.folder / "ledger" / "trials").glob("*.json"))
        views = [self.folder / name for name in ("optuna.log", "traj.parquet", "traj.pkl")]
        for path in (*self.random.sample(trials, 2), *self.random.sample(views, 2)):
            data = (
                path.read_bytes() if path.exists() else b""
            ) or b"of a view that isn't there yet"
            path.write_bytes(data[: self.random.randrange(len(data))].rstrip(b"}\n"))
        self.start()

    def head_dies(self) -> None:
        self.cluster.kill_head()
        assert self.driver.wait(120) == 1, self.driver.said
        assert "does not answer" in self.driver.said
        assert "--resume to continue" in self.driver.said
        self.cluster.start_head()
        for node in [self.cluster.add_worker(), self.cluster.add_worker()]:
            node.wait()
        self.start()


def must_stop(driver: Driver, reason: str) -> None:
    """Check that the sweep ends by itself, gives its reason and a remedy, and shows no traceback."""
    assert driver.wait(120) == 1, driver.said
    assert f"the sweep stopped: {reason}" in " ".join(driver.said.split())
    assert "run the same command with --resume to continue" in driver.said
    assert "Traceback" not in driver.said
    assert "too many attempts" not in driver.said


def half_written(folder: Path) -> list[Path]:
    """Return the records that are no JSON."""

    def whole(path: Path) -> bool:
        try:
            return bool(json.loads(path.read_text()))
        except ValueError:
            return False

    return [path for path in (folder / "ledger").rglob("*.json") if not whole(path)]


def test_workers_the_ledgers_writer_and_a_node_die_while_mlflow_misbehaves(
    undisturbed, zoo, tmp_path, cluster, server, proxy
):
    config = write_config(
        tmp_path, zoo, tracking={"uri": proxy.uri, "experiment": "a handful"}, **FEW
    )
    proxy.behave("deaf")
    sweep = Disturbed(config, tmp_path, cluster, random.Random(SEED))
    sweep.go_on(5)
    sweep.worker_during_training()
    sweep.go_on(3)
    sweep.ledgers_writer()
    proxy.behave("error")
    sweep.go_on(3)
    sweep.worker_during_checkpoint()
    proxy.behave("well")
    sweep.node()
    sweep.go_on(3)
    sweep.worker_during_report()
    assert sweep.driver.wait() == 0, sweep.driver.said
    check(tmp_path, undisturbed)
    check_tracked(tmp_path, server, "a handful")


def test_a_second_driver_is_refused_and_a_dead_one_blocks_nobody(
    undisturbed, zoo, tmp_path, cluster
):
    config = write_config(tmp_path, zoo, tracking={"enabled": False}, **FEW)
    sweep = Disturbed(config, tmp_path, cluster, random.Random(SEED))
    sweep.wait(lambda: ended(tmp_path) >= 2, "two trials have ended")
    first = sweep.driver.process.pid
    os.kill(first, signal.SIGSTOP)  # alive, and too slow to end before the second has started
    status, output = run("sweep", config, "--resume", "--address", cluster.address)
    assert status == 2
    assert f"another sweep is running in this folder (process {first} on " in output
    sweep.driver_dies_and_files_are_torn()
    assert sweep.driver.wait() == 0, sweep.driver.said
    check(tmp_path, undisturbed)


@pytest.mark.long
@in_a_namespace
def test_a_full_disk_stops_a_sweep_that_goes_on_when_there_is_space(undisturbed, zoo, tmp_path):
    with closing(Mounts(tmp_path / "sweep", "16m")) as place:
        write_config(place.folder, zoo, tracking={"enabled": False}, **FEW)
        config = tmp_path / "sweep" / "config.yml"
        driver = Driver(config, before=place.enter)
        wait_for(lambda: ended(place.folder) >= 2 or not driver.runs, "two trials have ended")
        place.fill()
        must_stop(driver, "[Errno 28] No space left on device: '")
        assert 2 <= ended(place.folder) < FEW_TRIALS
        assert half_written(place.folder) == []
        place.empty()
        driver = Driver(config, "--resume", before=place.enter)
        assert driver.wait() == 0, driver.said
        check(place.folder, undisturbed)


@in_a_namespace
def test_a_read_only_folder_is_refused_before_anything_starts(zoo, tmp_path):
    with closing(Mounts(tmp_path / "sweep", "16m")) as place:
        write_config(place.folder, zoo, tracking={"enabled": False}, **FEW)
        place.read_only(".")
        driver = Driver(tmp_path / "sweep" / "config.yml", before=place.enter)
        assert driver.wait() == 2, driver.said
        assert "can't be written: Read-only file system" in driver.said
        assert [path.name for path in place.folder.iterdir()] == ["config.yml"]


@pytest.mark.long
@in_a_namespace
def test_nodes_need_not_see_the_experiment_folder(undisturbed, zoo, tmp_path):
    folder = tmp_path / "sweep"
    config = write_config(folder, zoo, tracking={"enabled": False}, **FEW)
    with closing(Cluster(2, worker=without_view_of(folder))) as cluster:
        sweep = Disturbed(config, folder, cluster, random.Random(SEED))
        sweep.go_on(1)
        for node in cluster.workers:
            assert list(Path(f"/proc/{node.process.pid}/root{folder}").iterdir()) == []
        assert sweep.driver.wait() == 0, sweep.driver.said
    check(folder, undisturbed)


@pytest.mark.long
@pytest.mark.skipif(
    not can_split(), reason="needs network namespaces, which this user may not make"
)
def test_a_node_is_cut_off_and_comes_back(undisturbed, zoo, tmp_path):
    """The first cut is short; the second lasts until the trials are started again elsewhere."""
    config = write_config(tmp_path, zoo, tracking={"enabled": False}, **FEW)
    with (
        closing(Cable()) as cable,
        closing(Cluster(1, host=cable.here, RAY_health_check_timeout_ms="500")) as cluster,
    ):
        far = cluster.add_worker(cable.enter, cable.there)
        far.wait()
        sweep = Disturbed(config, tmp_path, cluster, random.Random(SEED))
        sweep.wait(lambda: len(sweep.stored()) == 2, "a trial is stored on each node")
        cable.cut()
        sweep.go_on(3)
        cable.mend()
        sweep.go_on(3)
        assert "tried again" not in sweep.driver.said
        sweep.wait(lambda: far.workers(b"Trainable"), "there is a worker far away")
        cable.cut()
        sweep.wait(lambda: "tried again: its worker died" in sweep.driver.said, "it is given up")
        cable.mend()  # its worker may still live and report
        wait_for(lambda: far.process.poll() is not None, "the node ends, having been given up")
        assert sweep.driver.wait() == 0, sweep.driver.said
    check(tmp_path, undisturbed)


@pytest.mark.long
def test_sweeps_that_share_a_cluster_leave_each_other_alone(
    undisturbed, zoo, tmp_path, cluster, server
):
    """Three sweeps run at once; one of them is killed and resumed."""
    tracking = {"uri": server.uri, "experiment": "shared"}
    folders = [tmp_path / name for name in ("one", "two", "three")]
    sweeps = []
    for folder in folders:
        config = write_config(folder, zoo, tracking=tracking, **FEW)
        sweeps.append(Disturbed(config, folder, cluster, random.Random(SEED)))
    sweeps[0].go_on(1)
    sweeps[0].driver_dies()
    for folder, sweep in zip(folders, sweeps, strict=True):
        assert sweep.driver.wait() == 0, sweep.driver.said
        check(folder, undisturbed)
    with sqlite3.connect(server.database) as database:
        (count,) = database.execute(
            "select count(*) from tags where key = 'stitch_sweep.trial' and run_uuid in"
            " (select run_uuid from runs join experiments using (experiment_id)"
            " where experiments.name = 'shared' and runs.lifecycle_stage = 'active')"
        ).fetchone()
    assert count == 3 * FEW_TRIALS


def test_a_trial_is_given_up_only_where_it_gets_no_further(zoo, tmp_path):
    config = read_config(write_config(tmp_path, zoo, tracking={"enabled": False}, **FEW))
    ledger, events = Ledger(tmp_path), []
    searcher = SweepSearcher(
        prepare(config).studies,
        config,
        ledger,
        lambda event, record: events.append(event),
        lambda: 1,
    )
    trial = only_spec(searcher.suggest("0"))["trial"]
    for attempt in range(4 * RETRIES):
        ledger.write_checkpoint(trial, b"further")
        searcher.on_trial_complete(str(attempt), error=True)
        assert only_spec(searcher.suggest(str(attempt + 1)))["trial"] == trial
    assert searcher.lost == []
    for attempt in range(4 * RETRIES, 5 * RETRIES):
        assert searcher.lost == []
        searcher.on_trial_complete(str(attempt), error=True)
        searcher.suggest(str(attempt + 1))
    assert searcher.lost == [trial]


@pytest.mark.long
def test_a_server_that_acts_without_answering_gets_every_step_once(undisturbed, server, proxy):
    """The server fails, closes connections, and handles requests without an answer."""
    proxy.behave("moody")
    process = TrackingProcess(undisturbed, "moody", proxy.uri)
    assert process.finish()
    assert all(proxy.served[mood] for mood in ("error", "gone", "deaf"))
    check_tracked(undisturbed, server, "moody")


def test_a_trial_that_was_half_sent_and_ran_again_is_sent_whole(tmp_path, server, proxy):
    """Its record was damaged, so it ran once more, with equal results and other times."""
    ledger = Ledger(tmp_path)
    ledger.start({"config": {}})
    row = {"split": "train", "step": 0, "epoch": 0, "time": 0.5, "loss": 1.0}
    outcome = {
        **{"status": "finished", "metric": 0.5, "metrics": {"val_accuracy": 0.5}, "seconds": 2.0},
        "trajectory": [{**row, "step": step} for step in range(5)],
    }
    content = {
        **{"sender": "a", "sender_layer": 0, "receiver": "b", "receiver_layer": 1},
        **{"study": "s", "repeat": 0, "number": 0, "params": {}, "factors": {}},
        "settings": {"stitch": {"name": "linear"}, "loss": {"task": 1.0}},
    }
    ledger.begin("s-n0", content)
    ledger.finish("s-n0", {**outcome, "started": 1000.0}, None)
    first = Tracker(tmp_path, "half sent", proxy.uri)
    close, first._client.set_terminated = first._client.set_terminated, _dies
    with pytest.raises(KeyboardInterrupt):
        list(first.send())
    ledger.begin("s-n0", content)
    ledger.finish("s-n0", {**outcome, "started": 2000.0}, None)
    first._client.set_terminated = close
    assert list(Tracker(tmp_path, "half sent", proxy.uri).send()) == ["s-n0"]
    check_tracked(tmp_path, server, "half sent")


def test_of_a_run_that_was_made_twice_one_is_kept(undisturbed, server):
    """A server answered too late to the creation of a run, which was therefore requested again."""
    tracker = Tracker(undisturbed, "twice", server.uri)
    first = next(tracker.send())
    runs = tracker.runs()
    for of, tags in (
        (runs.parent, ["stitch_sweep.sweep"]),
        (runs.children[first], ["stitch_sweep.trial", "mlflow.parentRunId"]),
    ):
        made = tracker._client.get_run(of)
        tracker._client.create_run(
            runs.experiment,
            start_time=made.info.start_time + (of == runs.parent),
            tags={key: made.data.tags[key] for key in tags},
        )
    # A run that a user put below the sweep's run stays untouched.
    tracker._client.create_run(runs.experiment, tags={"mlflow.parentRunId": runs.parent})
    process = TrackingProcess(undisturbed, "twice", server.uri)
    assert process.finish()
    check_tracked(undisturbed, server, "twice")
    found = tracker._client.search_runs([runs.experiment])
    parents = [run.info.run_id for run in found if "stitch_sweep.sweep" in run.data.tags]
    assert parents == [runs.parent]
    assert len(found) == 1 + FEW_TRIALS + 1


def test_a_store_that_can_not_be_opened_is_named_at_once(undisturbed, tmp_path):
    """MLflow opens its store for every new client, and has no store of files in folders any more."""
    process = TrackingProcess(undisturbed, "nowhere", tmp_path.as_uri())
    assert "file" in wait_for(lambda: process.error, "it says why").lower()
    process.abandon()


def _dies(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_server_stopped_for_a_minute_hanging_or_slow_gets_every_step_once(
    undisturbed, server, proxy
):
    process = TrackingProcess(undisturbed, "patience", proxy.uri)
    proxy.behave("slow")
    wait_for(lambda: process.sent >= 2, "two trials were sent")
    proxy.behave("hang")
    before = proxy.served.get("hang", 0)
    wait_for(
        lambda: proxy.served.get("hang", 0) >= before + 2, "it gave up on one, and asked again"
    )
    proxy.behave("well")
    server.stop()
    until = time.monotonic() + 60
    wait_for(lambda: time.monotonic() > until, "a minute has passed")
    server.start()
    assert process.finish()
    check_tracked(undisturbed, server, "patience")


@pytest.mark.long
@pytest.mark.timeout(2400)
@in_a_namespace
def test_more_than_fifty_faults(zoo, tmp_path, server, proxy):
    """Cause every kind of fault, one after the other, in a sweep whose machines share no disk.

    The clocks of all processes step back by an hour.
    """
    plain = tmp_path / "undisturbed"
    status, output = run("sweep", write_config(plain, zoo, tracking={"enabled": False}, **MANY))
    assert status == 0, output

    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    clock = {
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(tmp_path / "clock"), os.environ.get("PYTHONPATH")))
        ),
        "STEP_BACK_SEED": str(SEED),
    }
    inside = tmp_path / "sweep"
    rng = random.Random(SEED)
    with (
        closing(Mounts(inside, "128m")) as place,
        closing(Cluster(2, head=place.enter, worker=without_view_of(inside), **clock)) as cluster,
    ):
        tracking = {"uri": proxy.uri, "experiment": "many faults"}
        write_config(place.folder, zoo, tracking=tracking, **MANY)
        sweep = Disturbed(
            inside / "config.yml", place.folder, cluster, rng, before=place.enter, **clock
        )
        stopped: list[float] = []

        def full_disk() -> None:
            place.fill()
            must_stop(sweep.driver, "[Errno 28] No space left on device: '")
            assert half_written(place.folder) == []
            place.empty()
            sweep.start()

        def read_only_folder() -> None:
            place.read_only("ledger")
            must_stop(sweep.driver, "[Errno 30] Read-only file system: '")
            place.writable("ledger")
            sweep.start()

        def server_stops() -> None:
            server.stop()
            stopped.append(time.monotonic())

        kinds: dict[str, tuple[Callable[[], None], int]] = {
            "worker during training": (sweep.worker_during_training, 8),
            "worker during a checkpoint": (sweep.worker_during_checkpoint, 8),
            "worker during a report": (sweep.worker_during_report, 8),
            "the ledger's writer": (sweep.ledgers_writer, 5),
            "node": (sweep.node, 7),
            "driver": (sweep.driver_dies, 5),
            "driver, and files torn": (sweep.driver_dies_and_files_are_torn, 3),
            "head": (sweep.head_dies, 2),
            "disk full": (full_disk, 3),
            "folder read-only": (read_only_folder, 2),
            "MLflow stopped for a minute": (server_stops, 1),
            **{
                f"MLflow {mode}": (lambda mode=mode: proxy.behave(mode), 1)
                for mode in ("slow", "hang", "error", "gone", "deaf")
            },
        }
        plan = [name for name, (_, count) in kinds.items() for _ in range(count)]
        rng.shuffle(plan)
        began = time.monotonic()
        for name in plan:
            sweep.go_on(rng.randint(1, 12))
            if stopped and time.monotonic() > stopped[0] + 60:
                stopped.clear()
                server.start()
            print(
                f"{time.monotonic() - began:.0f} s, {ended(place.folder)} ended: {name}", flush=True
            )
            if name.startswith("MLflow"):
                proxy.behave("well")
            kinds[name][0]()
        if stopped:
            wait_for(lambda: time.monotonic() > stopped[0] + 60, "a minute has passed")
            server.start()
        proxy.behave("well")
        assert sweep.driver.wait(900) == 0, sweep.driver.said
        check(place.folder, plain)
        check_tracked(place.folder, server, "many faults")
    print(f"seed {SEED}:", dict(Counter(plan)))
    assert len(plan) >= 50
