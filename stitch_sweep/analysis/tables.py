"""Write tables as CSV text that spreadsheets open safely."""

from __future__ import annotations

import pandas as pd

from stitch_sweep.core.untrusted import spreadsheet_cell


def csv_text(frame: pd.DataFrame) -> str:
    """Format a table as comma-separated text with a header row and every digit.

    Text that a spreadsheet would run as a formula gets a leading quote.
    """
    safe = frame.rename(columns=spreadsheet_cell)
    text_columns = [
        k for k, kind in enumerate(safe.dtypes) if not pd.api.types.is_numeric_dtype(kind)
    ]
    for k in text_columns:
        safe.isetitem(k, safe.iloc[:, k].map(spreadsheet_cell).array)
    return safe.to_csv(index=False, lineterminator="\n")
