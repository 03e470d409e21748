"""Results of ended trials in Optuna's studies, and in their journal."""

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from stitch_sweep.plan.objectives import learning_curve
from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.optuna_journal import LiveJournal, write_optuna_journal
from tests.support.curves import make_curves, scheduled_config
from tests.support.searches import STUDIES

STUDY = STUDIES[0]


def record(number, params, curve, status="finished", column="accuracy"):
    path = [
        {"split": split, "step": epoch, "epoch": epoch, "accuracy": value, "loss": 1 - value}
        for epoch, value in enumerate(curve, start=1)
        for split in ("train", "validation")
    ]
    metrics = {"val_accuracy": curve[-1], "val_loss": 1 - curve[-1]}
    return {
        "study": STUDY.id,
        "number": number,
        "params": params,
        "status": status,
        "metrics": metrics if status == "finished" else {},
        "trajectory": path,
    }


def tell_all(search, statuses, curves):
    records = []
    for number, (status, curve) in enumerate(zip(statuses, curves, strict=True)):
        epochs = {"stopped": 2, "failed": 1}.get(status, len(curve))
        records.append(record(number, search.ask(number), curve[:epochs], status))
        search.tell_record(records[-1])
    return records


STATUSES = ["finished", "stopped", "failed", "finished"]


@pytest.mark.parametrize("metric", ["val_accuracy", "val_loss"])
def test_the_learning_curve_is_the_metric_after_each_epoch(metric):
    config = scheduled_config("asha", 4, 4, metric=metric)
    expected = [0.5, 0.75] if metric == "val_accuracy" else [0.5, 0.25]
    ended = record(0, {}, [0.5, 0.75])
    assert learning_curve(ended, config) == expected
    # The value before the first step and values within an epoch are no part of it.
    start = {"split": "validation", "step": 0, "epoch": 0, "accuracy": 0.1, "loss": 0.9}
    first, second = ({**row, "step": 4 * row["step"]} for row in ended["trajectory"][1::2])
    within = {"split": "validation", "step": 6, "epoch": 2, "accuracy": 0.6, "loss": 0.4}
    assert learning_curve({"trajectory": [start, first, within, second]}, config) == expected
    # Nor is an epoch in which the training ended early.
    assert learning_curve({"trajectory": [start, first, within]}, config) == expected[:1]
    assert learning_curve({"trajectory": [start]}, config) == []


def test_a_stopped_trial_is_pruned_with_its_values_for_optuna():
    search = StudySearch(STUDY, scheduled_config("asha", 4, 4))
    curves = make_curves(4)
    tell_all(search, STATUSES, curves)
    trials = search.optuna.trials
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]
    assert trials[1].intermediate_values == {1: curves[1][0], 2: curves[1][1]}
    assert trials[0].intermediate_values == dict(enumerate(curves[0], start=1))
    assert (trials[0].value, trials[1].value) == (curves[0][-1], curves[1][1])


def test_without_a_scheduler_optuna_gets_what_it_got_before():
    search = StudySearch(STUDY, scheduled_config(None, 4, 4))
    tell_all(search, ["finished", "failed"], make_curves(2))
    assert [trial.intermediate_values for trial in search.optuna.trials] == [{}, {}]


def test_the_sampler_learns_from_stopped_trials():
    """TPE counts pruned trials among its start-up trials, and follows their values."""
    sampler = {"name": "tpe", "n_startup_trials": 4}
    suggestions = []
    for levels in ((0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1)):
        search = StudySearch(STUDY, scheduled_config("asha", 8, 1, sampler=sampler))
        tell_all(search, ["stopped"] * 4, [[level] * 9 for level in levels])
        suggestions.append(search.ask(4))
    assert suggestions[0] != suggestions[1]


def test_the_journal_shows_pruned_trials(tmp_path):
    config = scheduled_config("asha", 4, 4)
    records = tell_all(StudySearch(STUDY, config), STATUSES, make_curves(4))
    write_optuna_journal(tmp_path / "optuna.log", [STUDY], records, config)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert [len(trial.intermediate_values) for trial in trials] == [9, 2, 1, 9]


def open_studies(path):
    storage = JournalStorage(JournalFileBackend(str(path)))
    names = optuna.get_all_study_names(storage)
    return {name: optuna.load_study(study_name=name, storage=storage) for name in names}


def test_a_journal_is_complete_after_every_trial(tmp_path):
    """Also after a resume, whatever the killed process left; the lock is Optuna's."""
    path = tmp_path / "optuna.log"
    config = scheduled_config("asha", 4, 4)
    records = tell_all(StudySearch(STUDY, config), STATUSES, make_curves(4))
    said = []
    first = LiveJournal(path, [STUDY], [], config, said.append)
    for count, record in enumerate(records[:2], start=1):
        first.add(record)
        (study,) = open_studies(path).values()
        assert len(study.trials) == count
    path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "optuna.log.lock").symlink_to(path)
    second = LiveJournal(path, [STUDY], iter(records[:2]), config, said.append)
    for record in records[2:]:
        second.add(record)
    (live,) = open_studies(path).values()
    write_optuna_journal(path, [STUDY], records, config)
    (rebuilt,) = open_studies(path).values()
    assert [t.params for t in live.trials] == [t.params for t in rebuilt.trials]
    assert [t.values for t in live.trials] == [t.values for t in rebuilt.trials]
    assert [t.state for t in live.trials] == [t.state for t in rebuilt.trials]
    assert live.metric_names == ["val_accuracy"]
    assert live.user_attrs["study"] == STUDY.id
    assert said == []


def test_studies_have_names_for_people(tmp_path):
    """Studies of one cell differ in their factors and repeats; equal names get a hash."""
    config = scheduled_config("asha", 4, 4)
    studies = [
        Study("a", 4, "b", 2),
        Study("a", 4, "b", 2, repeat=1),
        Study("a", 4, "b", 2, {"loss": {"mse": 1.0}}),
        Study("a", 4, "b", 2, {"loss": {"task": 1}}),
        Study("a", 4, "b", 2, {"loss": {"task": 1.0}}),
    ]
    records = [
        {**record, "study": study.id}
        for study in studies
        for record in tell_all(StudySearch(study, config), ["finished"], make_curves(1))
    ]
    write_optuna_journal(tmp_path / "optuna.log", studies, records, config)
    names = list(open_studies(tmp_path / "optuna.log"))
    assert names[:3] == ["a:4 -> b:2", "a:4 -> b:2, repeat 1", "a:4 -> b:2, loss = mse"]
    assert names[3] != names[4]
    assert all(name.startswith("a:4 -> b:2, loss = task (") for name in names[3:])


def test_a_journal_that_can_not_be_written_stops_no_sweep(tmp_path):
    config = scheduled_config("asha", 4, 4)
    records = tell_all(StudySearch(STUDY, config), ["finished"] * 2, make_curves(2))
    said = []
    journal = LiveJournal(tmp_path / "gone" / "optuna.log", [STUDY], [], config, said.append)
    for record in records:
        journal.add(record)
    (note,) = said
    assert "optuna.log is not written until the end of the sweep" in note


def test_a_journal_can_be_turned_off(tmp_path):
    config = scheduled_config("asha", 4, 4)
    config.search.journal = False
    (record, *_) = tell_all(StudySearch(STUDY, config), ["finished"], make_curves(1))
    LiveJournal(tmp_path / "optuna.log", [STUDY], [record], config, print).add(record)
    write_optuna_journal(tmp_path / "optuna.log", [STUDY], [record], config)
    assert list(tmp_path.iterdir()) == []
