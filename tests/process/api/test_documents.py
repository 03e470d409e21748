"""The examples of docs/reference/api.md are one script that runs."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.documents import code_blocks
from tests.support.paths import ROOT


def test_the_examples_of_the_page_run(tmp_path):
    text = (ROOT / "docs/reference/api.md").read_text()
    blocks = [code for _, code in code_blocks(text, "python")]
    script = tmp_path / "example.py"
    script.write_text("\n".join(blocks))
    ended = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(blocks) == 7
    assert (tmp_path / "my/sweep/report.html").is_file()
    assert (tmp_path / "matrices.png").is_file()
