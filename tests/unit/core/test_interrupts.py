"""Signals end a command with status 130 and one sentence."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pytest

from stitch_sweep.cli import main as cli
from stitch_sweep.core import interrupts
from stitch_sweep.core.errors import InputError

# `signal.raise_signal` reaches this very thread, so the handler has run when it returns.
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def default_handlers():
    """Python's own handlers: a shell starts background processes with some signals ignored."""
    defaults = {signal.SIGINT: signal.default_int_handler}
    previous = {k: signal.signal(k, defaults.get(k, signal.SIG_DFL)) for k in SIGNALS}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.fixture
def status(monkeypatch, tmp_path, capsys):
    """Exit status and standard error of `status`, whose work is replaced by a function."""

    def status(work) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stitch-sweep", "status", str(tmp_path)])
        monkeypatch.setattr("stitch_sweep.storage.status.read_status", work)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return status


@pytest.mark.parametrize("sign", SIGNALS)
def test_a_signal_ends_a_command_with_130_and_one_sentence(status, sign):
    handlers = [signal.getsignal(number) for number in SIGNALS]

    def work(folder: Path) -> None:
        signal.raise_signal(sign)

    code, said = status(work)
    assert code == 130
    assert said.split() == interrupts.SENTENCE.split()
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_what_an_interrupted_command_raises_is_not_shown(status):
    def work(folder: Path) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise InputError("half imported") from None

    code, said = status(work)
    assert code == 130
    assert "half imported" not in said


def test_a_signal_that_comes_twice_at_once_interrupts_once():
    with interrupts.raise_on_signal():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.received()


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.raise_on_signal():
            signal.raise_signal(signal.SIGHUP)
            assert not interrupts.received()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_signals_do_what_a_library_does_for_ctrl_c():
    seen = []
    with interrupts.raise_on_signal():
        signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
        signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGINT]


def test_handlers_that_a_block_leaves_behind_are_replaced_by_those_before():
    before = signal.getsignal(signal.SIGUSR1)

    def replace_handlers() -> None:
        with interrupts.restored_handlers():
            for number in (signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, lambda number, frame: None)
            raise ValueError("the block's")

    with pytest.raises(ValueError, match="the block's"):
        replace_handlers()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGUSR1) is before


def test_in_another_thread_handlers_are_left_alone():
    ran = []

    def work() -> None:
        with interrupts.restored_handlers():
            ran.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran
