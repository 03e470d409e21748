"""Tiny subjects of sanity checks, and planted changes of methods."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from torch import nn

from stitch_sweep.checks.sanity.catalog import CHECKS
from stitch_sweep.checks.sanity.findings import Finding
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.data.images import Data
from stitch_sweep.plan.cells import Cell


def make_subject(
    digits: Data, modules: dict[str, nn.Module], cell: Cell, images: int = 100, **changes: Any
) -> Subject:
    """Make a subject of networks on the digits, with at most `images` of them in each split.

    `changes` replace sections of its configuration.
    """
    config = Config.model_validate(
        {
            "data": {"name": "digits"},
            "networks": [{"name": n, "family": "resnet1111", "width": 4} for n in modules],
            "pairs": [{"sender": cell.sender, "receiver": cell.receiver}],
            "training": {"epochs": 1, "batch_size": 32},
            **changes,
        }
    )
    stored = {name: copy.deepcopy(module) for name, module in modules.items()}
    settings = TrialSettings.model_validate(config.settings)
    return Subject(
        config, digits, modules, lambda: copy.deepcopy(stored), cell, settings, images, is_tiny=True
    )


@pytest.fixture
def subject(digits: Data, trained: dict[str, nn.Module]) -> Subject:
    """A subject of the two trained networks: the stitch from layer 1 of `a` to layer 2 of `b`."""
    return make_subject(digits, copy.deepcopy(trained), Cell("a", 1, "b", 2))


def run_check(name: str, subject: Subject) -> Finding:
    """Run one check by its name, with seeds set."""
    seed_everything(0, threads=1)
    return CHECKS[name](subject)


def check_passes(name: str, subject: Subject) -> None:
    """Assert that a check passes, or says why it was skipped."""
    finding = run_check(name, subject)
    assert finding.verdict in ("pass", "skip"), finding
    if finding.verdict == "skip":
        assert finding.detail
    # Float32 differs from float64, and fast copies round differently; nothing else may differ.
    if name not in ("precision", "fast network"):
        assert not finding.difference


def around(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, wrapper: Any) -> None:
    """Replace a method by `wrapper(original, self, ...)`."""
    original = getattr(owner, name)
    monkeypatch.setattr(
        owner, name, lambda self, *args, **kwargs: wrapper(original, self, *args, **kwargs)
    )
