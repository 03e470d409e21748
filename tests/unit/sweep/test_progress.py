"""Progress is shown as bars where they can be shown, else as lines."""

from __future__ import annotations

import pytest
from rich.console import Console

from stitch_sweep.sweep import progress
from stitch_sweep.sweep.progress import Reporter


@pytest.mark.parametrize("has_widgets", [True, False])
def test_a_notebook_shows_bars_only_with_ipywidgets(monkeypatch, has_widgets):
    spec = object() if has_widgets else None
    monkeypatch.setattr(progress, "find_spec", lambda name: spec)
    lines = []
    console = Console(force_jupyter=True)
    monkeypatch.setattr(console, "print", lambda text, **options: lines.append(text))
    Reporter(console).step("stitch", 1, 2)
    assert lines == ([] if has_widgets else ["stitch: 1/2"])
