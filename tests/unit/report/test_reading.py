"""Reading experiment folders: complete, unfinished, damaged and foreign ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from stitch_sweep.core.errors import InputError
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.storage.ledger import Ledger
from tests.support.report_pages import doubts_of, edit, read, write
from tests.support.reports import make_folder


def test_a_half_finished_sweep_gives_a_report_that_says_so(tmp_path):
    folder = make_folder(tmp_path / "sweep", ended=9, tables=False)
    notes = " ".join(doubts_of(folder))
    assert "results.parquet does not exist yet" in notes
    assert "9 of 32 trials have ended" in notes
    assert len(load_experiment(folder).results) == 9
    assert "9 of 32 trials have ended" in " ".join(read(folder).text)


def test_trials_that_conditions_left_out_are_named_and_are_not_for_a_resume(tmp_path):
    folder = make_folder(tmp_path / "sweep", ended=9)
    ledger = Ledger(folder)
    ledger.start({**ledger.description(), "left_out": {"trials": 20, "patience": 3}})
    notes = " ".join(doubts_of(folder))
    assert "search.stop left out 23 of 32 trials: 20 by trials, 3 by patience." in notes
    assert "is not complete" not in notes
    assert "search.stop left out 23 of 32 trials" in " ".join(read(folder).text)
    ledger.start({**ledger.description(), "left_out": {"patience": 3}})
    notes = " ".join(doubts_of(folder))
    assert "left out 3 of 32 trials" in notes
    assert "is not complete: 9 of 32 trials have ended" in notes


def test_a_table_behind_its_ledger_is_not_used(folder):
    results = pd.read_parquet(folder / "results.parquet")
    results.iloc[:5].to_parquet(folder / "results.parquet")
    assert len(load_experiment(folder).results) == len(results)


def test_ledgers_alone_are_enough(tmp_path):
    folder = make_folder(tmp_path / "sweep", tables=False)
    assert len(load_experiment(folder).predictions) == len(Ledger(folder).trial_ids())


def swap_config(folder, name):
    path = folder / "config.resolved.yml"
    config = yaml.safe_load(path.read_text())
    config["networks"][0]["name"] = name
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (
            lambda f: [p.unlink() for p in f.rglob("*") if p.is_file()],
            "neither results.parquet nor",
        ),
        (
            lambda f: pd.DataFrame({"x": [1]}).to_parquet(f / "results.parquet"),
            r"results.parquet: missing columns: trial, sender.*is it a sweep's",
        ),
        (lambda f: (f / "results.parquet").write_bytes(b"PAR1 no"), "not a readable parquet table"),
        (lambda f: swap_config(f, "other"), "has a, which config.resolved.yml doesn't name"),
        (
            lambda f: (f / "ledger/trials").rename(f / "t") and None,
            "trials that the ledger lacks",
        ),
        (lambda f: edit(f, lambda t: pd.concat([t, t.iloc[:1]])), "is in results.parquet twice"),
        (
            lambda f: edit(f, lambda t: t.assign(sender_accuracy=np.linspace(0.5, 0.9, len(t)))),
            "network a has test accuracies from 0.5000 to 0.9000",
        ),
    ],
)
def test_a_bad_folder_ends_with_a_plain_message(folder, spoil, problem):
    spoil(folder)
    with pytest.raises(InputError, match=problem):
        write(folder)
    assert not (folder / "report.html").exists()


def test_every_bad_folder_is_named_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        write(tmp_path / "empty", tmp_path / "nowhere")
    assert len(caught.value.problems) == 2


def test_a_sweep_without_an_ended_trial_is_refused(tmp_path):
    folder = make_folder(tmp_path / "sweep", ended=0, tables=False)
    with pytest.raises(InputError, match="none of its 32 trials has ended yet"):
        write(folder)


def test_foreign_tables_beside_the_results_are_left_out_and_named(tmp_path):
    folder = make_folder(tmp_path / "sweep", measured=True, sanity=True)
    pd.DataFrame({"x": [1]}).to_parquet(folder / "measured" / "networks.parquet")
    (folder / "measured" / "images.safetensors").write_bytes(b"no")
    (folder / "sanity.json").write_text('{"checks": [1]}')
    (folder / "traj.parquet").unlink()
    experiment = load_experiment(folder)
    notes = " ".join(experiment.notes)
    assert "measured/networks.parquet lacks columns" in notes
    assert "images.safetensors" in notes
    assert "sanity.json was not written by" in notes
    assert "traj.parquet is missing" in notes
    assert experiment.table("networks") is None
    assert len(read(folder).data["groups"]) == 1


def test_measured_tables_of_an_earlier_state_are_told(tmp_path):
    folder = make_folder(tmp_path / "sweep", measured=True)
    (folder / "measured" / "about.json").write_text('{"trials": 3}')
    assert (
        "measured/ was computed when 3 trials had ended; now 32 have"
        in load_experiment(folder).notes
    )


def test_a_sweep_that_trained_nothing_lacks_no_trajectories(tmp_path):
    folder = make_folder(tmp_path / "closed", losses=("mse",), crossed=False)
    trajectories = pd.read_parquet(folder / "traj.parquet")
    trajectories[["trial"]].head(0).to_parquet(folder / "traj.parquet")
    experiment = load_experiment(folder)
    assert experiment.trajectories is None
    assert not any("traj.parquet" in note for note in experiment.notes)
