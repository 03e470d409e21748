"""Documents name modules and files that exist."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

from tests.support.paths import ROOT

PACKAGE = ROOT / "stitch_sweep"

OTHER_REFERENCES = {
    "loss.soft_task.temperature": "the path of a setting",
    "networks.0.width": "the path of a setting",
    "output.summary.shape": "an attribute of a value",
    "stitch_sweep.plugins": "a group of entry points",
    "torchvision.datasets": "the library",
    "torchvision.models.list_models": "the library",
    "timm.list_models": "the library",
    "timm.create_model": "the library",
    "training/losses.py": "a file of published code",
}
"""Dotted names and paths that look like references to a module of the package, and their meaning."""


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


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


def test_references_in_the_package_name_what_exists():
    """`module.name` and `folder/module.py` in docstrings and comments refer to existing things."""
    paths = sorted(PACKAGE.rglob("*.py"))
    names: dict[tuple[str, ...], set[str]] = {}
    for path in paths:
        module = path.relative_to(ROOT).with_suffix("").parts
        defined = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(getattr(node, "ctx", None), ast.Store):
                defined.add(getattr(node, "id", getattr(node, "attr", "")))
        names[module[:-1] if module[-1] == "__init__" else module] = defined
    folders = {part for module in names for part in module}

    def exists(reference: list[str]) -> bool:
        return any(
            module[-k:] == tuple(reference[:k]) and (k == len(reference) or reference[k] in defined)
            for module, defined in names.items()
            for k in range(1, len(reference) + 1)
        )

    faults = []
    for path in paths:
        text = path.read_text()
        for reference in re.findall(r"`([a-z_]+(?:\.\w+)+)`", text):
            parts = reference.split(".")
            is_file = parts[-1] in {"py", "json", "yml", "js", "csv", "parquet", "html"}
            if parts[0] in folders and not is_file and not exists(parts):
                faults.append(f"{path.relative_to(ROOT)}: {reference}")
        for reference in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text):
            if (
                not any(ROOT.glob(f"stitch_sweep/**/{reference}"))
                and not (ROOT / reference).exists()
            ):
                faults.append(f"{path.relative_to(ROOT)}: {reference}")
    assert [fault for fault in faults if fault.split(": ")[1] not in OTHER_REFERENCES] == []


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
