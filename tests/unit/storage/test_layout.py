"""The names of the files of an experiment folder."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from stitch_sweep.storage import layout
from tests.support.paths import ROOT


def test_git_ignores_all_that_a_sweep_leaves_in_the_checkout():
    """A file that git sees would be copied, or committed, with the shipped configurations."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout")
    names = [name for name in layout.CONTENT if name not in ("config.yml", ".<writer>.json")]
    names += [layout.REPORT_MANIFEST, layout.ANALYSIS_MANIFEST]
    assert {"report.html", "verdicts.json", "ledger/", "traj.pkl"} <= set(names)
    paths = [f"experiments/quickstart/digits/{re.sub('<trial>|[*]', 'x', name)}" for name in names]
    ended = subprocess.run(
        ["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert set(paths) - set(ended.stdout.split()) == set()
