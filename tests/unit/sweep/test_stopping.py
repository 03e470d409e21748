"""`search.stop`: which trials are left out depends on the configuration and the studies' results only."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stitch_sweep.plan.sizes import _divide, allot_trials
from stitch_sweep.plan.stopping import StudyStopper, find_remainder
from stitch_sweep.storage.ledger import Ledger
from tests.support.searches import (
    FLAT,
    GOALS,
    STUDIES,
    make_config,
    run_searcher,
    sampler_config,
    score,
)

SAMPLES = 6


def stop_config(samples: int = SAMPLES, **search: object):
    return sampler_config("tpe", FLAT, samples, **search)


def counts_of(found: dict[str, dict], samples: int = SAMPLES) -> list[int]:
    return [sum(s.trial(n) in found for n in range(samples)) for s in STUDIES]


def best_first(values: list[float], patience: int) -> int:
    """Count the trials of a study by the definition of `patience`, one at a time."""
    for count in range(1, len(values) + 1):
        done = values[:count]
        if count > patience and max(done[-patience:]) <= max(done[:-patience]):
            return count
    return len(values)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(0, 60))
def test_trials_are_divided_evenly(counts, total):
    shares = _divide(counts, total)
    assert sum(shares) == min(total, sum(counts))
    open_shares = [s for s, count in zip(shares, counts, strict=True) if s < count]
    assert all(share <= count for share, count in zip(shares, counts, strict=True))
    # Nobody has two more than a place that could take another one.
    assert not open_shares or max(shares) <= min(open_shares) + 1


@pytest.mark.parametrize("trials", [1, 3, 4, 10, 23, 24, 99])
@pytest.mark.parametrize(("slots", "shuffle"), [(1, 0), (3, 1)])
def test_the_first_trials_of_every_study_run(trials, slots, shuffle, tmp_path):
    every = run_searcher(stop_config(), tmp_path / "all")
    config = stop_config(stop={"trials": trials})
    found = run_searcher(config, tmp_path / "some", slots=slots, shuffle=shuffle)
    assert counts_of(found) == allot_trials(config, STUDIES)
    assert len(found) == min(trials, len(every))
    assert found.items() <= every.items()
    remainder = find_remainder(Ledger(tmp_path / "some"), STUDIES, config)
    assert (remainder.ended, remainder.missing) == (len(found), 0)
    assert remainder.left_out.total() == len(every) - len(found)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("patience", [1, 2, 4])
def test_patience_ends_a_study_by_its_definition(size, patience, tmp_path):
    samples = 9
    free = run_searcher(stop_config(samples, parallel_per_study=size), tmp_path / "all")
    config = stop_config(samples, parallel_per_study=size, stop={"patience": patience})
    expected = []
    for study in STUDIES:
        values = [score(study.id + "val_accuracy", free[study.trial(n)]) for n in range(samples)]
        count = best_first(values, patience)
        expected.append(min(samples, -(-count // size) * size))  # the round goes on to its end
    assert min(expected) < samples  # the data show something
    found = run_searcher(config, tmp_path / "some", slots=3, shuffle=size)
    assert counts_of(found, samples) == expected
    assert found.items() <= free.items()
    remainder = find_remainder(Ledger(tmp_path / "some"), STUDIES, config)
    assert remainder.missing == 0
    assert remainder.left_out == {"patience": len(free) - len(found)}


def test_a_target_ends_a_study_and_not_the_sweep(tmp_path):
    free = run_searcher(stop_config(), tmp_path / "all")
    target = 0.6
    expected = []
    for study in STUDIES:
        values = [score(study.id + "val_accuracy", free[study.trial(n)]) for n in range(SAMPLES)]
        hits = [n for n, value in enumerate(values) if value >= target]
        expected.append(hits[0] + 1 if hits else SAMPLES)
    assert len(set(expected)) > 1
    config = stop_config(stop={"target": target})
    found = run_searcher(config, tmp_path / "some", slots=2)
    assert counts_of(found) == expected


def test_a_target_may_have_another_metric_than_the_search():
    config = stop_config(stop={"target": 0.5, "metric": "val_loss"})
    stopper = StudyStopper(config)
    stopper.add_round([{"status": "finished", "metrics": {"val_accuracy": 0.9, "val_loss": 0.6}}])
    assert stopper.reason is None
    stopper.add_round([{"status": "finished", "metrics": {"val_accuracy": 0.1, "val_loss": 0.5}}])
    assert stopper.reason == "target"


def test_trials_without_a_result_improve_nothing_and_the_first_one_must_have_a_result():
    failed = {"status": "failed", "metrics": {}}
    stopped = {"status": "stopped", "metrics": {}}
    finished = {"status": "finished", "metrics": {"val_accuracy": 0.1}}
    stopper = StudyStopper(stop_config(stop={"patience": 2}))
    for record, reason in [
        (failed, None),
        (failed, None),
        (failed, None),
        (finished, None),
        (failed, None),
        (stopped, "patience"),
    ]:
        stopper.add_round([record])
        assert stopper.reason == reason


@pytest.mark.parametrize("stop", [{"trials": 13}, {"patience": 1}, {"target": 0.6}])
def test_a_resume_after_a_crash_at_any_point_leaves_out_the_same_trials(stop, tmp_path):
    config = stop_config(stop=stop, parallel_per_study=2)
    wanted = run_searcher(config, tmp_path / "whole")
    for k in range(0, len(wanted) - 1, 2):
        folder = tmp_path / str(k)
        run_searcher(config, folder, slots=3, crash_after=k, shuffle=k)
        assert find_remainder(Ledger(folder), STUDIES, config).missing > 0
        assert run_searcher(config, folder, slots=2, shuffle=k + 1) == wanted


def test_with_looser_conditions_a_resume_goes_on(tmp_path):
    free = run_searcher(stop_config(), tmp_path / "free")
    for stop in ({"trials": 9}, {"trials": 14}, {"patience": 3}, None):
        search = {} if stop is None else {"stop": stop}
        found = run_searcher(stop_config(**search), tmp_path / "some")
        assert found.items() <= free.items()
    assert found == free


def test_with_a_scheduler_studies_get_whole_rounds(tmp_path):
    search = {"scheduler": {"name": "asha", "grace_period": 1}, "parallel_per_study": 3}
    config = stop_config(**search, stop={"trials": 20})
    assert allot_trials(config, STUDIES) == [6, 6, 3, 3]
    whole = run_searcher(stop_config(**search), tmp_path / "whole")
    found = run_searcher(config, tmp_path / "some")
    assert counts_of(found) == [6, 6, 3, 3]
    assert found.items() <= whole.items()


def test_a_study_that_others_wait_for_may_end_early(tmp_path):
    search = {"share": "neighbors", "stop": {"patience": 1}}
    found = run_searcher(stop_config(**search), tmp_path / "some", layers=lambda name: 5)
    counts = counts_of(found)
    assert min(counts) > 0
    assert sum(counts) < SAMPLES * len(STUDIES)


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ({}, "has no condition; set trials, target or patience"),
        ({"metric": "val_loss"}, "is the metric of target, which is missing"),
        ({"target": 90}, "expected a share of images, at most 1, got 90"),
        ({"trials": 0}, "greater than or equal to 1|1 or more|at least 1"),
        ({"patience": 2, "trails": 3}, "trails"),
    ],
)
def test_refuses_conditions_that_can_not_hold(stop, message):
    with pytest.raises(ValidationError, match=message):
        stop_config(stop=stop)


def test_refuses_conditions_on_the_results_of_a_single_trial():
    with pytest.raises(ValidationError, match="without a space a study has only one"):
        make_config(None, stop={"patience": 2})


def test_refuses_patience_with_several_objectives():
    with pytest.raises(ValidationError, match="can't tell whether several objectives improve"):
        stop_config(objectives=GOALS, stop={"patience": 2})


def test_a_sweep_without_conditions_is_described_as_before():
    assert "stop" not in stop_config().model_dump(mode="json")["search"]
    stop = {"trials": 5, "patience": 2}
    dumped = json.loads(json.dumps(stop_config(stop=stop).model_dump(mode="json")))
    assert dumped["search"]["stop"] == stop
