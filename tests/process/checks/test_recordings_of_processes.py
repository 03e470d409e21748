"""Recordings of two processes, one of them in a changed environment, are equal."""

from __future__ import annotations

import os
import subprocess
import sys

from stitch_sweep.checks.determinism.comparison import compare
from tests.support.recordings import FILES, configured


class TestTwoRecordings:
    # Other imports before Stitch Sweep, random numbers drawn, and other settings of torch.
    DISTURBED = """
import random, sklearn.datasets, torchvision, pandas, numpy, torch
random.random(); numpy.random.rand(7); torch.rand(5)
torch.set_num_threads(2); torch.set_flush_denormal(True); torch.backends.cudnn.benchmark = True
torch.set_float32_matmul_precision("medium"); torch.use_deterministic_algorithms(False)
"""

    def test_of_two_processes_agree_to_the_last_byte(self, tmp_path):
        settings = {"networks.0.weights": "trained", "networks.1.weights": "random",
                    "pretraining.epochs": 1, "data.augment": "crop_flip"}  # fmt: skip
        processes = []
        for k, before in enumerate(("", self.DISTURBED)):
            home = tmp_path / f"home{k}"
            home.mkdir()
            # Each process has its own zoo, so the networks are trained twice.
            config = configured(settings)
            (home / "config.yml").write_text(config.model_dump_json())
            command = f"{before}\nfrom stitch_sweep.cli.main import main; main()"
            arguments = ["determinism", "record", "config.yml", "--output-dir", "recorded"]
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", command, *arguments],
                    cwd=home,
                    env={**os.environ, "PYTHONHASHSEED": str(1 + 4710 * k)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        for process in processes:
            output, _ = process.communicate()
            assert process.returncode == 0, output
        first, second = (tmp_path / f"home{k}" / "recorded" for k in range(2))
        assert {path.name for path in first.iterdir()} == FILES
        for name in sorted(FILES):
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
            assert str(tmp_path).encode() not in (first / name).read_bytes()
            assert b"auto" not in (first / name).read_bytes() or name == "tensors.safetensors"
        assert compare(first, second).agree
