"""Verdicts on all matrices of a sweep."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from stitch_sweep.analysis.matrix.sweep_verdicts import verdicts
from stitch_sweep.analysis.matrix.uncertainty import (
    BINOMIAL,
    IMAGES,
)
from stitch_sweep.core.errors import InputError
from tests.support.matrices import (
    FULL,
    NOTHING,
    TRIANGLE,
    SweepTables,
    planned_cells,
    step,
)


def test_a_sweep_is_judged_by_its_predictions():
    sweep = SweepTables()
    sweep.network("a")
    sweep.network("b")
    sweep.matrix("a", "b", step(TRIANGLE))
    found = sweep.judge()["a", "b"]
    assert (found.label, found.control, found.chance) == ("triangle", None, 0.1)
    assert found.intervals["triangle"].method == IMAGES
    # The band has right what the better network has: nothing about it is uncertain.
    assert found.intervals["diagonal"].low == pytest.approx(0, abs=1e-6)
    assert not any("held fixed" in note for note in found.notes)


def test_without_the_networks_own_predictions_their_accuracy_is_held_fixed():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE))
    assert any("held fixed" in note for note in sweep.judge()["a", "b"].notes)


def test_repeats_are_averaged_image_by_image():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE))
    sweep.matrix("a", "b", step(FULL), repeat=1)
    found = sweep.judge()["a", "b"]
    assert found.parameters.upper == pytest.approx((0.25 + 1) / 2)
    assert found.intervals["triangle"].method == IMAGES
    assert any("2 repeats of the same networks" in note for note in found.notes)


def test_a_calibrated_accuracy_that_predictions_do_not_give_falls_back_to_counts():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(NOTHING))
    for row in sweep.rows:
        row["accuracy_calibrated"] = row["val_accuracy"] + 0.3
    found = sweep.judge()["a", "b"]
    assert found.matrix.value_name == "accuracy_calibrated"
    assert found.intervals["triangle"].method == BINOMIAL
    assert any("raw accuracy and not for the calibrated accuracy" in note for note in found.notes)


def test_without_all_calibrated_accuracies_all_pairs_are_judged_by_the_raw_ones():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE), accuracy_calibrated=math.nan)
    sweep.matrix("b", "a", step(FULL))
    found = sweep.judge()
    # Of one combination of factors no two pairs are judged by different columns.
    assert {v.matrix.value_name for v in found.values()} == {"test_accuracy"}
    asked = sweep.judge(value="val_accuracy")
    assert {v.matrix.value_name for v in asked.values()} == {"val_accuracy"}


def test_labels_of_other_images_are_noticed():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE))
    with pytest.raises(InputError, match="400 test images, but there are 399"):
        sweep.judge(labels=sweep.truth[:-1])
    with pytest.raises(InputError, match="belong to one sweep"):
        sweep.judge(labels=(sweep.truth + 1) % 10, value="test_accuracy")


def test_chance_comes_from_the_classes_or_has_to_be_given():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE))
    assert sweep.judge()["a", "b"].chance == pytest.approx(0.1)
    assert sweep.judge(chance=0.05)["a", "b"].chance == 0.05
    with pytest.raises(InputError, match="chance"):
        verdicts(sweep.results)
    sweep.network("a", classes=10)
    sweep.network("b", classes=100)
    with pytest.raises(InputError, match="10 and 100 classes"):
        sweep.judge()


def test_depth_is_that_of_the_whole_network_where_it_is_known():
    sweep = SweepTables()
    part = step(TRIANGLE).loc[[0, 1, 2], [0, 1, 2]]
    sweep.matrix("a", "b", part)
    sweep.network("a")
    sweep.network("b")
    found = sweep.judge()["a", "b"]
    assert found.parameters.cells == {"lower": 3, "band": 3, "upper": 3}
    assert any("only 3 of the sender's 5 layers" in note for note in found.notes)


def test_a_table_without_kinds_is_of_trained_networks():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE))
    for row in sweep.rows:
        del row["sender_kind"], row["receiver_kind"], row["accuracy_calibrated"]
    found = sweep.judge()["a", "b"]
    assert found.control is None
    assert any("no file records whether a and b are trained" in note for note in found.notes)
    sweep.network("a", weights="random")
    sweep.network("b")
    found = sweep.judge()["a", "b"]
    assert found.control == "untrained_sender"
    assert not any("no file records" in note for note in found.notes)


def test_layers_that_no_trial_has_reached_are_missing_from_the_plan():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE).loc[:2, :2])
    assert sweep.judge()["a", "b"].label == "triangle"
    found = sweep.judge(planned=planned_cells("a", "b", range(5)))["a", "b"]
    assert (found.label, found.withheld, found.sound) == ("unclear", "gaps", False)
    assert any("16 of 25 cells have not been run" in note for note in found.notes)
    assert found.matrix.values.shape == (5, 5)
    assert found.parameters.cells == {"lower": 3, "band": 3, "upper": 3}


def test_layers_chosen_on_purpose_are_not_missing():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE).loc[[0, 2, 4], [0, 2, 4]])
    sweep.network("a")
    sweep.network("b")
    found = sweep.judge(planned=planned_cells("a", "b", [0, 2, 4]))["a", "b"]
    assert (found.label, found.withheld) == ("triangle", None)
    with pytest.raises(InputError, match="planned: there is no column sender_layer"):
        sweep.judge(planned=planned_cells("a", "b", [0]).drop(columns="sender_layer"))


def test_a_linear_probe_on_the_sender_is_part_of_the_verdict():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE))
    sweep.matrix("a-untrained", "b", step(NOTHING), sender_kind="random")
    table = pd.DataFrame(
        {"network": "a", "layer": range(-1, 4), "test_accuracy": [0.2, 0.3, 0.5, 0.86, 0.9]}
    )
    found = sweep.judge(probes=table)
    (note,) = [note for note in found["a", "b"].notes if "linear probe" in note]
    assert "0.25, 0.50, 0.95 and 1.00 on the sender's layers 0, 1, 2 and 3" in note
    assert "from layer 2 on" in note
    assert not any("probe" in note for note in found["a-untrained", "b"].notes)
    (note,) = [
        note for note in sweep.judge(probes=table[:4])["a", "b"].notes if "linear probe" in note
    ]
    assert "from layer 2 on" in note
    (note,) = [
        note for note in sweep.judge(probes=table[:3])["a", "b"].notes if "linear probe" in note
    ]
    assert "not linearly readable" in note
