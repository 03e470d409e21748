"""Matrices in CSV files."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from stitch_sweep.analysis.matrix.files import read_matrix, write_matrix
from stitch_sweep.core.errors import InputError
from tests.support.paths import SHARED
from tests.support.trials import awkward, full


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (17, 17)])
def test_csv_round_trip_keeps_every_bit(shape: tuple[int, int], tmp_path: Path) -> None:
    matrix = full(*shape)
    path = write_matrix(matrix, tmp_path / "matrices")
    pd.testing.assert_frame_equal(read_matrix(path), matrix.values, check_exact=True)
    assert list(path.parent.iterdir()) == [path]


def test_csv_round_trip_of_an_awkward_matrix(tmp_path: Path) -> None:
    matrix = awkward()
    path = write_matrix(matrix, tmp_path)
    assert path.read_text().splitlines()[:2] == ["sender_layer\\receiver_layer,-1,0", "0,,"]
    pd.testing.assert_frame_equal(read_matrix(path), matrix.values, check_exact=True)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/ folder beside the checkout")
@pytest.mark.parametrize(("name", "corner"), [("r1111_r1111", 0.92), ("r1112_r1122", None)])
def test_published_matrices_are_read_with_layers_from_zero(name: str, corner: float | None) -> None:
    values = read_matrix(SHARED / "reference" / f"{name}.csv")
    assert values.index.tolist() == list(range(len(values)))
    assert values.columns.tolist() == list(range(values.shape[1]))
    assert values.map(lambda v: 0 <= v <= 1).all(axis=None)
    if corner is None:
        assert values.shape[0] != values.shape[1]
    else:
        assert values.loc[4, 0] == corner


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"0.1,0.2\n0.3\n", "line 2: 1 cells"),
        (b"0.1,0.2\n0.3,high\n", "line 2: 'high'"),
        (b"0.1,inf\n", "'inf'"),
        (b",0,1\n0,0.1,0.2\n", "top left"),
        (b"sender_layer\\receiver_layer,0\n", "no values"),
        (b"sender_layer\\receiver_layer,0,0\n0,1,1\n", "twice"),
        (b"sender_layer\\receiver_layer,x\n0,1\n", "'x' is not a layer"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "not a readable CSV"),
        (b'"0.1,0.2\n', "not a readable CSV"),
    ],
)
def test_bad_csv_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_matrix(path)


def test_a_missing_csv_file_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="not a readable CSV"):
            read_matrix(path)
