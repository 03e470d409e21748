"""Trials that wait at rungs, and decisions that depend on nothing but results."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest

from stitch_sweep.plan.objectives import learning_curve
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.sweep import rounds
from stitch_sweep.sweep.searcher import SweepSearcher
from tests.support.searches import (
    FINITE,
    FLAT,
    STUDIES,
    curve,
    make_config,
    only_spec,
    records_of,
    run_searcher,
    sampler_config,
)

HALVING = {"name": "asha", "reduction_factor": 2}
STUDY = STUDIES[0]


def halving_config(samples: int = 8, space: dict = FLAT, sampler: str = "tpe", size: int = 4):
    return sampler_config(sampler, space, samples, parallel_per_study=size, scheduler=HALVING)


def accuracies(record: dict) -> list[float]:
    return [row["accuracy"] for row in record["trajectory"]]


def test_the_decisions_of_the_first_round_are_those_of_the_rule(tmp_path):
    """Successive halving, written out: after 1 and 2 of 4 epochs, below the others' median."""
    config = halving_config()
    run_searcher(config, tmp_path, studies=[STUDY])
    records = records_of(tmp_path)[:4]
    curves = [
        [row["accuracy"] for row in curve({"study": STUDY.id, "params": r["params"]}, 4)]
        for r in records
    ]
    alive, stopped_at = [0, 1, 2, 3], {}
    for rung in (1, 2):
        # Of a trial that was stopped at an earlier rung, the study knows no value here.
        values = {number: curves[number][rung - 1] for number in alive}
        for number in alive:
            others = [value for other, value in values.items() if other != number]
            if others and values[number] < np.median(others):
                stopped_at[number] = rung
        alive = [number for number in alive if number not in stopped_at]
    assert stopped_at, "the rule stops some"
    for number, record in enumerate(records):
        rung = stopped_at.get(number)
        assert record["status"] == ("finished" if rung is None else "stopped")
        assert record.get("stopped_at") == rung
        assert accuracies(record) == curves[number][: rung or 4]
        if rung is not None:
            assert record["metric"] == curves[number][rung - 1]
            assert record["metrics"] == {}
            assert record["predictions"] is None
            assert record["stitch"] is None
        assert "paused_at" not in record


@pytest.mark.parametrize(("slots", "shuffle", "width"), [(1, 0, 1), (3, 1, 1), (8, 2, 3)])
def test_after_a_crash_at_every_point_the_same_records_follow(slots, shuffle, width, tmp_path):
    config = halving_config()
    studies = STUDIES[:2]
    run_searcher(config, tmp_path / "whole", studies=studies)
    wanted = records_of(tmp_path / "whole")
    events = sum(1 + len({1, 2} & set(range(1, r.get("stopped_at", 4)))) for r in wanted)
    for k in range(shuffle, events, 7):
        folder = tmp_path / str(k)
        options = {"studies": studies, "slots": slots, "width": width}
        run_searcher(config, folder, crash_after=k, shuffle=shuffle + k, **options)
        run_searcher(config, folder, shuffle=shuffle, **options)
        assert records_of(folder) == wanted, k


class Spy:
    """A scheduler that stops the worst trial of every round after epoch 2, and sees what it is shown."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[int], dict[int, list[float]]]] = []

    def rungs(self, number: int, epochs: int) -> list[int]:
        return [2]

    def stops(
        self,
        epoch: int,
        arrived: Collection[int],
        histories: Mapping[int, Sequence[float]],
        finished: Collection[int],
    ) -> set[int]:
        self.calls.append((epoch, list(arrived), {n: list(h) for n, h in histories.items()}))
        return {min(arrived, key=lambda number: histories[number][-1])}


@pytest.mark.parametrize("shuffle", range(3))
def test_a_decision_sees_no_later_value_and_no_order(shuffle, tmp_path, monkeypatch):
    """One decision a round, with its trials in order up to the rung, and all earlier rounds whole."""
    spies: dict[str, Spy] = {}
    monkeypatch.setattr(
        rounds, "build_scheduler", lambda config, study: spies.setdefault(study.id, Spy())
    )
    run_searcher(halving_config(), tmp_path, studies=[STUDY], slots=4, shuffle=shuffle)
    records = records_of(tmp_path)
    calls = spies[STUDY.id].calls
    assert [(epoch, arrived) for epoch, arrived, _ in calls] == [
        (2, [0, 1, 2, 3]),
        (2, [4, 5, 6, 7]),
    ]
    for first, (_, arrived, histories) in zip((0, 4), calls, strict=True):
        assert sorted(histories) == list(range(first + 4))
        for number, history in histories.items():
            whole = accuracies(records[number])
            assert history == (whole[:2] if number in arrived else whole)
    for first in (0, 4):
        stopped = [r["number"] for r in records[first : first + 4] if r["status"] == "stopped"]
        assert len(stopped) == 1


def test_curves_are_computed_for_decisions_alone(tmp_path, monkeypatch):
    """Once for an ended trial, and once per decision for a waiting one, whatever `samples` is."""
    computed: Counter[tuple[str, str]] = Counter()

    def counted(record, config):
        computed[record["trial"], record["status"]] += 1
        return learning_curve(record, config)

    monkeypatch.setattr(rounds, "learning_curve", counted)
    run_searcher(halving_config(16, sampler="random"), tmp_path, studies=[STUDY], slots=3)
    counts = {status: Counter() for status in ("running", "finished", "stopped")}
    for (trial, status), count in computed.items():
        counts[status][trial] = count
    assert max(counts["running"].values()) <= 2, "each trial has two rungs"
    for status in ("finished", "stopped"):
        assert set(counts[status].values()) == {1}


def test_a_trial_that_failed_before_a_rung_holds_nothing_up(tmp_path):
    run_searcher(halving_config(), tmp_path, studies=[STUDY], fails=3, slots=2)
    records = records_of(tmp_path)
    assert [r["number"] for r in records if r["status"] == "failed"] == [0, 3, 6]
    assert {r["status"] for r in records} == {"failed", "finished", "stopped"}


def test_nobody_waits_in_a_worker(tmp_path):
    """A worker with one place runs a whole round to its rung before a trial of it continues."""
    log = []
    run_searcher(halving_config(4, sampler="random"), tmp_path, studies=[STUDY], log=log)
    handed_out = [
        (entry["spec"]["number"], entry["until"]) for group in log for entry in group["entries"]
    ]
    assert handed_out[:4] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert {until for _, until in handed_out[4:]} == {2, None}


def test_a_paused_trial_keeps_its_record_when_it_is_handed_out_again(tmp_path):
    config = halving_config(2, size=2)
    ledger = Ledger(tmp_path)
    searcher = SweepSearcher([STUDY], config, ledger, limit=lambda: 2)
    spec = only_spec(searcher.suggest("a"))
    progress = {"paused_at": 1, "trajectory": curve(spec, 1), "seconds": 3.0, "started": 7.0}
    ledger.pause(spec["trial"], progress, b"checkpoint")
    searcher.on_trial_result("a", {"left": [spec["trial"]]})
    for _ in range(2):  # a resume, and a second one
        searcher = SweepSearcher([STUDY], config, ledger, limit=lambda: 2)
        assert only_spec(searcher.suggest("b"))["number"] == 1, "number 0 waits for it"
        assert {k: ledger.read(spec["trial"])[k] for k in progress} == progress


class TestCopies:
    def test_a_copy_of_a_stopped_trial_is_stopped_where_it_was(self, tmp_path):
        config = halving_config(16, FINITE, "random", size=4)
        run_searcher(config, tmp_path, studies=[STUDY], slots=3)
        records = {r["trial"]: r for r in records_of(tmp_path)}
        copies = [r for r in records.values() if "copied_from" in r]
        stopped = [r for r in copies if r["status"] == "stopped"]
        assert stopped
        for copy in copies:
            original = records[copy["copied_from"]]
            for key in ("status", "metric", "metrics", "trajectory", "predictions"):
                assert copy[key] == original[key]
            assert copy.get("stopped_at") == original.get("stopped_at")

    @pytest.mark.parametrize("shuffle", range(4))
    def test_what_is_copied_and_stopped_depends_on_no_order(self, shuffle, tmp_path):
        config = halving_config(16, FINITE, size=4)
        studies = STUDIES[:2]
        run_searcher(config, tmp_path / "one", studies=studies)
        wanted = records_of(tmp_path / "one")
        for k in (None, 3, 7):
            folder = tmp_path / f"other {k}"
            options = {"studies": studies, "slots": 5, "shuffle": shuffle, "width": 3}
            if k is not None:
                run_searcher(config, folder, crash_after=k, **options)
            run_searcher(config, folder, **options)
            assert records_of(folder) == wanted

    def test_an_equal_trial_of_the_same_round_takes_no_part_in_decisions(
        self, tmp_path, monkeypatch
    ):
        spy = Spy()
        monkeypatch.setattr(rounds, "build_scheduler", lambda config, study: spy)
        config = halving_config(8, FINITE, "random", size=8)
        run_searcher(config, tmp_path, studies=[STUDY], slots=2)
        ((_, arrived, histories),) = spy.calls
        originals = [r["number"] for r in records_of(tmp_path) if "copied_from" not in r]
        assert arrived == sorted(histories) == originals


def test_without_a_scheduler_nothing_waits(tmp_path):
    log = []
    config = make_config(FLAT, sampler="random", samples=4, parallel_per_study=2)
    run_searcher(config, tmp_path, log=log)
    assert {entry["until"] for group in log for entry in group["entries"]} == {None}
