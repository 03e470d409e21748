"""MLflow, fed from the ledger by a process of its own.

A slow or dead tracking server delays logging and nothing else. The process asks the server what it has
and sends what it lacks, so it can be killed and started again at any time: metrics carry the time stamps
of the stored trajectory, and MLflow keeps equal points once.

    parent run    a sweep: its configuration, matrices and tables as artifacts
    child run     a trial: pair and settings as params, trajectory as step metrics
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from filelock import FileLock

from stitch_sweep.core.credentials import conceal
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import printable, read_json
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.records import RecordError
from stitch_sweep.tracking.errors import deleted_experiment, explain, refused_experiment
from stitch_sweep.tracking.store import VARIABLE, artifact_location, local_database, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

BATCH, PARAMS = 1000, 100
"""Entries and, among them, params per call; MLflow takes no more."""
PAGE = 100
"""Runs that a server is asked for at a time: a page of more takes longer than a call may last."""
SENDERS = 4
"""Trials on their way at once: a server's answer takes longer than what we do for it."""
LOOKED = "looked"
"""What `send_artifacts` yields for a page of runs that it looked at."""
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
"""So long a finished sweep waits for a server that takes nothing."""

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # One call to a dead server would otherwise hang for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Ours look first at what the server has: it may have done what it didn't answer.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    # Thousands of runs would each print their address.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Runs:
    """Where a sweep is on a tracking server.

    Attributes:
        experiment: id of the MLflow experiment.
        parent: id of the sweep's run.
        children: trial -> id of its run.
    """

    experiment: str
    parent: str
    children: dict[str, str]


class _Child(NamedTuple):
    """A trial's run: its id, when it says that the trial started, and whether all of it was sent."""

    run: str
    started: int
    ended: bool


class Tracker:
    """Brings a tracking server up to the state of a ledger.

    Args:
        folder: the experiment folder.
        experiment: name of the MLflow experiment.
        uri: tracking URI; None for MLFLOW_TRACKING_URI or MLflow's local default.
    """

    def __init__(self, folder: Path, experiment: str, uri: str | None) -> None:
        from mlflow import MlflowClient

        self._folder = folder
        self._ledger = Ledger(folder)
        self._uri = resolve(uri)
        self._client: MlflowClient = MlflowClient(tracking_uri=self._uri)
        self._experiment_name = experiment
        self._parent = ""
        self._experiment = ""
        self._children: dict[str, _Child] = {}
        self._hung: set[Path] = set()  # not all over again after an error

    def doubt(self) -> None:
        """After an error: ask the server again what it has, because what failed may have been done."""
        self._parent = ""

    def send(self) -> Iterator[str]:
        """Send every ended trial that the server lacks, and yield its id once it is there."""
        self._open()
        known = self._children
        ids = sorted(self._ledger.trial_ids())
        lacking = [trial for trial in ids if not (trial in known and known[trial].ended)]
        pool = ThreadPoolExecutor(SENDERS)
        try:
            for trial, sent in zip(lacking, pool.map(self._send_trial, lacking), strict=True):
                if sent:
                    yield trial
        finally:
            # Those on their way arrive or fail before the server may be asked what it has.
            pool.shutdown(cancel_futures=True)

    def send_artifacts(self) -> Iterator[str]:
        """Hang configuration, tables, matrices and figures on the sweep's run, and close it.

        Yields:
            What was done: the name of each file once it is there, and a word for each page of runs
            that was looked at before.
        """
        self._open()
        # A call that took long may have left a run twice since we looked.
        for _ in self._find_children():
            yield LOOKED
        paths = [self._folder / name for name in _FILES if (self._folder / name).exists()]
        for name in _FOLDERS:
            paths += sorted((self._folder / name).glob("[!.]*"))
        for path in paths:
            if path not in self._hung:
                within = None if path.parent == self._folder else path.parent.name
                self._client.log_artifact(self._parent, str(path), within)
                self._hung.add(path)
                yield path.name
        self._send_summary()
        self._client.set_terminated(self._parent)

    def _send_summary(self) -> None:
        """Log the summary's numbers on the sweep's run, each at the number of trials ended.

        MLflow can't delete a point, so a number that is there already is not sent again: resumes of
        a sweep add a point only where a number has changed.
        """
        from mlflow.entities import Metric

        try:
            summary = read_json(self._folder / "summary.json")
        except (FileNotFoundError, InputError):
            return
        logged = self._client.get_run(self._parent).data.metrics
        now, step = int(time.time() * 1000), summary.get("trials", 0)
        metrics = [
            Metric(key, float(value), now, step)
            for key, value in summary.items()
            if isinstance(value, int | float) and math.isfinite(value) and logged.get(key) != value
        ]
        if metrics:
            self._client.log_batch(self._parent, metrics=metrics)

    def runs(self) -> Runs | None:
        """Where this sweep's runs are, as far as it was sent; nothing is made on the server."""
        if not self._parent:
            found = self._client.get_experiment_by_name(self._experiment_name)
            if found is None:
                return None
            self._experiment = found.experiment_id
            parents = self._find_parents()
            if not parents:
                return None
            self._parent = parents[0].info.run_id
            deque(self._find_children(), maxlen=0)
        children = {trial: child.run for trial, child in self._children.items()}
        return Runs(self._experiment, self._parent, children)

    def send_report(self, files: Iterable[Path]) -> int:
        """Hang files of the folder on the sweep's run, if the server has it.

        Args:
            files: below the folder; one in a folder of its own goes into one of that name.

        Returns:
            How many files were sent: 0 where the sweep isn't on the server.
        """
        if self.runs() is None:
            return 0
        sent = 0
        for path in files:
            parent = path.relative_to(self._folder).parent.as_posix()
            where = None if parent == "." else parent
            self._client.log_artifact(self._parent, str(path), where)
            sent += 1
        return sent

    def _find_parents(self) -> list[Run]:
        """The sweep's run, and what a server that didn't answer in time made besides."""
        sweep = (self._ledger.description() or {})["id"]
        return self._client.search_runs(
            [self._experiment],
            f"tags.`stitch_sweep.sweep` = '{sweep}'",
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        )

    def _find_children(self) -> Iterator[None]:
        """Learn page by page which trials the server has; of one that it has twice, one is kept."""
        self._children = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                f"tags.`mlflow.parentRunId` = '{self._parent}'",
                max_results=PAGE,
                page_token=token,
            )
            for run in page:
                ended = run.info.status in ("FINISHED", "FAILED")
                child = _Child(run.info.run_id, run.info.start_time, ended)
                trial = run.data.tags.get("stitch_sweep.trial")
                if trial is None:
                    continue  # somebody's own run below ours
                other = self._children.get(trial)
                if other is not None:
                    child, spare = (child, other) if child.ended else (other, child)
                    self._client.delete_run(spare.run)
                self._children[trial] = child
            yield
            token = page.token
            if not token:
                return

    def _open(self) -> None:
        """Find the sweep's runs on the server, or make the parent."""
        if self._parent:
            return
        client = self._client
        self._experiment = self.find_experiment() or self._create_experiment()
        description = self._ledger.description() or {}
        run, *spares = self._find_parents() or (None,)
        for spare in spares:
            client.delete_run(spare.info.run_id)
        if run is None:
            tags = {"stitch_sweep.sweep": description["id"], "mlflow.note.content": _NOTE}
            run = client.create_run(
                self._experiment, tags=tags, run_name=self._folder.resolve().name
            )
        if not run.data.params:
            self._log(run.info.run_id, dict(_flat(description.get("config", {}))))
        self._parent = run.info.run_id
        try:
            deque(self._find_children(), maxlen=0)
        except BaseException:
            self._parent = ""  # half known is not known: the next call begins again
            raise

    def find_experiment(self) -> str | None:
        """The id of the MLflow experiment; None where it isn't there yet.

        Raises:
            RefusedError: it was deleted, so MLflow takes no further runs in it.
        """
        name = self._experiment_name
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            raise deleted_experiment(name, found.experiment_id, self._uri)
        return str(found.experiment_id)

    def _create_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self._experiment_name
        try:
            return self._client.create_experiment(
                name,
                # MLflow's default for a store that is a file is below the current folder.
                artifact_location=artifact_location(self._uri),
                # Or the UI opens with its pages for language models.
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise refused_experiment(name, error) from error
            raise

    def _send_trial(self, trial: str) -> bool:
        """Send a trial if it has ended, and say whether it has."""
        from mlflow.entities import Metric

        try:
            record = self._ledger.read(trial)
        except RecordError:  # a resume, or the end of the sweep, names it
            return False
        if record is None or record["status"] == "running":
            return False
        client = self._client
        started = int(record["started"] * 1000)
        child = self._children.get(trial)
        if child is not None and child.started != started:
            # Half of it was sent, and then its record was lost: it ran again, and its times differ.
            client.delete_run(child.run)
            child = None
        if child is not None:
            run = child.run
        else:
            tags = {"stitch_sweep.trial": trial, "mlflow.parentRunId": self._parent}
            run = client.create_run(
                self._experiment, start_time=started, tags=tags, run_name=_run_name(record)
            ).info.run_id
            self._children[trial] = _Child(run, started, False)
        ended = started + int(record["seconds"] * 1000)
        metrics = [
            Metric(
                f"{_SPLITS[row['split']]}/{key}",
                value,
                started + int(row["time"] * 1000),
                row["step"],
            )
            for row in record["trajectory"]
            for key, value in row.items()
            if key not in ("step", "split", "time", "epoch") and value is not None
        ]
        finals = {
            **record["metrics"],
            # Params sort as text; as metrics the layers sort and plot as numbers.
            "sender_layer": record["sender_layer"],
            "receiver_layer": record["receiver_layer"],
            "seconds": record["seconds"],
        }
        metrics += [
            Metric(key, float(value), ended, 0)
            for key, value in finals.items()
            if value is not None
        ]
        settings = record["settings"]
        params = {
            **{k: record[k] for k in ("sender", "sender_layer", "receiver", "receiver_layer")},
            "pair": f"{record['sender']} -> {record['receiver']}",
            "repeat": record["repeat"],
            "number": record["number"],
            "stitch": settings["stitch"]["name"],
            "loss": "+".join(settings["loss"]),
            **dict(_flat({k: v for k, v in settings.items() if k != "loss"})),
            **{f"loss.{k}": v for k, v in _flat(settings["loss"])},
        }
        tags = {"error": record["error"][:500]} if record.get("error") else {}
        if record.get("copied_from"):
            tags["copied_from"] = record["copied_from"]
        self._log(run, params, metrics, tags)
        status = "FINISHED" if record["status"] == "finished" else "FAILED"
        client.set_terminated(run, status=status, end_time=ended)
        self._children[trial] = _Child(run, started, True)
        return True

    def _log(
        self,
        run: str,
        params: Mapping[str, Any],
        metrics: Sequence[Metric] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send all of it, in as few calls as MLflow allows."""
        from mlflow.entities import Param, RunTag

        said = [RunTag(key, value) for key, value in (tags or {}).items()]
        left = [Param(key, str(value)[:500]) for key, value in params.items()]
        while left or metrics or said:
            some, left = left[:PARAMS], left[PARAMS:]
            room = BATCH - len(some) - len(said)
            self._client.log_batch(run, metrics=metrics[:room], params=some, tags=said)
            metrics, said = metrics[room:], []


class TrackingProcess:
    """The tracker as a process beside the sweep, which it never holds up.

    It ends by itself when the sweep's process does, after sending what is in the ledger by then.

    Args:
        folder: the experiment folder.
        experiment: name of the MLflow experiment.
        uri: tracking URI or None.
        say: is told once, from a thread, when MLflow refuses the runs, and when it takes them again.

    Attributes:
        sent: number of trials sent so far.
        error: the latest error, which may be an outage; "" after a success.
        refusal: what keeps MLflow from taking runs until somebody changes it, with the remedy; ""
            where nothing does.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        uri: str | None,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        command = [sys.executable, "-m", "stitch_sweep.tracking.tracker", str(folder), experiment]
        # A session of its own: Ctrl-C is for the sweep, which then lets this process finish.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            # In the environment and not among the arguments: a URI may hold a password.
            env={**os.environ, VARIABLE: resolve(uri)},
        )
        self.sent = 0
        self.error = self.refusal = ""
        self._say = say
        self._said = ""
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def finish(self, patience: float = PATIENCE_SECONDS) -> bool:
        """Let it send the rest; False when the server took nothing for `patience` seconds.

        A server that refuses is asked once more, and not waited for.

        Args:
            patience: so long a server may take nothing, in seconds.
        """
        assert self._process.stdin is not None
        self._heard = time.monotonic()
        try:
            self._process.stdin.write("finish\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        while self._thread.is_alive() and time.monotonic() - self._heard < patience:
            self._thread.join(timeout=0.1)
        if self._thread.is_alive():
            self._process.kill()
        elif self._process.wait() and not self.error:
            self.error = f"the tracking process ended with status {self._process.returncode}"
        return self._process.wait() == 0

    def abandon(self) -> None:
        """End it at once: the sweep was refused, and what was sent before stays."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, _, text = line.strip().partition(" ")
            if kind == "refused":
                self.error = self.refusal = text
                if text != self._said:
                    self._say(f"MLflow takes no runs: {text}. The sweep goes on without it")
                    self._said = text
            elif kind == "error":
                self.error, self.refusal = text, ""
            else:
                self.sent += kind == "sent"
                self._heard = time.monotonic()
                self.error = self.refusal = ""
                if self._said:
                    self._say("MLflow takes runs again")
                    self._said = ""


def look_up(folder: Path, experiment: str, uri: str) -> Tracker:
    """A tracker that looks up a sweep that was sent before.

    Args:
        folder: the experiment folder.
        experiment: name of the MLflow experiment.
        uri: tracking URI of a server, or of a store that exists; MLflow creates one that doesn't.
    """
    os.environ.update({k: v for k, v in _ENVIRONMENT.items() if k not in os.environ})
    return Tracker(folder, experiment, resolve(uri))


def _run(folder: Path, experiment: str, stdin: TextIO) -> int:
    """The process: send what comes up until the sweep says `finish` or dies."""
    words: list[str] = []
    over = threading.Event()

    def listen() -> None:
        words.extend(stdin.read().split())
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    os.nice(19)  # trials come first
    os.environ.update({k: v for k, v in _ENVIRONMENT.items() if k not in os.environ})
    uri = resolve(None)
    try:
        import mlflow.store.db.utils  # (seconds, while the sweep is still getting ready)
    except ImportError as error:
        _tell("refused", explain(error, uri, experiment) or "")
        return 1
    # Ten attempts to open a database take more than the minute that a finished sweep waits.
    mlflow.store.db.utils.MAX_RETRY_COUNT = 1
    ledger = Ledger(folder)
    if not ledger.exists:
        _look_early(folder, experiment, uri)
    while not ledger.exists:
        if over.wait(POLL_SECONDS) and not ledger.exists:
            return 0  # the sweep never began
    # The process of a sweep that was killed may still be sending what that one left.
    with FileLock(ledger.root / "tracking.lock"):
        return _follow(lambda: Tracker(folder, experiment, None), over, words, uri, experiment)


def _look_early(folder: Path, experiment: str, uri: str) -> None:
    """Say what MLflow will refuse before the sweep begins, and make nothing there."""
    from mlflow.store.db import utils
    from sqlalchemy import inspect

    first = ""
    while True:
        try:
            # Asking MLflow for an empty or missing database would fill it with tables.
            if re.match(r"sqlite|postgresql|mysql|mssql", uri):
                file = local_database(uri)
                if file is not None and not file.is_file():
                    return
                if not inspect(utils.create_sqlalchemy_engine(uri)).has_table("experiments"):
                    return
            Tracker(folder, experiment, None).find_experiment()
            return
        except Exception as error:  # whatever a server or its client throws
            problem = explain(error, uri, experiment)
            if problem is None:
                return  # an outage, which may be over when the sweep begins
            if problem == first:
                _tell("refused", problem)
                return
            first = problem
            time.sleep(POLL_SECONDS)


def _follow(
    connect: Callable[[], Tracker],
    over: threading.Event,
    words: list[str],
    uri: str,
    experiment: str,
) -> int:
    wait = POLL_SECONDS
    tracker = None
    refusal = ""
    most_looks = 0
    while True:
        last = over.is_set()  # asked before sending: what ends later is seen in a further round
        try:
            # A database that can't be opened yet is a server that doesn't answer yet.
            tracker = tracker or connect()
            for trial in tracker.send():
                _tell("sent", trial)
                wait, refusal = POLL_SECONDS, ""  # now and then an error is not a dead server
            if last:
                if "finish" in words:
                    looks = 0
                    for done in tracker.send_artifacts():
                        # Pages that were looked at before are no progress: an upload may fail for ever.
                        looks += done == LOOKED
                        if done != LOOKED or looks > most_looks:
                            _tell("artifact", done)
                        most_looks = max(looks, most_looks)
                return 0
            wait = POLL_SECONDS
        except Exception as error:  # whatever a server or its client throws, we try again
            if tracker is not None:
                tracker.doubt()
            before, refusal = refusal, explain(error, uri, experiment) or ""
            # Twice, because two sweeps may stand in each other's way for a moment.
            if refusal and refusal == before:
                _tell("refused", refusal)
                if last:
                    return 1
            else:
                words_of_error = conceal(f"{type(error).__name__} {error}", uri)
                _tell("error", printable(words_of_error.partition("\n")[0]))
            wait = min(2 * wait, 30.0)
            if last:
                # The sweep waits for us, or is dead and never told us to finish.
                if not words:
                    return 1
                time.sleep(min(wait, 2.0))
                continue
        over.wait(wait)


def _tell(*words: str) -> None:
    """A line for the sweep's process, if it is still there."""
    # When it died there is nobody to tell, and its trials are sent all the same.
    with contextlib.suppress(BrokenPipeError):
        print(*words, flush=True)


def _run_name(record: Mapping[str, Any]) -> str:
    settings = record["settings"]
    return (
        f"{record['sender']}:{record['sender_layer']} -> "
        f"{record['receiver']}:{record['receiver_layer']}, {settings['stitch']['name']}, "
        f"{'+'.join(settings['loss'])}, {record['repeat']}.{record['number']}"
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif value is not None and value != []:
            yield name, value if isinstance(value, str | int | float) else json.dumps(value)


_NOTE = """One sweep. Its child runs are the trials: one stitch each, from a sender's layer to a
receiver's. Sort and compare them by the metrics `sender_layer`, `receiver_layer`, `test_accuracy` and
`penalty`, and by the params `stitch` and `loss`; `train/...` and `val/...` are trajectories. Matrices
and tables are artifacts of this run."""
_FILES = (
    *("config.resolved.yml", "results.parquet", "traj.parquet", "summary.json"),
    *("pareto.csv", "report.html"),
)
_FOLDERS = ("matrices", "figures", "tables")
_SPLITS = {"train": "train", "validation": "val"}

if __name__ == "__main__":
    sys.exit(_run(Path(sys.argv[1]), sys.argv[2], sys.stdin))
