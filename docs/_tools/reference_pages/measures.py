"""The pages of the measures, from their registry."""

from __future__ import annotations

import math

from reference_pages.docstrings import read_docstring
from reference_pages.markdown import facts, page, picture, table
from stitch_sweep.core import measure_notes
from stitch_sweep.core.measure_notes import NOTES
from stitch_sweep.core.measures import (
    ACCURACIES,
    AGREEMENTS,
    COLUMNS,
    DIFFERENCES,
    MEASURES,
    OUTLIER_SCORES,
    Measure,
)
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.measures import MEASURE_INPUTS
from stitch_sweep.measuring.outliers import OutlierDetector

SHARED = {
    "shape": "equal shapes",
    "positions": "equally many positions",
    "images": "the same images only",
}
GROUPS = {
    "Accuracies": (ACCURACIES, "Columns of `results.parquet`."),
    "Differences": (
        DIFFERENCES,
        "Columns of `measured/representations.parquet`. In each cell, t is the output of the stitch "
        "that was trained for the task, and s the output of the stitch that was trained for another "
        'loss ("this loss"). All differences are computed after the calibration.',
    ),
    "Out-of-distribution scores": (
        OUTLIER_SCORES,
        "Columns of `measured/representations.parquet`.",
    ),
    "Agreement of decisions": (AGREEMENTS, "Columns of `tables/agreement_cells.csv`."),
    "Counts": (
        {name: m for name, m in MEASURES.items() if m.direction is None},
        "These columns show how a measure was computed.",
    ),
}


def make_pages() -> dict[str, str]:
    """Make the index, and a page per measure of similarity."""
    names = [
        name
        for name, measure in MEASURES.items()
        if measure.direction is not None and name in NOTES
    ]
    return {"measures.md": _make_index(names)} | {
        f"measures/{name}.md": _make_page(MEASURES[name]) for name in names
    }


def _make_index(names: list[str]) -> str:
    documented = read_docstring(measure_notes)
    rows = []
    for name in names:
        measure, notes = MEASURES[name], read_docstring(NOTES[name])
        rows.append(
            (
                f"[`{name}`](measures/{name}.md)",
                _range(measure),
                "1" if measure.direction == "higher" else "0",
                notes.facts["Invariant to"].partition(". ")[0].rstrip("."),
                SHARED[MEASURE_INPUTS[name]],
                f"[yes](losses/{name}.md)" if name in LOSSES.names() else "no",
            )
        )
    blocks = [
        documented.summary,
        *documented.text,
        table(["measure", "range", "if equal", "invariant to", "needs", "is a loss"], rows),
    ]
    for title, (group, text) in GROUPS.items():
        rows = [
            (f"`{m.name}`", m.title, _range(m), m.direction or "", m.formula)
            for m in group.values()
        ]
        heads = ["column", "title", "range", "better", "definition"]
        blocks += [f"## {title}", text, table(heads, rows)]
        if group is OUTLIER_SCORES:
            detector = read_docstring(OutlierDetector)
            blocks += [detector.summary, *detector.text]
    derived = [m for m in COLUMNS.values() if m.name == "beyond_logits"]
    blocks += [
        "## Beyond the logits-only control",
        f"`beyond_logits`: {derived[0].formula}. See the control "
        "[`logits_only`](controls/logits_only.md).",
    ]
    return page("Measures", *blocks, source="the registry in `stitch_sweep/core/measures.py`")


def _make_page(measure: Measure) -> str:
    notes = read_docstring(NOTES[measure.name])
    rows = {
        "Column": f"`val_{measure.name}` of `results.parquet`",
        "Range": _range(measure),
        "Better": f"{measure.direction}: equal representations have "
        f"{'1' if measure.direction == 'higher' else '0'}",
        "Needs": SHARED[MEASURE_INPUTS[measure.name]],
        **notes.facts,
    }
    text = [notes.summary, *notes.text]
    related = (
        f"[Loss `{measure.name}`](../losses/{measure.name}.md) trains a stitch for this measure. "
        if measure.name in LOSSES.names()
        else ""
    )
    return page(
        f"Measure `{measure.name}`",
        *text,
        facts(rows),
        picture(
            "measures",
            measure.name,
            f"Matrix of {measure.name} between two ResNets on digits",
            f"The cells contain `{measure.name}` for stitches (`conv1x1`, `recipe: fast`) that are "
            "trained for `mse`.",
        ),
        "## In Python",
        "```python\nimport stitch_sweep as ss\nimport torch\n\n"
        "stitched = torch.randn(64, 8, 4, 4)  # images, channels, height, width\n"
        "expected = stitched + torch.randn(64, 8, 4, 4)\n"
        f'ss.similarity(stitched, expected, measure="{measure.name}")\n```',
        f"{related}[Measures](../measures.md) compares all measures.",
        source="`stitch_sweep/core/measure_notes.py` and the registry of measures",
    )


def _range(measure: Measure) -> str:
    low, high = measure.range
    return f"{low:g} and more" if math.isinf(high) else f"{low:g} to {high:g}"
