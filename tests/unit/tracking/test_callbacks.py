"""Callbacks: what they hear, once, and that a slow or failing one breaks nothing."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from stitch_sweep.core import plugins
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import CALLBACKS, STITCHES
from stitch_sweep.tracking.callbacks import Callback, CallbackThread, build_callbacks
from tests.support.extensions import forgetting_plugins
from tests.support.faults import wait_for
from tests.support.tracking import end_trial, make_ledger

HEARD: list[tuple[Any, ...]] = []


@pytest.fixture(autouse=True)
def _nothing_registered():
    HEARD.clear()
    with forgetting_plugins():
        yield


class Listener(Callback):
    def on_trial_result(self, trial, result):
        HEARD.append(("result", trial["trial"], result["split"], result["step"]))
        result.clear()  # its copy

    def on_trial_complete(self, trial):
        HEARD.append(("complete", trial["trial"], trial["metrics"]["val_accuracy"]))
        assert trial["trajectory"][0]["loss"] == 1.0

    def on_sweep_end(self, sweep):
        HEARD.append(("end", sweep["finished"]))


def follow(folder, callback=Listener, said=None) -> CallbackThread:
    CALLBACKS.register("listener")(callback)
    ((entry, built),) = build_callbacks()
    return CallbackThread(folder, entry, built, (said if said is not None else []).append)


def test_it_hears_every_step_and_trial_once_also_over_two_runs(tmp_path):
    ledger = make_ledger(tmp_path)
    thread = follow(tmp_path)
    wait_for(lambda: ("complete", "s-n0", 0.5) in HEARD, "the first trial was heard of")
    end_trial(ledger, 1)
    thread.finish()
    first = [
        ("result", "s-n0", "train", 0),
        ("complete", "s-n0", 0.5),
        ("result", "s-n1", "train", 0),
        ("result", "s-n1", "validation", 0),
        ("result", "s-n1", "train", 1),
        ("result", "s-n1", "validation", 1),
        ("complete", "s-n1", 0.25),
        ("end", 2),
    ]
    assert first == HEARD
    end_trial(ledger, 2)
    again = follow(tmp_path)
    again.finish()
    assert HEARD[len(first) :][-2:] == [("complete", "s-n2", 0.25), ("end", 3)]
    assert [item for item in HEARD if item[0] == "complete"].count(("complete", "s-n0", 0.5)) == 1


def test_an_error_is_said_once_and_later_trials_are_heard_of(tmp_path):
    class Failing(Callback):
        def on_trial_complete(self, trial):
            HEARD.append(trial["trial"])
            raise ValueError("no such mailbox")

    ledger, said = make_ledger(tmp_path, trials=3), []
    follow(tmp_path, Failing, said).finish()
    assert sorted(HEARD) == ["s-n0", "s-n1", "s-n2"]
    (sentence,) = said
    assert "callback 'listener': on_trial_complete failed: ValueError: no such mailbox" in sentence
    assert "The sweep goes on" in sentence
    assert ledger.exists


def test_one_that_does_not_return_is_left_alone(tmp_path):
    forever = threading.Event()

    class Hanging(Callback):
        def on_trial_complete(self, trial):
            forever.wait()

    make_ledger(tmp_path)
    said: list[str] = []
    follow(tmp_path, Hanging, said).finish(patience=0.2)
    forever.set()
    assert said == ["callback 'listener' did not return for 0 seconds and is left alone"]


def test_it_waits_for_the_sweep_to_begin_and_hears_nothing_of_a_refused_one(tmp_path):
    thread = follow(tmp_path / "sweep")
    thread.abandon()
    make_ledger(tmp_path / "sweep")
    thread.finish()
    assert HEARD == []


def test_any_class_with_one_of_the_methods_will_do(tmp_path):
    class Duck:
        def on_sweep_end(self, sweep):
            HEARD.append(sweep["folder"])

    make_ledger(tmp_path)
    follow(tmp_path, Duck).finish()
    assert [str(tmp_path)] == HEARD


def test_refuses_what_can_not_be_called():
    class Silent:
        pass

    class Demanding(Callback):
        def __init__(self, *, address: str) -> None:
            pass

    class Broken(Callback):
        def __init__(self) -> None:
            raise OSError("no network")

    for name, callback in (("silent", Silent), ("demanding", Demanding), ("broken", Broken)):
        CALLBACKS.register(name)(callback)
    with pytest.raises(InputError) as caught:
        build_callbacks()
    text = "\n".join(caught.value.problems)
    assert "callback 'silent'" in text
    assert "has none of the methods on_trial_result, on_trial_complete, on_sweep_end" in text
    assert "address has no default" in text
    assert "OSError: no network" in text


def test_a_plugin_of_callbacks_alone_belongs_to_no_trial(tmp_path):
    """Its content may change between a sweep and its resume; that of other plugins may not."""
    head = "from stitch_sweep.core.registry import CALLBACKS, STITCHES\n"
    callback = "@CALLBACKS.register('c')\nclass C:\n    def on_sweep_end(self, sweep): pass\n"
    stitch = "@STITCHES.register('s')\ndef s(sender, receiver): pass\n"
    contents = {}
    for name, code in (("calls", callback), ("both", callback.replace("'c'", "'d'") + stitch)):
        path = tmp_path / f"{name}.py"
        path.write_text(head + code)
        plugins.load(str(path))
        contents |= plugins.contents(set(), [str(path)])
    assert set(contents) == {"both.py"}
    assert "s" in STITCHES.names()
    assert {entry.name for entry in CALLBACKS.extensions()} == {"c", "d"}
