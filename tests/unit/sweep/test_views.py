"""The views of a ledger."""

from __future__ import annotations

from stitch_sweep.config.reading import read_config
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.views import ended_records
from tests.support.sweeps import write_config


def test_ended_records_are_read_one_at_a_time(tmp_path, monkeypatch):
    config = read_config(write_config(tmp_path / "config", tmp_path / "zoo"))
    study, ledger, read = Study("a", 0, "b", 1), Ledger(tmp_path), []
    for number in range(config.search.samples):
        settings = {"stitch": {"name": "linear"}, "loss": {"task": 1.0}}
        about = {"study": study.id, "number": number, "params": {}, "settings": settings}
        ledger.begin(study.trial(number), {**study.key, **about})
        outcome = {"status": "failed", "metric": None, "metrics": {}, "trajectory": []}
        ledger.finish(study.trial(number), {**outcome, "seconds": 1.0}, None)
    plain = Ledger.read
    monkeypatch.setattr(Ledger, "read", lambda *call: (read.append(call[1]), plain(*call))[1])
    for k, record in enumerate(ended_records(ledger, [study], config)):
        assert record["number"] == k
        assert len(read) == k + 1
    assert len(read) == config.search.samples > 1
