"""A sweep with a plugin on nodes that can't see the plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from stitch_sweep.storage.ledger import Ledger
from tests.support.extensions import write_tutorial
from tests.support.faults import Cluster, Driver, can_mount, closing, without_view_of
from tests.support.sweeps import figures, run


@pytest.mark.skipif(not can_mount(), reason="needs mount namespaces, which this user may not make")
def test_two_nodes_without_the_plugin_have_the_results_of_one_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the tutorial's callback writes into the current folder
    alone, folder = tmp_path / "alone", tmp_path / "sweep"
    status, output = run("sweep", write_tutorial(alone), "--set", f"zoo={alone / 'zoo'}")
    assert status == 0, output
    config = write_tutorial(folder)
    with closing(Cluster(2, worker=without_view_of(folder))) as cluster:
        for node in cluster.workers:
            assert list(Path(f"/proc/{node.process.pid}/root{folder}").iterdir()) == []
        driver = Driver(
            config,
            *("--address", cluster.address, "--set", f"zoo={folder / 'zoo'}"),
            **cluster.environment,
        )
        assert driver.wait() == 0, driver.said
    assert figures(folder) == figures(alone)
    assert len({record["worker"] for record in Ledger(folder).records()}) == 2
