"""Progress is shown as bars where they can be shown, else as lines."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from stitch_sweep.sweep import progress
from stitch_sweep.sweep.progress import Reporter, TrialCounter


@pytest.mark.parametrize("has_widgets", [True, False])
def test_a_notebook_shows_bars_only_with_ipywidgets(monkeypatch, has_widgets):
    spec = object() if has_widgets else None
    monkeypatch.setattr(progress, "find_spec", lambda name: spec)
    lines = []
    console = Console(force_jupyter=True)
    monkeypatch.setattr(console, "print", lambda text, **options: lines.append(text))
    Reporter(console).step("stitch", 1, 2)
    assert lines == ([] if has_widgets else ["stitch: 1/2"])


def record(metric: float | None = None, status: str = "finished", layer: int = 0) -> dict[str, Any]:
    cell = {"sender": "a", "sender_layer": layer, "receiver": "b", "receiver_layer": 2}
    return {"trial": "t", "status": status, "metric": metric, "metrics": {}, **cell}


def described(counter: TrialCounter, **options: bool) -> list[str]:
    return list(counter.describe(**{"with_remaining": True, **options}))


class TestTrialCounter:
    def test_the_rate_is_that_of_this_run_and_the_counts_are_those_of_all_runs(self):
        now = 100.0
        counter = TrialCounter(lambda: now)
        counter.total = 20
        for k in range(8):
            counter.add(record(0.1 * k, layer=k))
        counter.add(record(status="failed"))
        assert described(counter) == ["1 failed", "best 0.700 (a:7 -> b:2)"]
        assert counter.start()
        assert not counter.start()
        now += 30
        counter.add({**record(0.2), "copied_from": "s"})
        counter.add(record(0.9, status="stopped"))  # its value is of an earlier epoch
        assert counter.ended == 11
        # 2 in 30 seconds, so that the other 9 take 135.
        assert described(counter) == [
            "4 per minute",
            "0:02:15 left",
            "1 failed",
            "1 stopped early",
            "1 copied",
            "best 0.700 (a:7 -> b:2)",
        ]
        assert "left" not in ", ".join(described(counter, with_remaining=False))

    @pytest.mark.parametrize(("mode", "best"), [("max", 0.6), ("min", 0.2)])
    def test_the_best_follows_the_direction_of_the_metric(self, mode, best):
        counter = TrialCounter()
        counter.mode = mode
        for value in (0.4, None, 0.6, 0.2):
            counter.add(record(value))
        assert described(counter) == [f"best {best:.3f} (a:0 -> b:2)"]


def shown(terminal: bool) -> str:
    """Return what a reporter prints of three trials of ten, one of which ended before."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, legacy_windows=False)
    reporter = Reporter(console)
    with reporter:
        reporter.rank_by("max")
        reporter.count(record(0.5))
        reporter.expect(10)
        reporter.trial("started", record())
        reporter.trial("ended", record(0.75, layer=3))
        reporter.trial("ended", {**record(status="failed"), "error": "it broke"})
        reporter.trial("left_out", {"trials": 4})
        reporter.trial("ended", record(0.6))
    return file.getvalue()


def test_without_a_terminal_a_line_has_everything_and_the_next_one_waits():
    lines = shown(terminal=False).splitlines()
    assert lines == ["trials: 1/10", "failed: t: it broke"]


def test_the_last_line_is_printed_at_once(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "trials: 1/10"
    assert lines[-1].startswith("trials: 4/6, ")
    assert lines[-1].endswith("1 failed, best 0.750 (a:3 -> b:2)")
    assert " per minute, " in lines[-1]
    assert " left, " in lines[-1]


def test_on_a_terminal_a_bar_has_a_line_of_text_below_it():
    text = shown(terminal=True)
    assert "4/6" in text
    assert "1 failed, best 0.750 (a:3 -> b:2)" in text
    assert "failed: t: it broke" in text
