"""The imports of the analysis in a fresh process."""

from __future__ import annotations

import subprocess
import sys


def test_judging_needs_none_of_the_training_libraries():
    command = (
        "import sys, stitch_sweep.analysis.matrix.verdict, stitch_sweep.analysis.matrix.populations;"
        "print([m for m in ('torch', 'ray', 'optuna', 'mlflow') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
