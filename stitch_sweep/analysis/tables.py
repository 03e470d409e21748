"""Tables as text that spreadsheets open."""

from __future__ import annotations

import pandas as pd

from stitch_sweep.core.untrusted import spreadsheet_cell


def csv_text(frame: pd.DataFrame) -> str:
    """Comma-separated, with a head of column names and every digit.

    A text that a spreadsheet would run as a formula gets a leading quote.
    """
    safe = frame.rename(columns=spreadsheet_cell)
    texts = [k for k, kind in enumerate(safe.dtypes) if not pd.api.types.is_numeric_dtype(kind)]
    for k in texts:
        safe.isetitem(k, safe.iloc[:, k].map(spreadsheet_cell).array)
    return safe.to_csv(index=False, lineterminator="\n")
