"""Numbers and durations as text."""

from __future__ import annotations

import math

from stitch_sweep.analysis.matrix.notes import listed
from stitch_sweep.report.wording import format_duration


def test_words():
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert [format_duration(x) for x in (45, 300, 9000, math.nan)] == [
        "45 s",
        "5.0 min",
        "2.5 h",
        "unknown",
    ]
