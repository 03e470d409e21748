"""Layers of one network knocked out, with a stitch in their place."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stitch_sweep.analysis.matrix.judging import judge
from stitch_sweep.analysis.matrix.knock_out import by_removed, gap_matrices, gap_matrix
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.config.knock_out import KnockOutConfig
from stitch_sweep.config.reading import read_config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.data.images import Data
from stitch_sweep.networks.families.building import build
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.sweep.matrix_files import write_analysis
from tests.support.sweeps import SMALL, write_config
from tests.support.train_stitch import train_stitch

A = SMALL["networks"][0]


def square(values: np.ndarray, sender: str = "a", receiver: str = "a") -> Matrix:
    layers = range(len(values))
    table = pd.DataFrame(values, index=layers, columns=layers)
    return Matrix.bare(table, sender, receiver, receiver_accuracy=0.9)


def above(layers: int) -> np.ndarray:
    """Return a different number in each cell above the diagonal, and NaN elsewhere."""
    values = np.arange(layers**2, dtype=float).reshape(layers, layers) / layers**2
    return np.where(np.triu(np.ones((layers, layers)), 1) > 0, values, np.nan)


def places(least: int) -> st.SearchStrategy:
    return st.one_of(st.just("all"), st.lists(st.integers(least, 8), min_size=1, max_size=4))


@given(places(0), places(1), st.integers(1, 8))
def test_the_cells_are_what_is_left_of_the_layers(first, removed, last):
    """The layers before the stitch, the removed layers and the layers after it are all layers."""
    cells = KnockOutConfig(network="a", first=first, removed=removed).cells(last)
    for before, after in cells:
        gone = set(range(before + 1, after + 1))
        assert first == "all" or min(gone) in first
        assert removed == "all" or len(gone) in removed
        assert gone <= set(range(last + 1))
        assert before == min(gone) - 1
    if first != "all" and 0 in first and removed == "all":
        assert {(-1, after) for after in range(last + 1)} <= set(cells)
    if first == removed == "all":
        assert set(cells) == set(itertools.combinations(range(last + 1), 2))


def test_a_layer_that_does_nothing_can_be_replaced_by_the_identity(digits: Data):
    """A residual block whose branch is 0 returns its input, which is at least 0 after a ReLU."""
    seed_everything(0, threads=1)
    network = build("resnet", 1, 10, {"blocks": [2, 1, 1, 1], "width": 4}).eval()
    idle = network.get_submodule("layer1.1")
    torch.nn.init.zeros_(idle.bn2.weight)
    torch.nn.init.zeros_(idle.bn2.bias)
    [(before, after)] = KnockOutConfig(network="a", first=[2], removed=[1]).cells(5)
    settings = TrialSettings.model_validate({"stitch": {"name": "identity"}})
    result = train_stitch(
        network, network, sender_layer=before, receiver_layer=after, data=digits, settings=settings
    )
    assert result.metrics["penalty"] == 0
    busy = train_stitch(
        network, network, sender_layer=0, receiver_layer=1, data=digits, settings=settings
    )
    assert busy.metrics["test_loss"] != result.metrics["test_loss"]


@given(st.integers(2, 7))
def test_a_gap_matrix_holds_every_cell_above_the_diagonal_once(layers):
    matrix = square(above(layers))
    gaps = gap_matrix(matrix)
    assert gaps.kind == "knock-out"
    for first, removed in itertools.product(gaps.values.index, gaps.values.columns):
        last = first + removed - 1
        expected = matrix.values.loc[first - 1, last] if last < layers else np.nan
        np.testing.assert_equal(gaps.values.loc[first, removed], expected)
    assert gaps.values.count().sum() == layers * (layers - 1) // 2
    assert gaps.file_name != matrix.file_name


def test_only_a_network_that_lost_layers_has_a_gap_matrix():
    full = square(np.full((3, 3), 0.5))
    found = [full, square(above(3)), square(above(3), receiver="b")]
    assert [m.values.index.name for m in gap_matrices(found)] == ["first_layer"]
    assert gap_matrix(full).values.loc[1, 2] == 0.5, "it can be made of any self-pair"
    assert list(gap_matrices([full, found[2]], knocked_out={"b"})) == [], "of another network"
    (asked,) = gap_matrices([full], knocked_out={"a"})
    assert asked.kind == "knock-out"
    assert asked.values.loc[1, 2] == 0.5
    assert list(gap_matrices([square(np.ones((1, 1)))], knocked_out={"a"})) == []
    for wrong in (found[2], square(np.ones((1, 1)))):
        with pytest.raises(ValueError, match="has no layers knocked out"):
            gap_matrix(wrong)


def test_marks_go_with_their_cells():
    matrix = square(above(3))
    matrix.values.loc[0, 2] = np.nan
    matrix.failed.loc[0, 2] = True
    matrix.converged.loc[1, 2] = False
    gaps = gap_matrix(matrix)
    assert gaps.failed.stack()[lambda failed: failed].index.tolist() == [(1, 2)]
    assert gaps.unconverged.stack()[lambda marked: marked].index.tolist() == [(2, 1)]


def test_what_is_kept_by_number_of_layers():
    values = np.full((4, 4), np.nan)
    values[0, 1], values[1, 2], values[2, 3] = 0.9, 0.5, 0.7
    values[0, 2], values[1, 3] = 0.4, 0.2
    kept = by_removed(gap_matrix(square(values))).set_index("layers_removed")
    assert kept.loc[1].to_dict() == pytest.approx(
        {"mean": 0.7, "lowest": 0.5, "highest": 0.9, "lowest_first": 2}
    )
    assert kept.loc[2, "lowest_first"] == 2
    assert list(kept.index) == [1, 2]


def test_no_shape_is_claimed_of_it():
    verdict = judge(square(above(5)), chance=0.1)
    assert (verdict.label, verdict.withheld) == ("unclear", "gaps")
    assert "layers were knocked out: the gap matrix shows the loss of accuracy" in verdict.notes


@pytest.mark.parametrize(
    ("knock_out", "message"),
    [
        ({"network": "c"}, "knock_out[0].network: no network is named 'c': allowed: a"),
        (
            {"network": "a", "first": [-1]},
            "knock_out[0].first: expected 'all' or a list of whole numbers",
        ),
        (
            {"network": "a", "removed": "one"},
            "knock_out[0].removed: expected 'all' or a list of whole",
        ),
        (
            {"network": "a", "first": [5]},
            "knock_out[0].first: a has layers 0 (the stem) to 4 to remove, not 5",
        ),
        (
            {"network": "a", "removed": [2, 9]},
            "knock_out[0].removed: a has at most 4 removable layers, not 9",
        ),
        (
            {"network": "a", "first": [0, 1], "removed": [5, 6]},
            "knock_out[0].removed: a has at most 5 removable layers, not 6",
        ),
        ({"network": "a", "first": [4], "removed": [2]}, "knock_out[0].removed: a ends at layer 4"),
        ({"network": "a", "frist": [1]}, "knock_out[0].frist: unknown key: did you mean 'first'?"),
    ],
)
def test_what_can_not_be_taken_out_is_said(tmp_path, knock_out, message):
    path = write_config(tmp_path, tmp_path / "zoo", networks=[A], pairs=[], knock_out=[knock_out])
    with pytest.raises(InputError) as error:
        prepare(read_config(path))
    assert any(message in problem for problem in error.value.problems), error.value.problems


def test_a_configuration_needs_pairs_or_layers_to_knock_out(tmp_path):
    path = write_config(tmp_path, tmp_path / "zoo", pairs=[])
    with pytest.raises(InputError, match=r"pairs: is missing; set pairs, knock_out or parts"):
        read_config(path)


def test_a_network_that_knows_only_the_class_has_none(tmp_path):
    only = {**A, "name": "c", "weights": "class_only"}
    path = write_config(
        tmp_path, tmp_path / "zoo", networks=[A, only], pairs=[], knock_out=[{"network": "c"}]
    )
    with pytest.raises(
        InputError, match=r"knock_out\[0\].network: 'c' is a control that only sends"
    ):
        read_config(path)


def test_a_description_without_it_is_what_it_was(tmp_path):
    config = read_config(write_config(tmp_path, tmp_path / "zoo"))
    assert "knock_out" not in config.model_dump()


def test_a_cell_of_a_pair_is_run_once(tmp_path):
    pair = {"sender": "a", "receiver": "a"}
    whole = read_config(write_config(tmp_path, tmp_path / "zoo", networks=[A], pairs=[pair]))
    both = read_config(
        write_config(
            tmp_path, tmp_path / "zoo", networks=[A], pairs=[pair], knock_out=[{"network": "a"}]
        )
    )
    assert {s.id for s in prepare(both).studies} == {s.id for s in prepare(whole).studies}


def test_what_was_asked_for_decides_whether_a_gap_matrix_is_written(tmp_path):
    row = {"receiver": "a", "sender": "a", "repeat": 0, "number": 0, "status": "finished"}
    row |= {"val_accuracy": 0.5, "test_accuracy": 0.5, "penalty": 0.1, "converged": True}
    row |= {"sender_accuracy": 0.9, "receiver_accuracy": 0.9, "loss": "task"}
    cells = itertools.product(range(3), repeat=2)
    results = pd.DataFrame(
        [
            {**row, "trial": f"{i}-{j}", "sender_layer": i, "receiver_layer": j, "error": None}
            for i, j in cells
        ]
    )
    write_analysis(tmp_path, results)
    gaps = tmp_path / "matrices" / "a__a__knock-out.csv"
    assert not gaps.exists()
    write_analysis(tmp_path, results, knocked_out={"a"})
    assert gaps.exists()
