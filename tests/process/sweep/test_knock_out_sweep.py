"""A sweep over the layers that are knocked out of a network."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from stitch_sweep.analysis.matrix.files import read_matrix
from stitch_sweep.core.errors import InputError
from tests.support.sweeps import SMALL, run, write_config

A = SMALL["networks"][0]


def test_a_sweep_over_which_layers_and_how_many(tmp_path):
    path = write_config(
        tmp_path,
        tmp_path / "zoo",
        networks=[A],
        pairs=[],
        knock_out=[{"network": "a", "first": [1, 2, 4], "removed": [1, 2]}],
        search={},
        training={"epochs": 1, "batch_size": 64},
        stitch={"name": "paper", "start": "least_squares"},
    )
    status, text = run("sweep", path)
    assert status == 0
    assert "a, layers knocked out" in text
    assert "first  layers removed" in text
    results = pd.read_parquet(tmp_path / "results.parquet")
    cells = results[["sender_layer", "receiver_layer"]].apply(tuple, axis=1)
    assert sorted(cells) == [(0, 1), (0, 2), (1, 2), (1, 3), (3, 4)]
    gaps = pd.read_csv(tmp_path / "matrices" / "a__a__knock-out.csv", index_col=0)
    by_cell = results.set_index(["sender_layer", "receiver_layer"])["test_accuracy"]
    assert gaps.loc[2, "2"] == by_cell[1, 3]
    assert np.isnan(gaps.loc[4, "2"])
    with pytest.raises(InputError):
        read_matrix(tmp_path / "matrices" / "a__a__knock-out.csv")

    status, text = run("analyze", tmp_path)
    assert status == 0
    assert "a, layers knocked out: a stitch in place of some layers keeps" in " ".join(text.split())
    page = (tmp_path / "report.html").read_text()
    assert "Layers knocked out" in page
    kept = pd.read_csv(tmp_path / "tables" / "knock_out.csv")
    assert kept["layers_removed"].tolist() == [1, 2]
    assert (tmp_path / "figures" / "a__a__knock-out__value-accuracy_calibrated.png").is_file()
    config = yaml.safe_load((tmp_path / "config.resolved.yml").read_text())
    assert config["knock_out"][0]["first"] == [1, 2, 4]
    assert json.loads((tmp_path / "summary.json").read_text())
