"""Documents name modules and files that exist."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

from tests.support.paths import ROOT

PACKAGE = ROOT / "stitch_sweep"


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_imports_in_documents_work():
    """Imports in examples name modules that exist and define the imported names."""
    faults = []
    for path in documents():
        for statement in re.findall(
            r"^(?:    )?(?:>>> )?(from stitch_sweep\S* import [\w, ]+)$", path.read_text(), re.M
        ):
            (node,) = ast.parse(statement).body
            assert isinstance(node, ast.ImportFrom)
            try:
                module = import_module(str(node.module))
            except ImportError as error:
                faults.append(f"{path.name}: {statement}: {error}")
                continue
            faults += [
                f"{path.name}: {statement}: no {alias.name}"
                for alias in node.names
                if not hasattr(module, alias.name)
            ]
    assert faults == []


def test_paths_in_documents_exist():
    """Paths of modules, tests and benchmarks, written in backticks, exist."""
    faults = []
    for path in documents():
        for name in re.findall(r"`((?:stitch_sweep|tests|benchmarks)/[\w/.-]*)`", path.read_text()):
            if not (ROOT / name).exists():
                faults.append(f"{path.name}: {name}")
    assert faults == []


def test_the_map_names_every_package():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `(\w+)/` \|", text, re.M)
    assert sorted(rows) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def test_the_changelog_names_modules_that_exist():
    text = (ROOT / "CHANGELOG.md").read_text()
    table = text[text.index("### Where modules moved") :]
    faults = []
    for row in re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.M):
        for name in re.findall(r"`([\w/]+)`", row[1]):
            folder = next((p for p in (PACKAGE / name, PACKAGE / f"{name}.py") if p.exists()), None)
            # Names within a package follow it in parentheses.
            package = PACKAGE / row[1].split("`")[1]
            if folder is None and not (package / f"{name}.py").exists():
                faults.append(f"{row[0]}: {name}")
    assert faults == []
