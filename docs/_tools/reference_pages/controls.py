"""The pages of the controls, from their descriptions."""

from __future__ import annotations

from reference_pages.docstrings import read_docstring
from reference_pages.markdown import facts, page, picture, table
from stitch_sweep.config import control_notes
from stitch_sweep.config.control_notes import NOTES
from stitch_sweep.config.controls import BUILT_IN


def make_pages() -> dict[str, str]:
    """Make the index, and a page per control."""
    documented = read_docstring(control_notes)
    rows = []
    for name in BUILT_IN:
        notes = read_docstring(NOTES[name])
        rows.append((f"[`{name}`](controls/{name}.md)", notes.facts["Adds"], notes.facts["Shows"]))
    index = page(
        "Controls",
        documented.summary,
        *documented.text,
        table(["control", "added for the pair `a` to `b`", "shows"], rows),
        source="`stitch_sweep/config/control_notes.py`",
    )
    return {"controls.md": index} | {f"controls/{name}.md": _make_page(name) for name in BUILT_IN}


def _make_page(name: str) -> str:
    notes = read_docstring(NOTES[name])
    return page(
        f"Control `{name}`",
        notes.summary,
        *notes.text,
        facts(notes.facts),
        picture(
            "controls",
            name,
            f"Control {name} of two ResNets on digits",
            "The cells contain the test accuracies of the probes."
            if name == "linear_probe"
            else "The cells contain test accuracies (loss `task`, `recipe: fast`).",
        ),
        "## In a configuration",
        f"```yaml\ncontrols: [{name}]\n```",
        "[Controls](../controls.md) explains which pairs get controls, and "
        "[What controls prove](../../explanation/controls.md) explains how to read them.",
        source="`stitch_sweep/config/control_notes.py`",
    )
