"""A sweep with all controls."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.support.networks_controls import ALL
from tests.support.sweeps import figures, run, write_config


@pytest.mark.long
def test_a_sweep_with_all_controls(tmp_path):
    pairs = [
        {"sender": "a", "receiver": "b", "sender_layers": [0, 4], "receiver_layers": [4]},
        {"sender": "b", "receiver": "b", "sender_layers": [4], "receiver_layers": [4]},
    ]
    path = write_config(
        tmp_path / "sweep",
        tmp_path / "zoo",
        pairs=pairs,
        controls=ALL,
        search={"cross": {"loss": [{"task": 1.0}, {"mse": 1.0}]}},
    )
    status, output = run("sweep", path)
    assert status == 0, output
    folder = path.parent
    results = pd.read_parquet(folder / "results.parquet")
    assert set(results["status"]) == {"finished"}
    # Each pair has its cells, the same cells for four controls, and the image.
    assert len(results) == 2 * ((2 * 5 + 1) + (5 + 1))
    kinds = results.groupby(["sender_kind", "receiver_kind"]).size().to_dict()
    assert kinds == {
        ("trained", "trained"): 2 * (3 + 2),
        ("random", "trained"): 2 * 3,
        ("trained", "random"): 2 * 3,
        ("random", "random"): 2 * 3,
        ("class_only", "trained"): 2 * 3,
    }
    told = results["sender_kind"] == "class_only"
    assert results.loc[told, "sender_accuracy"].isna().all()
    assert results.loc[~told, "sender_accuracy"].notna().all()
    # With enough channels, knowing the class is enough.
    taught = told & (results["loss"] == "task") & (results["sender_layer"] == 4)
    assert results.loc[taught, "test_accuracy"].min() > 0.95
    assert set(results.loc[results["sender_layer"] == -1, "sender"]) == {"a", "b"}

    # The resolved configuration is a valid configuration of the same sweep.
    before = figures(folder)
    (folder / "config.yml").write_text((folder / "config.resolved.yml").read_text())
    status, output = run("sweep", path, "--resume")
    assert status == 0, output
    assert figures(folder) == before
