"""Networks load no heavy library that they don't use."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("ray", "mlflow", "sklearn", "matplotlib", "pandas", "optuna", "torchvision", "timm")
MODULES = """
import importlib, json, pkgutil, sys
import stitch_sweep.networks
for module in pkgutil.walk_packages(stitch_sweep.networks.__path__, "stitch_sweep.networks."):
    if module.name.rpartition(".")[2] not in ("torchvision", "timm"):
        importlib.import_module(module.name)
"""
DESCRIBE = """
import json, sys
from stitch_sweep.cli.main import main
sys.argv = ["stitch-sweep", "describe", "resnet34"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
REPORT_MANIFEST = """
print("loaded", json.dumps(sorted(sys.modules)))
"""


def loaded_modules(code: str) -> set[str]:
    """Return the modules that a process has loaded after it ran some code."""
    command = [sys.executable, "-c", code + REPORT_MANIFEST]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(json.loads(output.rpartition("loaded ")[2]))


@pytest.mark.parametrize("code", [MODULES, DESCRIBE], ids=["modules", "describe"])
def test_heavy_libraries_are_loaded_only_when_they_are_used(code):
    assert not loaded_modules(code) & set(HEAVY)


def test_describe_does_not_load_the_compiler_of_torch():
    """`cutting.running` keeps torch's counter of operations from importing it."""
    assert "torch._dynamo" not in loaded_modules(DESCRIBE)
