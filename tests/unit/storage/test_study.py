"""Identities of studies."""

from __future__ import annotations

from pathlib import Path

from stitch_sweep.storage.study import Study


def test_studies_that_differ_have_names_that_differ():
    names = {
        Study("a", 0, "b", 1).id,
        Study("a", 1, "b", 1).id,
        Study("a.0-b", 0, "b", 1).id,
        Study("a", -1, "b", 1).id,
        Study("a", 0, "b", 1, {"x": 1}).id,
        Study("a", 0, "b", 1, {"x": 2}).id,
        Study("a", 0, "b", 1, repeat=1).id,
    }
    assert len(names) == 7
    assert all(Path(name).name == name for name in names)
