"""A sweep's runs on MLflow: sends the trials that the server lacks.

    parent run    a sweep: its configuration, matrices and tables as artifacts
    child run     a trial: cell and settings as params, trajectory as step metrics

A tracker asks the server for the present runs and sends the rest, so its process can be killed and
started again at any time.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import read_json
from stitch_sweep.storage import layout, scratch
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.records import RecordError
from stitch_sweep.tracking.errors import deleted_experiment, refused_experiment
from stitch_sweep.tracking.mlflow_address import artifact_location, resolve
from stitch_sweep.tracking.moved_store import adopt_artifacts
from stitch_sweep.tracking.trial_content import (
    MOST_CHARACTERS,
    Point,
    flatten_settings,
    run_metrics,
    run_name,
    run_params,
    run_tags,
    run_times,
)

# MLflow is imported in the methods that use it: modules that mention a Tracker shouldn't load it.
if TYPE_CHECKING:
    from stitch_sweep.tracking.mlflow_setup import MlflowClient, Run

ENTRIES_PER_CALL, PARAMS_PER_CALL, TAGS_PER_CALL = 1000, 100, 100
"""Largest numbers of entries and, among them, of params and tags that MLflow accepts in a call."""
PAGE = 100
"""Runs per page of a query: a larger page takes longer than a call may last."""
SENDERS = 4
"""Trials that are sent at the same time: most of the time is spent waiting for the server."""
PAGE_READ = "looked"
"""`send_end` yields it for each page of runs that it read."""

_STATUSES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
"""MLflow's status of a run, by the status of its ended trial."""

_NOTE = (
    "A sweep. Its child runs are the trials: each trains a stitch from a layer of the sender to a layer "
    "of the receiver. Sort and compare them by the metrics `sender_layer`, `receiver_layer`, "
    "`test_accuracy` and `penalty`, and by the params `stitch` and `loss`. `train/...` and `val/...` are "
    "trajectories. Matrices and tables are artifacts of this run."
)
_FILES = (
    layout.RESOLVED_CONFIG,
    layout.RESULTS,
    layout.TRAJECTORIES,
    layout.SUMMARY,
    layout.PARETO_FRONT,
    layout.REPORT_PAGE,
    layout.VERDICTS,
)
_OVERVIEW = "0_overview.png"
"""Name of the first artifact: a picture of the matrices."""
_VERDICT_KEYS = ("mean_accuracy", "lower", "band", "upper", "triangle", "order")
"""Keys of a matrix in `verdicts.json` that become metrics of the sweep's run."""
_REDUCED_KEYS = ("lower", "band", "upper", "triangle", "order")
"""The same for the judgment without receiver-free columns."""
_FOLDERS = (layout.MATRICES, layout.FIGURES, layout.TABLES)


@dataclass(frozen=True)
class Runs:
    """The runs of a sweep on a tracking server.

    Attributes:
        experiment: id of the MLflow experiment.
        parent: id of the sweep's run.
        children: trial -> id of its run.
    """

    experiment: str
    parent: str
    children: dict[str, str]


class _Child(NamedTuple):
    """A trial's run: its id, the trial's start in milliseconds, and whether it is complete."""

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
        from stitch_sweep.tracking.mlflow_setup import MlflowClient

        self._folder = folder
        self._ledger = Ledger(folder)
        self._uri = resolve(uri)
        adopt_artifacts(self._uri)
        self._client: MlflowClient = MlflowClient(tracking_uri=self._uri)
        self._experiment_name = experiment
        self._parent = ""
        self._experiment = ""
        self._children: dict[str, _Child] = {}
        self._uploaded: set[Path] = set()  # these aren't uploaded again after an error

    def forget_server_state(self) -> None:
        """Ask the server again at the next call: after an error, the failed call may have worked."""
        self._parent = ""

    def send(self) -> Iterator[str]:
        """Send every ended trial that the server lacks, and yield its id after its success."""
        self._open()
        children = self._children
        ids = sorted(self._ledger.trial_ids())
        missing = [trial for trial in ids if not (trial in children and children[trial].ended)]
        pool = ThreadPoolExecutor(SENDERS)
        try:
            for trial, sent in zip(missing, pool.map(self._send_trial, missing), strict=True):
                if sent:
                    yield trial
        finally:
            # The present calls succeed or fail before the server may be asked for its state.
            pool.shutdown(cancel_futures=True)

    def send_end(self) -> Iterator[str]:
        """Upload configuration, tables, matrices and figures to the sweep's run, and close it.

        Yields:
            The name of each file after its upload, and `PAGE_READ` for each page of runs that was read
            before.
        """
        self._open()
        # A call that timed out may have created a run twice.
        for _ in self._read_children():
            yield PAGE_READ
        paths = [self._folder / name for name in _FILES if (self._folder / name).exists()]
        for name in _FOLDERS:
            paths += sorted((self._folder / name).glob("[!.]*"))
        if overview := self._send_overview():
            yield overview
        for path in paths:
            if path not in self._uploaded:
                artifact_path = None if path.parent == self._folder else path.parent.name
                self._client.log_artifact(self._parent, str(path), artifact_path)
                self._uploaded.add(path)
                yield path.name
        self._send_numbers()
        self._client.set_terminated(self._parent)

    def send_report(self, files: Iterable[Path]) -> int:
        """Upload files of the folder to the sweep's run, if the server has it.

        Args:
            files: below the folder; a file in a subfolder is uploaded into a folder of that name.

        Returns:
            Number of files sent: 0 if the sweep isn't on the server.
        """
        if self.runs() is None:
            return 0
        sent = 0
        for path in files:
            parent = path.relative_to(self._folder).parent.as_posix()
            self._client.log_artifact(self._parent, str(path), None if parent == "." else parent)
            sent += 1
        return sent

    def runs(self) -> Runs | None:
        """Return this sweep's runs on the server, or None; nothing is created on the server."""
        if not self._parent:
            experiment = self._client.get_experiment_by_name(self._experiment_name)
            if experiment is None:
                return None
            self._experiment = experiment.experiment_id
            parents = self._find_parents()
            if not parents:
                return None
            self._parent = parents[0].info.run_id
            deque(self._read_children(), maxlen=0)
        children = {trial: child.run for trial, child in self._children.items()}
        return Runs(self._experiment, self._parent, children)

    def find_experiment(self) -> str | None:
        """Return the id of the MLflow experiment; None if it doesn't exist yet.

        Raises:
            RefusedError: it was deleted, so MLflow accepts no further runs in it.
        """
        name = self._experiment_name
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return None
        if experiment.lifecycle_stage == "deleted":
            raise deleted_experiment(name, experiment.experiment_id, self._uri)
        return str(experiment.experiment_id)

    def _open(self) -> None:
        """Find the sweep's runs on the server, or create the parent run."""
        if self._parent:
            return
        client = self._client
        self._experiment = self.find_experiment() or self._create_experiment()
        description = self._ledger.description() or {}
        run, *duplicates = self._find_parents() or (None,)
        for duplicate in duplicates:
            client.delete_run(duplicate.info.run_id)
        if run is None:
            tags = {"stitch_sweep.sweep": description["id"], "mlflow.note.content": _NOTE}
            run = client.create_run(
                self._experiment, tags=tags, run_name=self._folder.resolve().name
            )
        if not run.data.params:
            self._log(run.info.run_id, flatten_settings(description.get("config", {})))
        self._parent = run.info.run_id
        try:
            deque(self._read_children(), maxlen=0)
        except BaseException:
            self._parent = ""  # the list of children is incomplete: the next call starts again
            raise

    def _create_experiment(self) -> str:
        from stitch_sweep.tracking.mlflow_setup import MlflowException

        name = self._experiment_name
        try:
            return self._client.create_experiment(
                name,
                # For a store that is a file, MLflow's default is below the current folder.
                artifact_location=artifact_location(self._uri),
                # Otherwise the UI opens its pages for language models.
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise refused_experiment(name, error) from error
            raise

    def _find_parents(self) -> list[Run]:
        """Return the sweep's run, and duplicates after calls that a server didn't answer in time."""
        sweep = (self._ledger.description() or {})["id"]
        return self._client.search_runs(
            [self._experiment],
            f"tags.`stitch_sweep.sweep` = '{sweep}'",
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        )

    def _read_children(self) -> Iterator[None]:
        """Read the trials' runs page by page, and delete the duplicates of a trial's run."""
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
                ended = run.info.status in _STATUSES.values()
                child = _Child(run.info.run_id, run.info.start_time, ended)
                trial = run.data.tags.get("stitch_sweep.trial")
                if trial is None:
                    continue  # a run that the user put below the sweep's
                other = self._children.get(trial)
                if other is not None:
                    child, duplicate = (child, other) if child.ended else (other, child)
                    self._client.delete_run(duplicate.run)
                self._children[trial] = child
            yield
            token = page.token
            if not token:
                return

    def _send_trial(self, trial: str) -> bool:
        """Send a trial if it has ended; return whether it has ended."""
        try:
            record = self._ledger.read(trial)
        except RecordError:  # a resume, or the end of the sweep, reports it
            return False
        if record is None or record["status"] == "running":
            return False
        client = self._client
        started, ended = run_times(record)
        child = self._children.get(trial)
        if child is not None and child.started != started:
            # Half of it was sent before its record was lost. The trial ran again, at other times.
            client.delete_run(child.run)
            child = None
        if child is not None:
            run = child.run
        else:
            tags = {"stitch_sweep.trial": trial, "mlflow.parentRunId": self._parent}
            run = client.create_run(
                self._experiment, start_time=started, tags=tags, run_name=run_name(record)
            ).info.run_id
            self._children[trial] = _Child(run, started, False)
        self._log(run, run_params(record), run_metrics(record), run_tags(record))
        client.set_terminated(run, status=_STATUSES[record["status"]], end_time=ended)
        self._children[trial] = _Child(run, started, True)
        return True

    def _send_overview(self) -> str | None:
        """Upload the first matrices' figure under a name that sorts first; return that name."""
        figures = sorted((self._folder / layout.MATRICES).glob("[!.]*.csv"))
        pictures = (self._folder / layout.FIGURES / f"{path.stem}.png" for path in figures)
        picture = next((path for path in pictures if path.exists()), None)
        if picture is None or Path(_OVERVIEW) in self._uploaded:
            return None
        with scratch.folder() as folder:
            copy = folder / _OVERVIEW
            shutil.copyfile(picture, copy)
            self._client.log_artifact(self._parent, str(copy))
        self._uploaded.add(Path(_OVERVIEW))
        return _OVERVIEW

    def _send_numbers(self) -> None:
        """Log the numbers of summary and verdicts on the sweep's run, each at the number of ended trials.

        MLflow can't delete a point, so an unchanged number is not sent again: a resume of a sweep adds a
        point only where a number has changed.
        """
        summary = self._read(layout.SUMMARY)
        numbers, tags = dict(summary), {}
        for verdict in self._read(layout.VERDICTS).get("matrices", []):
            name = verdict["matrix"]
            numbers |= {f"matrix/{name}/{key}": verdict[key] for key in _VERDICT_KEYS}
            tags[f"label/{name}"] = verdict["label"]
            if reduced := verdict.get("without_receiver_free"):
                numbers |= {f"matrix/{name}/reduced_{key}": reduced[key] for key in _REDUCED_KEYS}
                tags[f"reduced_label/{name}"] = reduced["label"]
            if excess := verdict.get("beyond_logits"):
                numbers |= {
                    f"matrix/{name}/beyond_logits_{key}": excess[key] for key in _REDUCED_KEYS
                }
                tags[f"beyond_logits_label/{name}"] = excess["label"]
        logged = self._client.get_run(self._parent).data.metrics
        now, step = int(time.time() * 1000), summary.get("trials", 0)
        points = [
            Point(key, float(value), now, step)
            for key, value in numbers.items()
            if isinstance(value, int | float) and math.isfinite(value) and logged.get(key) != value
        ]
        self._log(self._parent, {}, points)
        names = list(tags)
        for first in range(0, len(names), TAGS_PER_CALL):
            part = names[first : first + TAGS_PER_CALL]
            self._log(self._parent, {}, tags={name: tags[name] for name in part})

    def _read(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the folder; nothing if it is missing or damaged."""
        try:
            return read_json(self._folder / name)
        except (FileNotFoundError, InputError):
            return {}

    def _log(
        self,
        run: str,
        params: Mapping[str, Any],
        points: Sequence[Point] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send params, metrics and tags in as few calls as MLflow allows."""
        from stitch_sweep.tracking.mlflow_setup import Metric, Param, RunTag

        all_tags = [RunTag(key, value) for key, value in (tags or {}).items()]
        all_params = [Param(key, str(value)[:MOST_CHARACTERS]) for key, value in params.items()]
        metrics = [Metric(*point) for point in points]
        while all_params or metrics or all_tags:
            batch, all_params = all_params[:PARAMS_PER_CALL], all_params[PARAMS_PER_CALL:]
            room = ENTRIES_PER_CALL - len(batch) - len(all_tags)
            self._client.log_batch(run, metrics=metrics[:room], params=batch, tags=all_tags)
            metrics, all_tags = metrics[room:], []


def look_up(folder: Path, experiment: str, uri: str) -> Tracker:
    """Return a tracker that looks up a sweep that was sent before.

    Args:
        folder: the experiment folder.
        experiment: name of the MLflow experiment.
        uri: tracking URI of a server, or of a store that exists; MLflow would create a missing one.
    """
    return Tracker(folder, experiment, resolve(uri))
