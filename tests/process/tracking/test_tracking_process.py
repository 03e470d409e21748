"""The tracking process, and a server that refuses."""

from __future__ import annotations

from pathlib import Path

from stitch_sweep.tracking.process import TrackingProcess
from tests.support.faults import wait_for
from tests.support.tracking import answering, make_ledger


def test_a_refusal_is_said_before_the_sweep_begins_and_not_waited_for(tmp_path):
    said: list[str] = []
    with answering(403, "no") as address:
        uri = address.replace("://", "://me:pass word@")
        process = TrackingProcess(tmp_path, "exp", uri, said.append)
        arguments = Path(f"/proc/{process._process.pid}/cmdline").read_bytes()
        assert b"pass" not in arguments.replace(str(tmp_path).encode(), b"")
        wait_for(lambda: said, "it says why")
        make_ledger(tmp_path)
        assert not process.finish(patience=1000)
    (sentence,) = said
    assert f"MLflow accepts no runs: {address} denies access" in sentence
    assert "pass" not in sentence
    assert process.refusal
    assert process.refusal in sentence
