"""Longer trainings of a sample of a sweep's trials."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from stitch_sweep.cli import main as cli
from stitch_sweep.config.reading import read_config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.measuring.longer import Longer, choose_trials, train_longer
from stitch_sweep.measuring.tables import measure
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.training.workbench import Workbench
from tests.support.command_line import everything
from tests.support.measured_sweep import edit


def record(trial: str, loss: str) -> dict:
    cell = {"sender": "a", "sender_layer": 1, "receiver": "b", "receiver_layer": 2, "repeat": 0}
    return {"trial": trial, **cell, "settings": {"loss": {loss: 1.0}}}


def rows(**columns: list) -> pd.DataFrame:
    size = len(columns["gain"])
    return pd.DataFrame({"longer_status": ["finished"] * size, "loss": ["task"] * size, **columns})


def test_a_tenth_of_every_loss_is_chosen_by_the_seed():
    records = {f"t{k}": record(f"t{k}", "mse" if k % 5 == 0 else "task") for k in range(50)}
    chosen = choose_trials(records, 0.1, seed=0)
    losses = [next(iter(records[trial]["settings"]["loss"])) for trial in chosen]
    assert sorted(losses) == ["mse"] + ["task"] * 4
    shuffled = dict(sorted(records.items(), reverse=True))
    assert sorted(choose_trials(shuffled, 0.1, seed=0)) == sorted(chosen)
    assert set(chosen) < set(choose_trials(records, 0.3, seed=0))
    assert sorted(choose_trials(records, 0.1, seed=1)) != sorted(chosen)
    assert sorted(choose_trials(records, 1.0, seed=0)) == sorted(records)


def test_a_row_is_what_a_training_of_that_length_gives(folder):
    before = everything(folder)
    longer = train_longer(folder, share=0.01, times=3)
    assert sorted(longer.table["loss"]) == ["correlation", "mse", "task"]
    assert longer.notes == []
    config = read_config(folder / "config.resolved.yml")
    prepared = prepare(config)
    bench = Workbench(config, prepared.data, provide_networks(prepared))
    row = longer.table[longer.table["loss"] == "task"].iloc[0]
    record = Ledger(folder).read(row["trial"])
    settings = record["settings"]
    settings["training"]["epochs"] = 6
    training = bench.training(
        *(record[key] for key in ("sender", "sender_layer", "receiver", "receiver_layer")),
        TrialSettings.model_validate(settings),
        record["repeat"],
    )
    while not training.done:
        training.run_epoch()
    metrics = training.finish().metrics
    assert (row["epochs"], row["longer_epochs"]) == (2, 6)
    assert row["longer_val_loss"] == metrics["val_loss"]
    assert row["longer_test_accuracy"] == metrics["test_accuracy"]
    assert row["test_accuracy"] == record["metrics"]["test_accuracy"]
    assert row["gain"] == metrics["accuracy_calibrated"] - record["metrics"]["accuracy_calibrated"]
    written = everything(folder)
    new = {Path(name).name for name in written.keys() - before.keys()} - {"measured"}
    assert new == {"longer.csv", "about.json"}
    assert all(written[name] == content for name, content in before.items())


def test_an_interrupted_call_is_continued(folder, monkeypatch):
    trained = []

    def stop_in_third_trial(task, done, total):
        if done > 2 * total / 3 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_longer(folder, share=0.01, times=2, on_epoch=stop_in_third_trial)
    first = (folder / "measured/longer.csv").read_text().splitlines()
    assert len(first) == 1 + 2

    original = Workbench.training

    def count(bench, *arguments, **options):
        trained.append(arguments)
        return original(bench, *arguments, **options)

    monkeypatch.setattr(Workbench, "training", count)
    longer = train_longer(folder, share=0.01, times=2)
    assert len(trained) == 1
    assert longer.path.read_text().splitlines()[:3] == first
    assert len(longer.table) == 3
    # Rows of another length are not taken over.
    train_longer(folder, share=0.01, times=3)
    assert len(trained) == 4


def test_other_tables_and_this_one_live_beside_each_other(folder):
    train_longer(folder, share=0.01, times=2)
    assert measure(folder, only=["labels"]).written == ["labels"]
    origins = json.loads((folder / "measured/about.json").read_text())["tables"]
    assert set(origins) == {"labels", "longer"}
    assert origins["longer"]["rows"] == 3


def test_the_summary_counts_the_trials_that_gained_by_answer():
    table = rows(
        gain=[0.3, 0.0, 0.021, 0.02, 0.5, None],
        converged=[True, True, False, None, None, True],
    )
    table.loc[5, "longer_status"] = "failed"
    (row,) = Longer(Path("longer.csv"), table, []).summary()
    assert (row["trials"], row["failed"]) == (6, 1)
    assert (row["yes"], row["yes_gained"]) == (2, 1)
    assert (row["no"], row["no_gained"]) == (1, 1)
    assert (row["unknown"], row["unknown_gained"]) == (2, 1)
    assert (row["median_gain"], row["largest_gain"]) == (0.021, 0.5)


@pytest.mark.parametrize("arguments", [{"share": 0.0}, {"share": 1.5}, {"times": 1}])
def test_impossible_arguments_are_refused(folder, arguments):
    with pytest.raises(InputError, match="share must be"):
        train_longer(folder, **arguments)


def test_networks_that_are_missing_are_named(folder):
    edit(folder, zoo=str(folder / "nowhere"))
    (folder / "nowhere").mkdir()
    with pytest.raises(InputError) as caught:
        train_longer(folder)
    assert "no finished trial that can be trained longer" in str(caught.value)
    assert "network b is not available" in str(caught.value)


def test_a_file_of_somebody_else_is_not_replaced(folder):
    (folder / "measured").mkdir()
    (folder / "measured/longer.csv").write_text("mine")
    with pytest.raises(InputError, match="may not be Stitch Sweep's"):
        train_longer(folder)
    assert (folder / "measured/longer.csv").read_text() == "mine"


def test_the_command_prints_a_row_for_every_loss(folder, monkeypatch, capsys):
    options = ["longer", str(folder), "--share", "0.01", "--times", "2"]
    for further in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["stitch-sweep", *options, *further])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        text = capsys.readouterr().out
        if further:
            losses = [row["loss"] for row in json.loads(text)["losses"]]
            assert losses == ["correlation", "mse", "task"]
        else:
            assert "measured/longer.csv" in text.replace("\n", "")
            assert all(loss in text for loss in ("correlation", "mse", "task", "median gain"))
