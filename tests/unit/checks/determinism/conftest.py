"""Recordings: one of the unchanged configuration per session, and one per changed setting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stitch_sweep.checks.determinism.recorder import record
from stitch_sweep.training.loop import StitchTraining
from tests.support.recordings import configured


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="session")
def clean(tmp_path_factory, zoo) -> Callable[..., Path]:
    """Record BASE with settings replaced, once per session for equal settings; don't plant faults."""
    folders: dict[str, Path] = {}

    def clean(settings: dict[str, Any] | None = None, pair: str | None = None) -> Path:
        key = json.dumps([settings, pair], sort_keys=True)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("clean") / "recording"
            record(configured({"zoo": str(zoo), **(settings or {})}), folders[key], pair)
        return folders[key]

    return clean


@pytest.fixture
def recorded(tmp_path, zoo) -> Callable[..., Path]:
    """Record BASE with settings replaced by dotted path, and return the folder."""
    count = iter(range(100))

    def recorded(settings: dict[str, Any] | None = None, pair: str | None = None) -> Path:
        folder = tmp_path / f"recording{next(count)}"
        record(configured({"zoo": str(zoo), **(settings or {})}), folder, pair)
        return folder

    return recorded


@pytest.fixture(scope="session")
def base(tmp_path_factory, zoo) -> Path:
    """A recording of BASE without changes."""
    folder = tmp_path_factory.mktemp("base") / "recording"
    record(configured({"zoo": str(zoo)}), folder)
    return folder


@pytest.fixture
def tampered(monkeypatch) -> Callable[[Callable[[StitchTraining, Any, Any], None]], None]:
    """Change every training (and its sender and receiver) right after its construction."""

    def tampered(change: Callable[[StitchTraining, Any, Any], None]) -> None:
        begin = StitchTraining.__init__

        def changed(self: StitchTraining, sender: Any, receiver: Any, *rest: Any, **more: Any):
            begin(self, sender, receiver, *rest, **more)
            change(self, sender.network, receiver.network)

        monkeypatch.setattr(StitchTraining, "__init__", changed)

    return tampered
