"""Agreement and error consistency."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from stitch_sweep.analysis.comparison.agreement import agreement, error_consistency
from stitch_sweep.core.errors import InputError
from tests.support.comparisons import failed, table, trial


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_error_consistency_is_cohens_kappa(pairs):
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    found = error_consistency(first, second)
    if first.all() == second.all() and first.any() == second.any() and first.all() == first.any():
        assert math.isnan(found), "both always right, or both always wrong"
    else:
        assert found == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
        assert found == error_consistency(second, first) <= 1


def test_error_consistency_of_things_that_do_not_fit():
    for shapes in ((2, 3), (0, 0)):
        with pytest.raises(ValueError, match="both must be"):
            error_consistency(*(np.zeros(n, dtype=bool) for n in shapes))


LABELS = pd.DataFrame({"label": [0, 1, 2, 0, 1, 2]})


def networks(**predictions: list[int] | None) -> pd.DataFrame:
    return pd.DataFrame({"network": list(predictions), "predictions": list(predictions.values())})


def predictions(**rows: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"trial": list(rows), "predictions": [np.array(p) for p in rows.values()]})


def test_agreement_with_sender_and_receiver():
    sender, receiver = [0, 1, 2, 0, 2, 0], [0, 1, 2, 1, 1, 1]
    stitched = [0, 1, 2, 0, 0, 0]
    found = agreement(
        table(trial(trial="t"), failed(1, trial="f")),
        predictions(t=stitched),
        LABELS,
        networks(a=sender, b=receiver),
    )
    assert found["trial"].tolist() == ["t"]
    row = found.iloc[0]
    right = LABELS["label"].to_numpy()
    for name, one, other in (
        ("sender", stitched, sender), ("receiver", stitched, receiver), ("own", sender, receiver),
    ):  # fmt: skip
        assert row[f"agreement_{name}"] == np.mean(np.array(one) == np.array(other))
        kappa = cohen_kappa_score(np.array(one) == right, np.array(other) == right)
        assert row[f"kappa_{name}"] == pytest.approx(kappa)
    assert row["kappa_sender"] == 1, "other classes, but the same images wrong"
    assert row["agreement_sender"] == 5 / 6
    assert row["images"] == 6


def test_a_network_without_predictions_leaves_its_columns_empty():
    found = agreement(
        table(trial(trial="t")), predictions(t=[0] * 6), LABELS, networks(a=None, b=[0] * 6)
    ).iloc[0]
    assert math.isnan(found["agreement_sender"])
    assert math.isnan(found["kappa_own"])
    assert found["agreement_receiver"] == found["kappa_receiver"] == 1


def test_two_that_are_always_right_have_no_error_consistency():
    right = LABELS["label"].tolist()
    found = agreement(
        table(trial(trial="t")), predictions(t=right), LABELS, networks(a=right, b=right)
    ).iloc[0]
    assert found["agreement_sender"] == 1
    assert math.isnan(found["kappa_sender"])


def test_predictions_of_other_images_are_named():
    results = table(trial(trial="t"))
    with pytest.raises(InputError, match=r"trial t: .* 5 images, .* 6"):
        agreement(results, predictions(t=[0] * 5), LABELS, networks(a=None))
    with pytest.raises(InputError, match="network a"):
        agreement(results, predictions(t=[0] * 6), LABELS, networks(a=[0] * 7))
    with pytest.raises(InputError, match="labels: missing columns: label"):
        agreement(results, predictions(t=[0] * 6), LABELS[[]], networks(a=None))
