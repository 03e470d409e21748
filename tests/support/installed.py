"""Try an installed Stitch Sweep: run this file with the Python of an environment, outside of a checkout.

It uses what the wheel contains and nothing of the checkout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

PLUGIN = """
from torch import nn
from stitch_sweep.core.registry import STITCHES


@STITCHES.register("stretch")
def stretch(sender, receiver, *, bias: bool = True):
    \"\"\"Stretch maps to the receiver's size, then a 1x1 convolution.\"\"\"
    convolution = nn.Conv2d(sender[0], receiver[0], 1, bias=bias)
    return nn.Sequential(nn.Upsample(tuple(receiver[1:])), convolution)
"""


def run_command(*arguments: str) -> str:
    """Run `stitch-sweep` of this environment, and return its output."""
    command = Path(sysconfig.get_path("scripts")) / "stitch-sweep"
    ran = subprocess.run([str(command), *arguments], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"stitch-sweep {' '.join(arguments)} failed:\n{ran.stdout}\n{ran.stderr}")
    return ran.stdout


def main() -> None:
    """Try the command, the Python API, a plugin, a configuration, and a report."""
    import torch
    from torch import nn

    import stitch_sweep as ss

    place = Path(str(ss.__file__)).parent
    assert place.is_relative_to(sys.prefix), f"{place} is not in {sys.prefix}"
    installed = version("stitch-sweep")
    assert installed in run_command("--version")
    assert files("stitch_sweep").joinpath("py.typed").is_file()

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, width, 3, padding=1)
            self.block = nn.Conv2d(width, width, 3, stride=2, padding=1)
            self.head = nn.Linear(width, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.block(torch.relu(self.stem(x))))
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    labels = torch.arange(80) % 2
    images = torch.rand(80, 1, 8, 8) / 2 + labels.view(-1, 1, 1, 1) / 2
    data, settings = (images, labels), {"training": {"epochs": 1}}
    result = ss.stitch(Net(3), Net(4), 1, 1, data=data, **settings)
    assert 0 <= result.metrics["test_accuracy"] <= 1

    # `init` writes a configuration for the digits, which need no further file.
    run_command("init", "mine/config.yml", "--data", "digits")
    Path("mine/stretch.py").write_text(PLUGIN)
    plugged = "include: config.yml\nplugins: [./stretch.py]\nstitch: stretch\n"
    Path("mine/plugged.yml").write_text(plugged)
    for name in ("config", "plugged"):
        assert "trials" in run_command("sweep", f"mine/{name}.yml", "--dry-run")

    ss.matrix(Net(3), Net(4), data=data, layers=[1], losses=["task"], folder="matrix", **settings)
    summary = json.loads(run_command("analyze", "matrix", "--json"))
    assert summary
    report = Path("matrix/report.html").read_text()
    assert "</html>" in report  # the page's templates are in the wheel
    print(f"stitch-sweep {installed} works on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
