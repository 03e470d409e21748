"""Means by region."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stitch_sweep.analysis.comparison.losses import loss_table
from stitch_sweep.analysis.comparison.regional import regional
from stitch_sweep.analysis.matrix.order_parameters import regions
from stitch_sweep.core.errors import InputError
from tests.support.comparisons import table, trial


def representations(size: int, value: Any) -> pd.DataFrame:
    rows = [
        {"sender": "a", "receiver": "b", "sender_layer": i, "receiver_layer": j, "repeat": repeat,
         "similarity_loss": "mse", "ev": value(i, j), "es": 0.0, "sv": 1.0 + repeat}
        for i in range(-1, size) for j in range(size) for repeat in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_regions_are_averaged_apart():
    """Below, in and above the diagonal of a 4 x 4 matrix; the image belongs to no region."""
    found = regional(
        representations(4, lambda i, j: 10.0 * (i - j)),
        regions(pd.DataFrame(0.0, index=range(-1, 4), columns=range(4))),
    )
    ev = found[found["quantity"] == "ev"].set_index("region")
    below = [10.0 * (i - j) for i in range(4) for j in range(4) if i > j]
    assert ev["n"].to_dict() == {"lower": 6, "band": 4, "upper": 6}
    assert ev.loc["lower", "mean"] == pytest.approx(np.mean(below))
    assert ev.loc["lower", "standard_error"] == pytest.approx(np.std(below, ddof=1) / math.sqrt(6))
    assert ev.loc["band", "mean"] == 0
    assert ev.loc["upper", "mean"] == pytest.approx(-np.mean(below))
    sv = found[found["quantity"] == "sv"].set_index("region")
    assert set(sv["mean"]) == {1.5}
    assert set(sv["standard_error"]) == {0.0}
    assert found["quantity"].unique().tolist() == ["ev", "es", "sv"]
    assert found["region"].tolist()[:3] == ["lower", "band", "upper"]


def test_regions_of_one_pair_are_not_those_of_another():
    square = representations(2, lambda i, j: i - j)
    of = {("a", "b"): regions(pd.DataFrame(0.0, index=range(2), columns=range(2)))}
    assert len(regional(square, of)) == 9
    with pytest.raises(InputError, match="a -> c"):
        regional(square.assign(receiver="c"), of)


def test_measures_have_regions_too():
    rows = [trial(i, j, loss) for i in range(2) for j in range(2) for loss in ("task", "mse")]
    where = regions(pd.DataFrame(0.0, index=range(2), columns=range(2)))
    found = regional(loss_table(table(*rows)), where, ["val_cka"])
    assert found[["loss", "region", "n"]].to_numpy().tolist() == [
        [loss, region, n] for loss in ("mse", "task")
        for region, n in (("lower", 1), ("band", 2), ("upper", 1))
    ]  # fmt: skip
    assert found["standard_error"].isna().tolist() == [True, False, True] * 2
    with pytest.raises(InputError, match="val_cka"):
        regional(loss_table(table(*rows)), where, ["val_ckaa"])
