"""Studies that wait for the studies that they learn from."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stitch_sweep.config.places import Places
from stitch_sweep.config.tracking import TrackingConfig
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.storage.records import without_outcome
from stitch_sweep.storage.retraining import begin_retraining
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep import run
from stitch_sweep.sweep.openings import stitches_to_keep
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.sweep.retries import RETRIES
from stitch_sweep.sweep.searcher import SweepSearcher
from stitch_sweep.tracking.loggers import Loggers
from tests.support.searches import (
    ENDED,
    FLAT,
    finish_trial,
    only_spec,
    records_of,
    run_searcher,
    sampler_config,
)

CHAIN = [Study("a", i, "b", 2) for i in range(5)]
LAYERS = {"layers": lambda name: 5}
SHAPE = (4, 8, 8)


def shared_config(samples: int = 4, **search: object):
    return sampler_config("random", FLAT, samples, share="neighbors", **search)


def by_layer(records: list[dict]) -> dict[int, list[dict]]:
    chains: dict[int, list[dict]] = {}
    for record in records:
        chains.setdefault(record["sender_layer"], []).append(record)
    return chains


def test_a_study_begins_with_the_best_settings_of_its_neighbor(tmp_path):
    run_searcher(shared_config(), tmp_path, studies=CHAIN, slots=3, **LAYERS)
    chains = by_layer(records_of(tmp_path))
    for child, parent in ((1, 2), (3, 2), (0, 1), (4, 3)):
        best = max(chains[parent], key=lambda record: record["metric"])
        assert chains[child][0]["params"] == best["params"]
    firsts = {record["params"]["training.optimizer.lr"] for record in chains[2]}
    assert len(firsts) == 4


def test_a_study_is_not_begun_before_its_neighbor_has_ended(tmp_path):
    config = shared_config(2, parallel_per_study=2)
    ledger = Ledger(tmp_path)
    searcher = SweepSearcher(CHAIN, config, ledger, limit=lambda: 20, **LAYERS)
    running = {}

    def start() -> set[int]:
        while (suggestion := searcher.suggest(str(len(running)))) is not None:
            running[str(len(running))] = only_spec(suggestion)
        return {spec["sender_layer"] for spec in running.values()}

    def end(layer: int, count: int) -> None:
        ready = [k for k, spec in running.items() if spec["sender_layer"] == layer]
        for trial_id in ready[:count]:
            finish_trial(tmp_path, running[trial_id])
            searcher.on_trial_complete(trial_id, {})

    assert start() == {2}
    end(2, 1)
    assert start() == {2}
    end(2, 2)
    assert start() == {1, 2, 3}
    end(3, 2)
    assert start() == {1, 2, 3, 4}


@pytest.mark.parametrize("scheduler", [None, {"name": "asha", "reduction_factor": 2}])
def test_neither_workers_nor_crashes_change_what_is_learned(scheduler, tmp_path):
    search = {"scheduler": scheduler, "parallel_per_study": 2} if scheduler else {}
    config = shared_config(**search)
    run_searcher(config, tmp_path / "whole", studies=CHAIN, **LAYERS)
    wanted = records_of(tmp_path / "whole")
    for k in range(0, 20, 4):
        folder = tmp_path / str(k)
        options = {"studies": CHAIN, "slots": 1 + k % 5, "shuffle": k, "width": 1 + k % 3}
        run_searcher(config, folder, crash_after=k, **options, **LAYERS)
        run_searcher(config, folder, deaths=0.1, **options, **LAYERS)
        assert records_of(folder) == wanted, k


def test_a_study_after_a_lost_trial_is_left_to_a_resume(tmp_path):
    config = shared_config(1)
    searcher = SweepSearcher(CHAIN, config, Ledger(tmp_path), **LAYERS)
    for k in range(RETRIES + 1):
        assert only_spec(searcher.suggest(str(k)))["sender_layer"] == 2
        searcher.on_trial_complete(str(k), error=True)
    assert searcher.suggest("x") == SweepSearcher.FINISHED
    assert searcher.lost == [CHAIN[2].trial(0)]
    run_searcher(config, tmp_path, studies=CHAIN, **LAYERS)
    assert len(records_of(tmp_path)) == 5


def end_with_stitch(folder: Path, writer: LedgerWriter, spec: dict) -> None:
    accuracy = random.Random(spec["trial"]).random()
    outcome = {
        **ENDED,
        "metric": accuracy,
        "metrics": {"val_accuracy": accuracy},
        "trajectory": [],
        "started": 1.0,
    }
    writer.finish(spec["trial"], outcome, np.zeros(3, dtype=np.int64), spec["trial"].encode())


def run_with_stitches(folder: Path, keep: str, shape=lambda name, layer: SHAPE) -> list[dict]:
    config = shared_config(3).model_copy(update={"keep_stitches": keep})
    ledger = Ledger(folder)
    writer = LedgerWriter(str(folder), stitches_to_keep(config), "max")
    searcher = SweepSearcher(CHAIN, config, ledger, shape=shape, **LAYERS)
    specs = []
    while (suggestion := searcher.suggest("t")) != SweepSearcher.FINISHED:
        specs.append(only_spec(suggestion))
        end_with_stitch(folder, writer, specs[-1])
        searcher.on_trial_complete("t", {})
    return specs


@pytest.mark.parametrize("keep", ["all", "best", "none"])
def test_a_trial_starts_from_the_best_stitch_of_its_neighbor(keep, tmp_path):
    """Its record names the trial and the stitch's checksum; a stitch is kept as long as it is needed."""
    specs = run_with_stitches(tmp_path, keep)
    chains = by_layer(records_of(tmp_path))
    for spec in specs:
        layer = spec["sender_layer"]
        record = next(r for r in chains[layer] if r["number"] == spec["number"])
        assert record.get("start") == spec.get("start")
        if layer == 2:
            assert "start" not in spec
            continue
        parent = {1: 2, 3: 2, 0: 1, 4: 3}[layer]
        best = max(chains[parent], key=lambda record: record["metric"])
        assert spec["start"]["trial"] == best["trial"]
        assert spec["start"]["sha256"] == best["stitch"]["sha256"]
    stored = stored_stitches(tmp_path)
    assert len(stored) == {"all": len(specs), "best": 5, "none": 5}[keep]
    records = [record for chain in chains.values() for record in chain]
    assert {record["trial"] for record in records if record.get("stitch")} == stored


def stored_stitches(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "stitches").glob("*")}


@pytest.mark.parametrize("keep", ["all", "best", "none"])
def test_a_resume_drops_the_stitches_that_were_kept_for_others_alone(keep, tmp_path, monkeypatch):
    """Also if the run before was killed after its last trial: no trial is left to run."""
    specs = run_with_stitches(tmp_path, keep)
    before = stored_stitches(tmp_path)
    config = shared_config(3).model_copy(update={"keep_stitches": keep})
    prepared = SimpleNamespace(config=config, studies=CHAIN, trials=len(specs))
    monkeypatch.setattr(run, "write_views", lambda *_: (pd.DataFrame(), []))
    ledger = Ledger(tmp_path)
    loggers = Loggers(tmp_path, TrackingConfig(enabled=False), Places.of_folder(tmp_path), print)
    run._run(prepared, ledger, None, Reporter(), loggers, None, None, lambda: None)
    assert stored_stitches(tmp_path) == (set() if keep == "none" else before)
    assert {r["trial"] for r in ledger.records() if r.get("stitch")} == stored_stitches(tmp_path)


def test_stitches_of_another_shape_are_no_start(tmp_path):
    specs = run_with_stitches(
        tmp_path, "best", lambda name, layer: SHAPE if layer < 4 else (8, 4, 4)
    )
    assert {s["sender_layer"] for s in specs if "start" in s} == {0, 1, 3}


def best_of(ledger: Ledger, layer: int) -> dict:
    records = [r for r in ledger.records() if r["sender_layer"] == layer]
    return max(records, key=lambda record: record["metric"])


def interrupt_child(folder: Path) -> tuple[Ledger, str, SweepSearcher]:
    """Run all trials, then let one run again that started from a stitch that isn't the best."""
    ledger, child = Ledger(folder), CHAIN[1].trial(0)
    run_with_stitches(folder, "all")
    best = best_of(ledger, 2)
    other = next(ledger.read(t) for t in map(CHAIN[2].trial, range(3)) if t != best["trial"])
    start = {"trial": other["trial"], "sha256": other["stitch"]["sha256"]}
    ledger.begin(child, {**without_outcome(ledger.read(child)), "start": start})
    config, shape = shared_config(3), lambda name, layer: SHAPE
    return ledger, child, SweepSearcher(CHAIN, config, ledger, shape=shape, **LAYERS)


def test_a_recorded_start_stays_whatever_the_neighbor_has_now(tmp_path):
    """A trial that is trained again, for its stitch, starts where it started."""
    ledger, child, searcher = interrupt_child(tmp_path)
    start = ledger.read(child)["start"]
    assert start["trial"] != best_of(ledger, 2)["trial"]
    assert only_spec(searcher.suggest("t"))["start"] == start


@pytest.mark.parametrize("problem", ["missing", "damaged"])
def test_a_sweep_stops_with_a_remedy_where_a_start_is_unusable(problem, tmp_path):
    """Training the other trial again helps; a further attempt of this one would not."""
    ledger, child, searcher = interrupt_child(tmp_path)
    parent = ledger.read(child)["start"]["trial"]
    if problem == "missing":
        ledger.stitch_path(parent).unlink()
    else:
        ledger.stitch_path(parent).write_bytes(b"other")
    before = ledger.read(child)
    assert searcher.suggest("t") == SweepSearcher.FINISHED
    assert not searcher.exhausted
    assert f"the stitch of {parent}, from which {child} starts, is {problem};" in searcher.stopped
    assert searcher.stopped.endswith("--resume --retrain-stitches")
    assert ledger.read(child) == before

    begin_retraining(ledger, ledger.read(parent))
    config, shape = shared_config(3), lambda name, layer: SHAPE
    writer = LedgerWriter(str(tmp_path), "all", "max")
    searcher = SweepSearcher(CHAIN, config, ledger, shape=shape, **LAYERS)
    for trial in (parent, child):
        spec = only_spec(searcher.suggest("t"))
        assert spec["trial"] == trial
        end_with_stitch(tmp_path, writer, spec)
        searcher.on_trial_complete("t", {})
    assert searcher.suggest("t") == SweepSearcher.FINISHED
    assert searcher.exhausted


def test_a_start_that_was_trained_again_with_another_result_is_not_used(tmp_path):
    ledger, child, searcher = interrupt_child(tmp_path)
    record = ledger.read(child)
    ledger.begin(child, {**record, "start": {**record["start"], "sha256": "0" * 64}})
    searcher = SweepSearcher(
        CHAIN, shared_config(3), ledger, shape=lambda name, layer: SHAPE, **LAYERS
    )
    assert searcher.suggest("t") == SweepSearcher.FINISHED
    assert f"is not the recorded one; remove {ledger.record_path(child)}," in searcher.stopped
