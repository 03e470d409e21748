"""Equal trials of a study have equal results, bit for bit, and all readers of records handle copies."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from stitch_sweep.analysis.results import is_copied
from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data
from stitch_sweep.measuring.stored_stitches import StoredStitches
from stitch_sweep.networks.families.building import build
from stitch_sweep.plan.cells import Cell
from stitch_sweep.plan.equal_trials import EffectiveSettings
from stitch_sweep.plan.outlines import Outline
from stitch_sweep.plan.prepare import Prepared
from stitch_sweep.stitches.storage import describe_stitch, load_stitch
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.storage.predictions import decode_predictions
from stitch_sweep.storage.records import RecordError
from stitch_sweep.storage.status import read_status
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.sweep.searcher import SweepSearcher
from stitch_sweep.sweep.views import write_views
from stitch_sweep.tracking.mlflow_tracker import Tracker
from stitch_sweep.training.loop import StitchResult
from stitch_sweep.training.workbench import Workbench
from tests.support.digits import DIGITS, TINY
from tests.support.searches import only_spec
from tests.support.training import finished, training

STUDY = Study("a", 1, "b", 1)
SHAPE = (4, 16, 16)


def settings(**changes: Any) -> TrialSettings:
    """Return the settings of a short training, with sections replaced."""
    return TrialSettings.model_validate({"training": {"epochs": 1}, **changes})


def key(chosen: TrialSettings, shape: Any = lambda name, layer: SHAPE) -> str:
    return EffectiveSettings(shape).key(STUDY, chosen)


def trained_with(**arguments: Any) -> dict[str, Any]:
    return {"training": {"epochs": 1, "optimizer": arguments}}


IDENTITY = {"stitch": {"name": "identity"}}
EQUAL = {
    "a default written out": (
        trained_with(name="sgd", lr=0.1),
        trained_with(name="sgd", lr=0.1, momentum=0.0, nesterov=False),
    ),
    "upper case": (trained_with(name="Adam", lr=0.1), trained_with(name="adam", lr=0.1)),
    "a list for a default's tuple": (
        trained_with(name="adam", lr=0.1),
        trained_with(name="adam", lr=0.1, betas=[0.9, 0.999]),
    ),
    "the loss's own learning rate": (
        trained_with(name="sgd"),
        trained_with(name="sgd", lr=0.03),
    ),
    "a loss's default written out": (
        {"loss": {"soft_task": {"weight": 1.0, "temperature": 1.0}}},
        {"loss": {"soft_task": 1.0}},
    ),
    "a stitch's default written out": (
        {"stitch": {"name": "lowrank"}},
        {"stitch": {"name": "lowrank", "start": "random", "l1": 0.0}},
    ),
    "no epochs": (
        {"training": {"epochs": 0, "batch_size": 64}},
        {
            "training": {
                "epochs": 0,
                "batch_size": 32,
                "log_every": 1,
                "optimizer": {"name": "sgd", "lr": 0.5},
                "schedule": {"name": "linear", "warmup": 0.5},
            }
        },
    ),
    "no epochs from a closed form": (
        {"stitch": {"name": "linear", "start": "least_squares"}, "training": {"epochs": 0}},
        {
            "stitch": {"name": "linear", "start": "least_squares"},
            "training": {"epochs": 0, "optimizer": {"name": "sgd", "lr": 0.5}},
        },
    ),
    "no epochs, other penalties": (
        {"stitch": {"name": "paper", "l1": 0.1}, "training": {"epochs": 0}},
        {"stitch": {"name": "paper", "l1": 0.2}, "training": {"epochs": 0}},
    ),
    "a stitch without parameters": (
        {**IDENTITY, **trained_with(name="sgd", lr=0.1)},
        {**IDENTITY, "training": {"epochs": 2, "batch_size": 32}},
    ),
    "a fixed permutation": (
        {"stitch": {"name": "permutation"}, **trained_with(name="sgd", lr=0.1)},
        {"stitch": {"name": "permutation"}, "training": {"epochs": 2}},
    ),
}
DIFFERENT = {
    "learning rates": (trained_with(lr=0.1), trained_with(lr=0.2)),
    "optimizers": (trained_with(name="adam", lr=0.1), trained_with(name="adamw", lr=0.1)),
    "momenta": (
        trained_with(name="sgd", lr=0.1),
        trained_with(name="sgd", lr=0.1, momentum=0.9),
    ),
    "epochs": ({"training": {"epochs": 1}}, {"training": {"epochs": 2}}),
    "logged steps": (
        {"training": {"epochs": 1, "log_every": 1}},
        {"training": {"epochs": 1, "log_every": 2}},
    ),
    "schedules": (
        {"training": {"epochs": 1, "schedule": {"name": "linear"}}},
        {"training": {"epochs": 1, "schedule": {"name": "constant"}}},
    ),
    "stitches": ({"stitch": {"name": "paper"}}, {"stitch": {"name": "linear"}}),
    "untrained stitches": (
        {"stitch": {"name": "paper"}, "training": {"epochs": 0}},
        {"stitch": {"name": "linear"}, "training": {"epochs": 0}},
    ),
    "untrained starts": (
        {"stitch": {"name": "linear", "start": "least_squares"}, "training": {"epochs": 0}},
        {"stitch": {"name": "linear"}, "training": {"epochs": 0}},
    ),
    "penalties": ({"stitch": {"name": "paper", "l1": 0.1}}, {"stitch": {"name": "paper"}}),
    "no epochs with and without a penalty": (
        {"stitch": {"name": "paper", "l1": 0.1}, "training": {"epochs": 0}},
        {"stitch": {"name": "paper"}, "training": {"epochs": 0}},
    ),
    "losses": ({"loss": {"task": 1.0}}, {"loss": {"mse": 1.0}}),
    "losses of an untrained stitch": (
        {"loss": {"task": 1.0}, "training": {"epochs": 0}},
        {"loss": {"mse": 1.0}, "training": {"epochs": 0}},
    ),
    "orders of a sum": ({"loss": {"task": 1.0, "mse": 1.0}}, {"loss": {"mse": 1.0, "task": 1.0}}),
    "affine permutations": (
        {"stitch": {"name": "permutation", "affine": True}, **trained_with(lr=0.1)},
        {"stitch": {"name": "permutation", "affine": True}, **trained_with(lr=0.2)},
    ),
}


def result_of(result: StitchResult) -> dict[str, Any]:
    """Return a result without times, in a form that `==` compares exactly."""
    weights = result.stitch.state_dict()
    return {
        "status": result.status,
        "metrics": result.metrics,
        "trajectory": [{k: v for k, v in r.items() if k != "time"} for r in result.trajectory],
        "predictions": None if result.predictions is None else result.predictions.tolist(),
        "stitch": {k: v.view(torch.uint8).numpy().tobytes() for k, v in weights.items()},
    }


@pytest.mark.parametrize("case", EQUAL)
def test_settings_that_differ_in_nothing_that_counts_are_equal_and_train_alike(case, a, b, digits):
    one, other = (settings(**tree) for tree in EQUAL[case])
    assert key(one) == key(other)
    results = [result_of(finished(training(a, b, 1, 1, digits, each))) for each in (one, other)]
    assert results[0] == results[1]


@pytest.mark.parametrize("case", DIFFERENT)
def test_settings_that_differ_in_what_counts_are_not_equal(case):
    one, other = (settings(**tree) for tree in DIFFERENT[case])
    assert key(one) != key(other)


def test_without_shapes_every_stitch_counts_as_trained():
    one, other = (settings(**tree) for tree in EQUAL["a stitch without parameters"])
    assert key(one, None) != key(other, None)


def test_a_stitch_that_does_not_fit_counts_as_trained():
    """The trial itself reports the reason."""

    def shape(name: str, layer: int) -> tuple[int, ...]:
        return (4, 16, 16) if name == "a" else (8, 16, 16)

    one, other = (settings(**tree) for tree in EQUAL["a stitch without parameters"])
    assert key(one, shape) != key(other, shape)


CONFIG = Config.model_validate(
    {
        "data": DIGITS,
        "networks": [
            {"name": name, "family": "resnet", "weights": "random", "seed": seed, **TINY}
            for seed, name in enumerate("ab")
        ],
        "pairs": [{"sender": "a", "receiver": "b", "sender_layers": [1], "receiver_layers": [1]}],
        "training": {"epochs": 1},
        "search": {
            "space": {
                "training.epochs": {"type": "categorical", "choices": [0, 1]},
                "training.optimizer.lr": {"type": "categorical", "choices": [0.01, 0.1]},
            },
            "samples": 12,
            "sampler": "random",
            "parallel_per_study": 3,
        },
        "tracking": {"enabled": False},
        "keep_stitches": "all",
    }
)
TRAININGS = 3  # of four points, two of them without epochs


def make_bench(data: Data) -> Workbench:
    modules = {name: build("resnet", 1, 10, TINY) for name in "ab"}
    return Workbench(CONFIG, data, modules)


@pytest.fixture(scope="module")
def swept(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Workbench]:
    """The folder of a sweep that ran in this process, and the workbench of its trainings."""
    folder = tmp_path_factory.mktemp("equal")
    bench = make_bench(digits)
    ledger = Ledger(folder)
    ledger.start({"config": CONFIG.model_dump(mode="json"), "trials": 12})
    writer = LedgerWriter(str(folder), CONFIG.keep_stitches, CONFIG.search.mode)
    searcher = SweepSearcher([STUDY], CONFIG, ledger)
    while isinstance(suggestion := searcher.suggest("t"), dict):
        spec = only_spec(suggestion)
        running = trained(bench, spec)
        result = finished(running)
        outcome = {
            "status": result.status,
            "metric": result.metrics["val_accuracy"],
            "metrics": result.metrics,
            "trajectory": result.trajectory,
            "seconds": result.seconds,
            "started": 1.0,
        }
        stitch = running.pack_stitch(spec)
        writer.finish(spec["trial"], outcome, result.predictions.numpy(), stitch)
        searcher.on_trial_complete("t", {})
    assert searcher.exhausted
    write_views(folder, [STUDY], CONFIG)
    return folder, bench


def trained(bench: Workbench, record: dict[str, Any]) -> Any:
    chosen = TrialSettings.model_validate(record["settings"])
    return bench.training("a", 1, "b", 1, chosen, record["repeat"])


def records(folder: Path) -> list[dict[str, Any]]:
    return sorted(Ledger(folder).records(), key=lambda record: record["number"])


def copies(folder: Path) -> list[dict[str, Any]]:
    return [record for record in records(folder) if "copied_from" in record]


def test_a_copy_is_what_its_own_training_would_have_been(swept):
    folder, bench = swept
    assert len(records(folder)) == 12
    assert len(copies(folder)) == 12 - TRAININGS
    fresh: dict[str, dict[str, Any]] = {}
    for record in copies(folder):
        shown = json.dumps(record["params"])
        fresh[shown] = fresh.get(shown) or result_of(finished(trained(bench, record)))
        wanted = fresh[shown]
        assert record["metrics"] == wanted["metrics"]
        assert [
            {k: v for k, v in row.items() if k != "time"} for row in record["trajectory"]
        ] == wanted["trajectory"]
        assert decode_predictions(record).tolist() == wanted["predictions"]
        assert record["seconds"] == 0
        assert record["status"] == "finished"


def test_a_copy_has_parameters_and_settings_of_its_own(swept):
    folder, _ = swept
    by_id = {record["trial"]: record for record in records(folder)}
    differing = 0
    for record in copies(folder):
        assert record["settings"]["training"]["epochs"] == record["params"]["training.epochs"]
        original = by_id[record["copied_from"]]
        assert "copied_from" not in original
        assert original["number"] < record["number"]
        differing += original["params"] != record["params"]
    assert differing, "trials without epochs are equal whatever their learning rate is"


def test_tables_mark_copies_and_have_their_figures(swept):
    folder, _ = swept
    results = pd.read_parquet(folder / "results.parquet")
    assert is_copied(results).sum() == 12 - TRAININGS
    assert not is_copied(results.drop(columns="copied_from")).any(), "a table of an older version"
    for row in results[is_copied(results)].itertuples():
        (original,) = results[results["trial"] == row.copied_from].itertuples()
        assert (row.test_accuracy, row.seconds) == (original.test_accuracy, 0)
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert len(predictions) == 12
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["finished"], summary["copied"]) == (12, 12 - TRAININGS)


def test_status_counts_copies_among_the_ended(swept):
    found = read_status(swept[0])
    assert found["state"] == "complete"
    assert (found["finished"], found["copied"], found["not_started"]) == (12, 12 - TRAININGS, 0)


def test_progress_says_how_many_were_copied(swept):
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    reporter = Reporter(console)
    reporter.expect(12)
    for record in records(swept[0]):
        reporter.trial("ended", record)
    last = console.file.getvalue().splitlines()[-1]
    assert last.startswith("trials: 12/12, ")
    assert f"{12 - TRAININGS} copied" in last


def test_the_path_of_a_copys_stitch_gives_the_stitch_that_was_trained(swept):
    folder, _ = swept
    ledger = Ledger(folder)
    assert len(list((folder / "stitches").iterdir())) == TRAININGS
    record = copies(folder)[0]
    path = ledger.stitch_path(record["trial"])
    assert not path.exists()
    assert describe_stitch(path)["about"]["trial"] == record["copied_from"]
    own = load_stitch(path).state_dict()
    original = load_stitch(ledger.stitch_path(record["copied_from"])).state_dict()
    assert all(torch.equal(own[name], original[name]) for name in original)


def test_a_missing_stitch_is_named(swept):
    with pytest.raises(InputError, match=r"none\.safetensors: there is no such stitch"):
        load_stitch(swept[0] / "stitches" / "none.safetensors")


SETTINGS = {"stitch": {"name": "paper"}, "loss": {"task": 1.0}}
CONTENT = {**STUDY.key, "study": STUDY.id, "params": {}, "settings": SETTINGS}


@pytest.mark.parametrize(
    "named", ["../../x", "/etc/passwd", "other-n0", 3, ["s-n0"], "", f"{STUDY.id}-n0/../../x"]
)
def test_a_record_can_name_trials_of_its_own_study_only(named, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin(STUDY.trial(1), {**CONTENT, "number": 1, "copied_from": named})
    with pytest.raises(RecordError, match="copied"):
        ledger.trained_trial(STUDY.trial(1))


def test_the_trial_that_was_trained_is_found(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin(STUDY.trial(0), {**CONTENT, "number": 0})
    ledger.begin(STUDY.trial(1), {**CONTENT, "number": 1, "copied_from": STUDY.trial(0)})
    trials = [STUDY.trial(k) for k in range(3)]  # the last has no record
    assert list(map(ledger.trained_trial, trials)) == [trials[0], trials[0], trials[2]]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_stitch_of_the_best_is_kept_whatever_is_copied(mode, tmp_path):
    """Among equal trials the first is the best, and a copy comes after its original."""
    ledger = Ledger(tmp_path)
    outcome = {"status": "finished", "metric": 0.5, "metrics": {}, "trajectory": [], "seconds": 1.0}
    writer = LedgerWriter(str(tmp_path), "best", mode)
    ledger.begin(STUDY.trial(0), {**CONTENT, "number": 0})
    writer.finish(STUDY.trial(0), outcome, np.zeros(3, dtype=int), b"stitch")
    ledger.begin(STUDY.trial(1), {**CONTENT, "number": 1})
    ledger.finish(STUDY.trial(1), {**outcome, "copied_from": STUDY.trial(0)}, None)
    LedgerWriter(str(tmp_path), "best", mode)  # as a resume starts it
    assert [path.stem for path in (tmp_path / "stitches").iterdir()] == [STUDY.trial(0)]


def test_a_copys_run_says_what_it_was_copied_from(swept):
    folder, _ = swept
    record = copies(folder)[-1]
    batches: list[dict[str, Any]] = []
    tracker = Tracker.__new__(Tracker)
    tracker._ledger, tracker._children = Ledger(folder), {}
    tracker._experiment, tracker._parent = "0", "parent"
    tracker._client = SimpleNamespace(
        create_run=lambda *_, **__: SimpleNamespace(info=SimpleNamespace(run_id="run")),
        log_batch=lambda run, **batch: batches.append(batch),
        set_terminated=lambda *_, **__: None,
    )
    assert tracker._send_trial(record["trial"])
    tags = {tag.key: tag.value for batch in batches for tag in batch["tags"]}
    assert tags == {"copied_from": record["copied_from"]}
    steps = [m.step for batch in batches for m in batch["metrics"] if m.key == "val/accuracy"]
    rows = [row for row in record["trajectory"] if row["split"] == "validation"]
    assert steps == [row["step"] for row in rows]


def test_measuring_finds_the_stitch_of_a_copy(swept):
    folder, bench = swept
    record = copies(folder)[0]
    shelf = StoredStitches(Ledger(folder), {r["trial"]: r for r in records(folder)}, bench)
    found = shelf.load(Cell("a", 1, "b", 1), [record["trial"], record["copied_from"]])
    assert (shelf.missing, shelf.problems) == ([], [])
    images = torch.rand(2, *bench.networks["a"].shape(1, (1, 16, 16)))
    with torch.no_grad():
        assert torch.equal(*(stitch(images) for stitch in found.values()))


def test_the_bound_on_trainings_is_said_before_a_sweep(digits):
    shapes = [tuple(shape) for shape in [(4, 16, 16)] * 2]
    outline = Outline((1, 16, 16), shapes, 10)
    prepared = Prepared(CONFIG, digits, {"a": outline, "b": outline}, [STUDY])
    assert (prepared.trials, prepared.trainings) == (12, 4)
    assert any("at most 4 stitches are trained" in note for note in prepared.notes)
