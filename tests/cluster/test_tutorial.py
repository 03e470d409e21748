"""The tutorial docs/tutorials/cluster.md, on several Ray nodes of this machine.

Commands that need a cloud or that start Ray on this machine are checked by test_launching.py only.
"""

from __future__ import annotations

from contextlib import closing

from tests.support.documents import run_page
from tests.support.faults import Cluster
from tests.support.paths import ROOT


def test_from_the_laptop_to_a_cluster(tmp_path):
    with closing(Cluster(2)) as cluster:
        token = cluster.environment["RAY_AUTH_TOKEN"]
        printed = run_page(
            ROOT / "docs/tutorials/cluster.md",
            tmp_path / "page",
            skip=["ray ", "chmod ", "pip ", "aws "],
            replace={
                "export RAY_AUTH_MODE=token": f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN={token}",
                "my/config.yml --address auto": f"my/config.yml --address {cluster.address}",
            },
        )
    assert f"joining Ray at {cluster.address}" in printed
    assert printed.count("4 of 4 trials ended, 0 failed") == 2
