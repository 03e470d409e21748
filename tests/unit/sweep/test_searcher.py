"""Suggestions depend on (seed, study, number, earlier results) only, also after crashes."""

import itertools
import json

import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.objectives import objective_values
from stitch_sweep.plan.samplers import check_sampler
from stitch_sweep.plan.sizes import count_samples
from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.sweep.retries import RETRIES
from stitch_sweep.sweep.searcher import SweepSearcher
from tests.support.searches import (
    ENDED,
    FINITE,
    FLAT,
    GOALS,
    GRID,
    ONE,
    SAMPLERS,
    SPACE,
    STUDIES,
    by_number,
    finish_trial,
    make_config,
    only_spec,
    records_of,
    run_searcher,
    sampler_config,
    score,
)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestSamplers:
    @pytest.mark.parametrize("name", SAMPLERS)
    @pytest.mark.parametrize("size", [1, 3])
    def test_after_a_crash_at_every_point_the_same_parameters_follow(self, name, size, tmp_path):
        # A Gaussian process needs a second for a suggestion, so it gets two crashes only.
        samples, crashes = (5, (3, 4)) if name == "GPSampler" else (7, range(7))
        config = sampler_config(name, FLAT, samples, parallel_per_study=size)
        studies = STUDIES[:1]
        wanted = run_searcher(config, tmp_path / "whole", studies=studies, slots=size)
        assert len(wanted) == samples
        for k in crashes:
            folder = tmp_path / str(k)
            run_searcher(config, folder, studies=studies, slots=size, crash_after=k, shuffle=k)
            assert (
                run_searcher(config, folder, studies=studies, slots=size, shuffle=k + 1) == wanted
            )

    @pytest.mark.parametrize("name", ["tpe", "random"])
    def test_conditional_parameters_appear_exactly_when_they_should(self, name, tmp_path):
        config = sampler_config(name, SPACE, 12)
        found = run_searcher(config, tmp_path, slots=3)
        assert {params["training.optimizer.name"] for params in found.values()} == {"sgd", "adam"}
        for params in found.values():
            is_sgd = params["training.optimizer.name"] == "sgd"
            assert ("training.optimizer.momentum" in params) == is_sgd
            assert {"training.optimizer.lr", "training.epochs"} <= params.keys()

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_failed_trials_stop_nothing(self, name, tmp_path):
        config = sampler_config(name, FLAT, 5)
        found = run_searcher(config, tmp_path, studies=STUDIES[:1], fails=2)
        assert len(found) == len({json.dumps(params) for params in found.values()}) == 5

    @pytest.mark.parametrize(("slots", "shuffle"), [(1, 0), (2, 1), (4, 2), (16, 3)])
    def test_neither_interleaving_nor_the_number_of_workers_changes_anything(
        self, slots, shuffle, tmp_path
    ):
        config = sampler_config("tpe", SPACE, 6, parallel_per_study=3)
        wanted = run_searcher(config, tmp_path / "one")
        assert run_searcher(config, tmp_path / "other", slots=slots, shuffle=shuffle) == wanted
        backwards = run_searcher(config, tmp_path / "back", studies=STUDIES[::-1], slots=slots)
        assert backwards == wanted

    def test_after_a_crash_with_many_studies_at_work_the_same_parameters_follow(self, tmp_path):
        config = sampler_config("tpe", SPACE, 5, parallel_per_study=2)
        wanted = run_searcher(config, tmp_path / "whole")
        for k in range(0, len(wanted), 3):
            folder = tmp_path / str(k)
            run_searcher(config, folder, slots=5, crash_after=k, shuffle=k)
            assert run_searcher(config, folder, slots=3, shuffle=k + 1) == wanted


def test_startup_samples_are_equal_across_studies_and_differ_by_number(tmp_path):
    config = sampler_config("tpe", FLAT, 8)
    rows = by_number(run_searcher(config, tmp_path), STUDIES, 8)
    for row in rows[:3]:
        assert all(params == row[0] for params in row)
    assert len({json.dumps(row[0]) for row in rows[:3]}) == 3
    assert any(params != row[0] for row in rows[3:] for params in row)


def test_another_seed_gives_other_samples(tmp_path):
    one = sampler_config("random", FLAT, 3)
    other = one.model_copy(update={"seed": 1})
    found = [run_searcher(c, tmp_path / str(c.seed), studies=STUDIES[:1]) for c in (one, other)]
    assert not {json.dumps(p) for p in found[0].values()} & {
        json.dumps(p) for p in found[1].values()
    }


@pytest.mark.parametrize("name", ["random", "RandomSampler", "QMCSampler"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_that_looks_at_no_result_gives_all_studies_the_same(name, tmp_path):
    rows = by_number(run_searcher(make_config(FLAT, sampler=name, samples=6), tmp_path), STUDIES, 6)
    assert all(params == row[0] for row in rows for params in row)


def test_a_running_record_is_handed_out_again_with_its_parameters(tmp_path):
    config = sampler_config("tpe", FLAT, 3)
    (study,) = STUDIES[:1]
    ledger = Ledger(tmp_path)
    stored = {"training.optimizer.lr": 0.01, "training.schedule.warmup": 0.25}
    record = only_spec(SweepSearcher([study], config, ledger).suggest("t"))
    ledger.begin(study.trial(0), {**record, "params": stored})
    spec = only_spec(SweepSearcher([study], config, ledger).suggest("t"))
    assert spec["number"] == 0
    assert spec["params"] == stored
    assert spec["settings"]["training"]["schedule"]["warmup"] == 0.25


def test_a_round_waits_for_all_of_the_one_before(tmp_path):
    config = sampler_config("random", FLAT, 7, parallel_per_study=3)
    ledger = Ledger(tmp_path)
    searcher = SweepSearcher(STUDIES[:1], config, ledger)

    def suggest(name: str) -> int | None:
        found = searcher.suggest(name)
        return only_spec(found)["number"] if found else None

    def end(name: str, number: int) -> None:
        ledger.finish(STUDIES[0].trial(number), ENDED, None)
        searcher.on_trial_complete(name, {})

    assert [suggest(name) for name in "abcd"] == [0, 1, 2, None]
    end("c", 2)
    end("a", 0)
    assert suggest("d") is None
    end("b", 1)
    assert [suggest(name) for name in "defg"] == [3, 4, 5, None]


def test_a_trial_whose_worker_died_is_handed_out_again_and_lost_in_the_end(tmp_path):
    events = []
    searcher = SweepSearcher(
        STUDIES[:1],
        sampler_config("tpe", FLAT, 2),
        Ledger(tmp_path),
        lambda event, record: events.append(event),
    )
    first = searcher.suggest("t0")
    for k in range(RETRIES):
        searcher.on_trial_complete(f"t{k}", error=True)
        assert searcher.lost == []
        assert searcher.suggest(f"t{k + 1}") == first, "the same number and parameters"
    searcher.on_trial_complete(f"t{RETRIES}", error=True)
    assert searcher.lost == [STUDIES[0].trial(0)]
    assert events == ["started", *["retried", "started"] * RETRIES, "lost"]
    # Number 1 waits for the result of number 0, which is lost, so Optuna has no result.
    assert searcher.suggest("u") == SweepSearcher.FINISHED


def test_a_worker_that_was_thought_dead_and_finished_is_not_overwritten(tmp_path):
    ledger, trial = Ledger(tmp_path), STUDIES[0].trial(0)
    searcher = SweepSearcher(STUDIES[:1], sampler_config("random", FLAT, 1), ledger)
    searcher.suggest("t")
    searcher.on_trial_complete("t", error=True)
    ended = ledger.finish(trial, ENDED, None)
    searcher.suggest("u")
    assert ledger.read(trial) == ended


def test_a_trial_tried_again_holds_its_round_up_and_nothing_else(tmp_path):
    ledger = Ledger(tmp_path)
    searcher = SweepSearcher(
        STUDIES[:1], sampler_config("random", FLAT, 4, parallel_per_study=2), ledger
    )

    def suggest(name: str) -> int | None:
        found = searcher.suggest(name)
        return only_spec(found)["number"] if found else None

    assert [suggest(name) for name in "ab"] == [0, 1]
    searcher.on_trial_complete("a", error=True)
    ledger.finish(STUDIES[0].trial(1), ENDED, None)
    searcher.on_trial_complete("b", {})
    assert [suggest(name) for name in "cd"] == [0, None]
    ledger.finish(STUDIES[0].trial(0), ENDED, None)
    searcher.on_trial_complete("c", {})
    assert [suggest(name) for name in "ef"] == [2, 3]


def test_without_a_space_every_study_has_one_trial(tmp_path):
    found = run_searcher(make_config(), tmp_path)
    assert found == {study.trial(0): {} for study in STUDIES}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestObjectives:
    @pytest.mark.parametrize("name", ["tpe", "NSGAIISampler"])
    def test_after_a_crash_the_same_parameters_follow(self, name, tmp_path):
        config = sampler_config(name, FLAT, 8, objectives=GOALS)
        wanted = run_searcher(config, tmp_path / "whole", studies=STUDIES[:1], fails=3)
        for k in (2, 5):
            folder = tmp_path / str(k)
            run_searcher(config, folder, studies=STUDIES[:1], crash_after=k, fails=3)
            assert run_searcher(config, folder, studies=STUDIES[:1], fails=3) == wanted

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_every_sampler_that_is_let_through_gets_past_its_start_up(self, name, tmp_path):
        config = sampler_config(name, FLAT, 5, objectives=GOALS)
        try:
            check_sampler(config)
        except InputError:
            return
        assert len(run_searcher(config, tmp_path, studies=STUDIES[:1])) == 5


class TestGrid:
    def test_enumerates_the_conditional_space_without_repetition(self, tmp_path):
        config = make_config(GRID, sampler="grid")
        found = run_searcher(config, tmp_path, studies=STUDIES[:1], slots=2)
        points = {tuple(sorted(params.items())) for params in found.values()}
        wanted = {(("stitch.name", "conv1x1"),)}
        for warmup, epochs in itertools.product((0.1, 0.2), (2, 3)):
            wanted.add(
                (
                    ("stitch.name", "paper"),
                    ("training.epochs", epochs),
                    ("training.schedule.warmup", warmup),
                )
            )
        wanted.add((("stitch.name", "paper"), ("training.schedule.warmup", 0.3)))
        assert points == wanted
        assert len(found) == count_samples(config, STUDIES[0]) == len(wanted)

    def test_goes_on_after_a_crash(self, tmp_path):
        config = make_config(GRID, sampler="grid")
        wanted = run_searcher(config, tmp_path / "whole", studies=STUDIES[:1])
        run_searcher(config, tmp_path / "part", studies=STUDIES[:1], crash_after=2)
        assert run_searcher(config, tmp_path / "part", studies=STUDIES[:1]) == wanted


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestEqualTrials:
    """A trial that equals an earlier trial of its study gets the earlier trial's result."""

    @pytest.mark.parametrize("name", [p for p in SAMPLERS if p.values != ("GPSampler",)])
    @pytest.mark.parametrize("size", [1, 4])
    def test_twelve_samples_of_three_choices_are_at_most_three_trainings(
        self, name, size, tmp_path
    ):
        config = sampler_config(name, FINITE, 12, parallel_per_study=size)
        events = []
        searcher = SweepSearcher(
            STUDIES[:1], config, Ledger(tmp_path), lambda event, record: events.append(event)
        )
        trained = set()
        while (suggestion := searcher.suggest(str(len(trained)))) != SweepSearcher.FINISHED:
            spec = only_spec(suggestion)
            finish_trial(tmp_path, spec)
            searcher.on_trial_complete(str(len(trained)), {})
            trained.add(spec["trial"])
        assert searcher.exhausted
        assert 1 <= len(trained) <= 3
        records = records_of(tmp_path)
        assert len(records) == 12
        assert {r["trial"] for r in records if "copied_from" not in r} == trained
        assert events.count("ended") == 12
        assert events.count("started") == len(trained)

    @pytest.mark.parametrize(("slots", "shuffle"), [(1, 0), (2, 1), (4, 2), (16, 3)])
    def test_neither_interleaving_nor_the_number_of_workers_decides_what_is_copied(
        self, slots, shuffle, tmp_path
    ):
        config = sampler_config("tpe", FINITE, 9, parallel_per_study=4)
        run_searcher(config, tmp_path / "one")
        run_searcher(config, tmp_path / "other", slots=slots, shuffle=shuffle)
        wanted = records_of(tmp_path / "one")
        assert sum("copied_from" in record for record in wanted) >= 4 * 6
        assert records_of(tmp_path / "other") == wanted

    @pytest.mark.parametrize("size", [1, 4])
    def test_after_a_crash_at_every_point_the_same_records_follow(self, size, tmp_path):
        config = sampler_config("tpe", FINITE, 9, parallel_per_study=size)
        studies = STUDIES[:2]
        run_searcher(config, tmp_path / "whole", studies=studies, slots=3)
        wanted = records_of(tmp_path / "whole")
        trained = sum("copied_from" not in record for record in wanted)
        assert trained <= 2 * 3
        for k in range(trained):
            folder = tmp_path / str(k)
            run_searcher(config, folder, studies=studies, slots=3, crash_after=k, shuffle=k)
            run_searcher(config, folder, studies=studies, slots=2, shuffle=k + 1)
            assert records_of(folder) == wanted

    def test_a_copy_that_was_cut_off_is_made_again(self, tmp_path):
        config = sampler_config("random", ONE, 2)
        run_searcher(config, tmp_path, studies=STUDIES[:1])
        wanted = records_of(tmp_path)
        ledger, second = Ledger(tmp_path), STUDIES[0].trial(1)
        begun = {k: v for k, v in ledger.read(second).items() if k != "copied_from"}
        ledger.begin(second, begun)  # the process died between the two writes
        run_searcher(config, tmp_path, studies=STUDIES[:1])
        assert records_of(tmp_path)[1]["copied_from"] == STUDIES[0].trial(0)
        assert [r["metric"] for r in records_of(tmp_path)] == [r["metric"] for r in wanted]

    def test_an_equal_trial_waits_while_the_first_one_runs(self, tmp_path):
        config = sampler_config("random", ONE, 4, parallel_per_study=3)
        searcher = SweepSearcher(STUDIES[:2], config, Ledger(tmp_path))
        first = only_spec(searcher.suggest("a"))
        other = only_spec(searcher.suggest("b"))
        assert (first["number"], other["number"]) == (0, 0)
        assert first["study"] != other["study"], "other studies go on meanwhile"
        assert searcher.suggest("c") is None
        finish_trial(tmp_path, first)
        searcher.on_trial_complete("a", {})
        assert searcher.suggest("c") is None, "the second study still waits"
        assert [r["trial"] for r in records_of(tmp_path) if r["study"] == first["study"]] == [
            STUDIES[0].trial(number) for number in range(4)
        ]
        finish_trial(tmp_path, other)
        searcher.on_trial_complete("b", {})
        assert searcher.suggest("c") == SweepSearcher.FINISHED
        assert len(records_of(tmp_path)) == 8

    def test_what_is_equal_to_a_lost_trial_is_left_to_a_resume(self, tmp_path):
        config = sampler_config("random", ONE, 2, parallel_per_study=2)
        searcher = SweepSearcher(STUDIES[:1], config, Ledger(tmp_path))
        for k in range(RETRIES + 1):
            assert only_spec(searcher.suggest(str(k)))["number"] == 0
            searcher.on_trial_complete(str(k), error=True)
        assert searcher.lost == [STUDIES[0].trial(0)]
        assert searcher.suggest("x") == SweepSearcher.FINISHED
        assert [r["status"] for r in records_of(tmp_path)] == ["running"]

    def test_a_loss_that_was_not_finite_is_copied_as_a_failure(self, tmp_path):
        config = sampler_config("random", ONE, 3)
        searcher = SweepSearcher(STUDIES[:1], config, Ledger(tmp_path))
        spec = only_spec(searcher.suggest("a"))
        why = "the loss stopped being finite"
        finish_trial(tmp_path, spec, status="failed", metric=None, metrics={}, error=why)
        searcher.on_trial_complete("a", {})
        assert searcher.suggest("b") == SweepSearcher.FINISHED
        for record in records_of(tmp_path)[1:]:
            assert (record["status"], record["error"]) == ("failed", why)
            assert record["copied_from"] == STUDIES[0].trial(0)

    def test_an_exception_is_not_copied(self, tmp_path):
        """The machine may have caused it, by a lack of memory for example."""
        config = sampler_config("random", ONE, 3)
        searcher = SweepSearcher(STUDIES[:1], config, Ledger(tmp_path))
        spec = only_spec(searcher.suggest("a"))
        finish_trial(
            tmp_path, spec, status="failed", metric=None, metrics={}, traceback="Traceback"
        )
        searcher.on_trial_complete("a", {})
        spec = only_spec(searcher.suggest("b"))
        assert spec["number"] == 1
        finish_trial(tmp_path, spec)
        searcher.on_trial_complete("b", {})
        assert searcher.suggest("c") == SweepSearcher.FINISHED
        copied = [record.get("copied_from") for record in records_of(tmp_path)]
        assert copied == [None, None, STUDIES[0].trial(1)]

    def test_the_sampler_is_told_the_copied_result(self, tmp_path):
        """Later suggestions are the same as after a training with this result."""
        config = sampler_config("tpe", FINITE, 9)
        run_searcher(config, tmp_path, studies=STUDIES[:1])
        search = StudySearch(STUDIES[0], config)
        assert sum("copied_from" in record for record in records_of(tmp_path)) >= 6
        for record in records_of(tmp_path):
            assert search.ask(record["number"]) == record["params"]
            search.tell(record["number"], record["params"], objective_values(record, config))

    def test_equal_trials_of_other_studies_are_trained(self, tmp_path):
        config = sampler_config("random", ONE, 2)
        run_searcher(config, tmp_path)
        trained = [r for r in records_of(tmp_path) if "copied_from" not in r]
        assert [r["study"] for r in trained] == sorted(study.id for study in STUDIES)

    def test_a_grid_has_equal_points_where_a_setting_plays_no_part(self, tmp_path):
        space = {
            **FINITE,
            "training.epochs": {"type": "categorical", "choices": [0, 1]},
        }
        run_searcher(make_config(space, sampler="grid"), tmp_path, studies=STUDIES[:1])
        epochs = [
            r["settings"]["training"]["epochs"]
            for r in records_of(tmp_path)
            if "copied_from" not in r
        ]
        assert sorted(epochs) == [0, 1, 1, 1]

    def test_a_disk_that_is_full_stops_the_sweep_with_its_reason(self, tmp_path, monkeypatch):
        config = sampler_config("random", ONE, 2)
        searcher = SweepSearcher(STUDIES[:1], config, Ledger(tmp_path))
        spec = only_spec(searcher.suggest("a"))
        finish_trial(tmp_path, spec)
        searcher.on_trial_complete("a", {})

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Ledger, "begin", full)
        assert searcher.suggest("b") == SweepSearcher.FINISHED
        assert "No space left" in searcher.stopped
        assert not searcher.exhausted


def test_a_time_budget_starts_no_trial_after_it_and_a_resume_goes_on(tmp_path):
    """Trials take 6 seconds, so two of them start within 10; a resume has 10 seconds again."""
    now = 0.0

    def run_until_the_end(folder, **search) -> SweepSearcher:
        nonlocal now
        config = sampler_config("tpe", FLAT, 5, **search)
        searcher = SweepSearcher(STUDIES[:1], config, Ledger(folder), clock=lambda: now)
        while (suggestion := searcher.suggest("t")) != SweepSearcher.FINISHED:
            spec = only_spec(suggestion)
            now += 6.0
            finish_trial(
                folder, spec, metrics={"val_accuracy": score(spec["study"], spec["params"])}
            )
            searcher.on_trial_complete("t", {})
        return searcher

    limited = tmp_path / "limited"
    for ended in (2, 4, 5):
        searcher = run_until_the_end(limited, time_budget=10.0)
        assert len(records_of(limited)) == ended
        assert searcher.is_out_of_time == (ended < 5)
        assert searcher.exhausted == (ended == 5)
    assert not run_until_the_end(tmp_path / "free").is_out_of_time
    assert records_of(limited) == records_of(tmp_path / "free")
