"""Fixtures of the tests that start processes or take seconds."""

from __future__ import annotations

import pytest

from stitch_sweep.networks.fast import machine


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip without a compiler; with one, every CPU may compute in bfloat16."""
    if machine._missing_compiler("cpu"):
        pytest.skip("this machine has no compiler")
    monkeypatch.setattr(machine, "has_bfloat16", lambda kind: True)
