"""Ray is imported after the environment variables that it reads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

from tests.support.paths import ROOT


def test_the_environment_is_set_before_ray_is_imported():
    code = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ray':\n"
        "            import os\n"
        "            print(os.environ.get('RAY_USAGE_STATS_ENABLED'))\n"
        "            sys.exit()\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import stitch_sweep.sweep.ray_internals\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "0"


def test_only_two_modules_import_ray_by_its_name():
    importing = set()
    for path in (ROOT / "stitch_sweep").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            if any(module.split(".")[0] == "ray" for module in modules):
                importing.add(path.name)
    assert importing == {"ray_setup.py", "ray_internals.py"}
