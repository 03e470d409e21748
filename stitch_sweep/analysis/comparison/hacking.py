"""Find cells that perform well through a representation far from the expected one."""

from __future__ import annotations

import math

import pandas as pd

from stitch_sweep.analysis.comparison.losses import identity_columns, loss_table
from stitch_sweep.analysis.matrix.order_parameters import rescaled
from stitch_sweep.analysis.results import CELL, PAIR, Mode
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.measures import SIMILARITIES

WELL = 0.9
"""Rescaled calibrated accuracy from which a cell performs well."""
FAR = 1.0
"""Relative mean squared error from which a representation is far from the expected one. At 1, a constant
(the expected representation's mean) is equally near."""

# Mean squared errors depend on scale and shift, which some losses do not determine. Each is replaced
# by the column of `representations.parquet` that is measured behind the calibration.
_CALIBRATED_COLUMNS = {"val_mse": "es", "val_relative_mse": "es_relative"}


def hacking(
    results: pd.DataFrame,
    *,
    chance: float,
    well: float = WELL,
    far: float = FAR,
    measure: str = "val_relative_mse",
    representations: pd.DataFrame | None = None,
    metric: str = "val_accuracy",
    mode: Mode = "max",
) -> pd.DataFrame:
    """Mark cells that perform well through a representation far from the one the receiver expects.

    A cell *performs well* when its rescaled calibrated accuracy, (accuracy - chance) / (best - chance)
    with `best` the better of the two networks' own accuracies, is at least `well`. Its representation
    is *far* when `measure` is on the far side of `far`: by default when the stitched representation
    differs from the expected one by at least the expected one's own variance, so that a constant would
    be as near. Both together are *hacking*: the cell performs with a representation that is not the
    one to be compared. It does not show the cause; `nearest` shows whether a stitch of the same cell,
    trained for any loss, came nearer.

    A loss that is blind to scale and shift does not determine them, so the mean squared errors of its
    stitches are arbitrary. The errors after calibration, from `representations`, replace them; without
    that table, the distance of such a trial is missing. A loss counts as blind when calibration changed
    the accuracy of any of its trials.

    Args:
        results: a row per trial, as `load_results` returns it.
        chance: accuracy of guessing.
        well: rescaled accuracy from which a cell performs well.
        far: threshold of `measure`. A representation is far if its value is at least this; for a
            measure whose higher values are better, if its value is at most this.
        measure: a key of `measures.SIMILARITIES`.
        representations: `representations.parquet` as `measure` wrote it.
        metric: the column that chooses trials.
        mode: whether its "max" or its "min" is best.

    Returns:
        The finished trials of `loss_table`, with `rescaled`, `nearest` and `nearest_loss` (the best
        value of `measure` in that cell and repeat over all losses, and the loss that reached it), and
        the columns `well`, `far` and `hacking`, missing where undefined.

    Raises:
        InputError: no such measure, or `results` lacks it.

    Example:
        >>> table = hacking(load_results(folder), chance=0.1)  # doctest: +SKIP
        >>> table[table["hacking"].fillna(False)]  # doctest: +SKIP
    """
    if measure not in SIMILARITIES:
        raise InputError(f"measure {measure!r}: {nearest(measure, SIMILARITIES)}")
    table = loss_table(results, metric=metric, mode=mode)
    if measure not in table:
        raise InputError(f"missing column: {measure}; the results are of an older version")
    table = table[table["status"] == "finished"].reset_index(drop=True)
    table["rescaled"] = rescaled_accuracy(table, chance=chance)
    _replace_uncalibrated(table, representations)
    sign = SIMILARITIES[measure].sign
    cell = [*PAIR, *identity_columns(table), *CELL, "repeat"]
    ranked = table.assign(_rank=sign * table[measure]).sort_values(
        "_rank", ascending=False, kind="stable"
    )
    best = ranked.dropna(subset=["_rank"]).drop_duplicates(cell)
    nearest_stitches = best[[*cell, measure, "loss"]].rename(
        columns={measure: "nearest", "loss": "nearest_loss"}
    )
    table = table.merge(nearest_stitches, on=cell, how="left")
    performs = _where_defined(table["rescaled"] >= well, table["rescaled"])
    is_far = _where_defined(sign * table[measure] <= sign * far, table[measure])
    return table.assign(well=performs, far=is_far, hacking=performs & is_far)


def rescaled_accuracy(table: pd.DataFrame, *, chance: float) -> pd.Series:
    """Rescale calibrated accuracies: 0 is chance, 1 the better of the pair's own accuracies.

    Args:
        table: the result of `loss_table`.
        chance: accuracy of guessing.

    Returns:
        A value per row, not clipped; NaN where neither network's accuracy is known or the better one is
        near chance (see `analysis.matrix.order_parameters.rescaled`).
    """
    best = table[["sender_accuracy", "receiver_accuracy"]].max(axis=1)
    accuracies = pd.Series(math.nan, index=table.index, dtype="float64")
    for value in best.dropna().unique():
        rows = table.index[best == value]
        values = table.loc[rows, ["accuracy_calibrated"]]
        accuracies[rows] = rescaled(values, chance, float(value))["accuracy_calibrated"]
    return accuracies


def _replace_uncalibrated(table: pd.DataFrame, representations: pd.DataFrame | None) -> None:
    """Replace, in place, mean squared errors before the calibration by those behind it."""
    moved = table["accuracy_raw"] != table["accuracy_calibrated"]
    blind = table["loss"].isin(table.loc[moved, "loss"])
    by_trial = (
        pd.DataFrame(columns=list(_CALIBRATED_COLUMNS.values()))
        if representations is None
        # Merged folders may hold a trial twice, with the same figures.
        else representations.drop_duplicates("similarity_trial").set_index("similarity_trial")
    )
    for name, column in _CALIBRATED_COLUMNS.items():
        if name in table:
            calibrated = table["trial"].map(by_trial[column].astype("float64"))
            table[name] = calibrated.where(blind | calibrated.notna(), table[name])


def _where_defined(condition: pd.Series, value: pd.Series) -> pd.Series:
    """Return a nullable boolean that is missing where the value is."""
    return condition.astype("boolean").mask(value.isna())
