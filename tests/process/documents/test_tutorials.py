"""The blocks of tutorials run in the order of the page.

tests/process/test_study.py runs the quickstart, its report and the study, test_notebooks.py the notebook,
tests/process/sweep/test_plugins.py the extensions, and tests/cluster/test_tutorial.py the cluster.
"""

from __future__ import annotations

import re

from tests.support.documents import run_page
from tests.support.paths import ROOT

TUTORIALS = ROOT / "docs/tutorials"


def test_which_stitch_and_which_loss(tmp_path):
    printed = run_page(TUTORIALS / "choosing.md", tmp_path / "page")
    assert "24 of 24 trials ended, 0 failed" in printed
    assert "orthogonal: 'cka' is blind to" in printed
    assert "conv1x1: 'cca' is blind to" in printed
    # The table of the script: a row per cell, under two stitches with three losses.
    cells = re.findall(r"^ ?[13]? +[13]( +[01]\.\d+){6}$", printed, re.M)
    assert len(cells) == 4


def test_every_tutorial_is_run_somewhere():
    run_elsewhere = {"quickstart.md", "report.md", "study.md", "extensions.md", "cluster.md"}
    names = {path.name for path in TUTORIALS.glob("*.md")}
    assert names == {"index.md", "choosing.md"} | run_elsewhere
