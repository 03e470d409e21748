"""Reports of sweeps that are half done, of old folders, and of ladders that stopped too early."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.reading import load_experiment
from tests.support.reports import make_folder


def changed(folder: Path, **network: str) -> None:
    """Give the first network of a folder's configuration other settings."""
    path = folder / "config.resolved.yml"
    config = yaml.safe_load(path.read_text())
    config["networks"][0].update(network)
    path.write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.parametrize("measured", [False, True])
def test_a_sweep_that_is_half_done_has_no_shape_yet(tmp_path, measured):
    folder = make_folder(
        tmp_path / "half", losses=("task",), crossed=False, ended=8, tables=False, measured=measured
    )
    (found,) = derive_findings(load_experiment(folder), chance=0.1).verdicts
    assert (found.label, found.withheld) == ("unclear", "gaps")
    assert any("8 of 16 cells have not been run" in note for note in found.notes)


def test_layers_chosen_in_the_configuration_are_all_that_is_planned(tmp_path):
    folder = make_folder(tmp_path / "some", losses=("task",), crossed=False, tables=True)
    results = pd.read_parquet(folder / "results.parquet")
    results[(results["sender_layer"] != 1) & (results["receiver_layer"] != 1)].to_parquet(
        folder / "results.parquet"
    )
    ledger = folder / "ledger"
    assert ledger.is_dir()
    ledger.rename(tmp_path / "elsewhere")
    path = folder / "config.resolved.yml"
    config = yaml.safe_load(path.read_text())
    config["pairs"][0] |= {"sender_layers": [0, 2, 3], "receiver_layers": [0, 2, 3]}
    path.write_text(yaml.safe_dump(config))
    (found,) = derive_findings(load_experiment(folder), chance=0.1).verdicts
    assert found.withheld is None
    assert found.label == "triangle"


def test_an_old_folder_gets_its_kinds_of_networks_from_the_configuration(tmp_path):
    folder = make_folder(tmp_path / "old", losses=("task",), crossed=False)
    path = folder / "results.parquet"
    results = pd.read_parquet(path).drop(columns=["sender_kind", "receiver_kind"], errors="ignore")
    results.to_parquet(path)
    changed(folder, weights="random")
    experiment = load_experiment(folder)
    assert set(experiment.results["sender_kind"]) == {"random"}
    (found,) = derive_findings(experiment, chance=0.1).verdicts
    assert found.control == "untrained_sender"
    (folder / "config.resolved.yml").unlink()
    experiment = load_experiment(folder)
    assert any("which networks are untrained" in note for note in experiment.folder_notes)


def test_a_ladder_of_unconverged_matrices_says_why_there_is_nothing_on_it(tmp_path):
    cells = tuple((i, j) for i in range(4) for j in range(4))
    folder = make_folder(
        tmp_path / "early",
        pairs=(("a", "b"), ("a", "c")),
        losses=("task",),
        crossed=False,
        measured=True,
        unconverged=cells,
    )
    path = folder / "measured" / "networks.parquet"
    networks = pd.read_parquet(path)
    networks["parameters"] = range(1000, 1000 + len(networks))
    networks.to_parquet(path)
    found = derive_findings(load_experiment(folder))
    assert {v.withheld for v in found.verdicts} == {"unconverged"}
    assert any("the ladder over parameters could not be computed: for every matrix, most "
               "stitches did not converge" in note for note in found.notes)  # fmt: skip
