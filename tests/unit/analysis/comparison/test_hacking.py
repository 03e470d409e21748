"""Cells that perform well through another representation."""

from __future__ import annotations

import pandas as pd
import pytest

from stitch_sweep.analysis.comparison.hacking import hacking
from stitch_sweep.core.errors import InputError
from tests.support.comparisons import failed, table, trial


def test_hacking_is_to_perform_through_another_representation():
    found = hacking(
        table(
            trial(0, 0, accuracy=0.85, val_relative_mse=1.5),  # well and far
            trial(0, 1, accuracy=0.85, val_relative_mse=0.2),  # well and near
            trial(1, 0, accuracy=0.30, val_relative_mse=3.0),  # far, but not well
            trial(1, 1, accuracy=0.85, val_relative_mse=None),
            trial(0, 0, "mse", accuracy=0.60, val_relative_mse=0.3),
            failed(2, 2),
        ),
        chance=0.1,
    )
    task = found[found["loss"] == "task"].set_index(["sender_layer", "receiver_layer"])
    # The receiver's 0.9 is the better of the two.
    assert task["rescaled"].to_list() == pytest.approx([0.75 / 0.8, 0.75 / 0.8, 0.25, 0.75 / 0.8])
    assert task["hacking"].tolist()[:3] == [True, False, False]
    assert pd.isna(task.loc[(1, 1), "hacking"])
    assert task["well"].tolist() == [True, True, False, True]
    assert (task.loc[(0, 0), "nearest"], task.loc[(0, 0), "nearest_loss"]) == (0.3, "mse")
    assert task.loc[(0, 1), "nearest_loss"] == "task"
    assert len(found) == 5


def test_where_distance_counts_backwards():
    """CKA says near where it is large."""
    rows = [trial(j=0, val_cka=0.1), trial(j=1, val_cka=0.9), trial(j=0, loss="mse", val_cka=0.7)]
    found = hacking(table(*rows), chance=0.1, measure="val_cka", far=0.5, well=0.5)
    assert found["hacking"].tolist() == [False, True, False]
    assert found["nearest"].tolist() == [0.7, 0.7, 0.9]
    with pytest.raises(InputError, match="val_cka"):
        hacking(table(trial()), chance=0.1, measure="val_cak")


def test_a_distance_in_front_of_the_calibration_is_no_distance():
    """Correlation leaves scale and shift to chance: its raw error of 5 means nothing."""
    rows = [
        trial(0, 0, "correlation", trial="c", accuracy_raw=0.1, val_relative_mse=5.0),
        trial(0, 1, "correlation", trial="d", val_relative_mse=5.0),
        trial(0, 0, "mse", trial="m", val_relative_mse=2.0),
    ]
    found = hacking(table(*rows), chance=0.1, well=0.5).set_index("trial")
    assert found["far"].isna().to_dict() == {"c": True, "d": True, "m": False}
    assert found.loc["c", "nearest_loss"] == "mse"
    behind = pd.DataFrame(
        {"similarity_trial": ["c", "d"], "es": [0.2, 0.9], "es_relative": [0.4, 1.8]}
    )
    found = hacking(table(*rows), chance=0.1, well=0.5, representations=behind).set_index("trial")
    assert found["val_relative_mse"].to_dict() == {"c": 0.4, "d": 1.8, "m": 2.0}
    assert found["hacking"].to_dict() == {"c": False, "d": True, "m": True}


def test_no_cell_performs_well_where_the_networks_do_not():
    rows = [trial(sender_accuracy=0.12, receiver_accuracy=0.15, val_relative_mse=2.0)]
    found = hacking(table(*rows), chance=0.1)
    assert found["rescaled"].isna().all()
    assert found["hacking"].isna().all()
    rows = [trial(sender_accuracy=None, receiver_accuracy=0.8, val_relative_mse=2.0)]
    assert hacking(table(*rows), chance=0.1)["hacking"].tolist() == [True]
