"""Imports go one way through the packages, and every heavy dependency has a home."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

PACKAGE = ROOT / "stitch_sweep"
TESTS = ROOT / "tests"

ORDER = (
    "cli",
    "api",
    "report",
    "checks",
    "measuring",
    "sweep",
    "plan",
    "tracking",
    "training",
    "networks",
    "charts",
    "analysis",
    "losses",
    "stitches",
    "data",
    "storage",
    "config",
    "core",
)
"""The packages. A package imports from itself and from those that come after it."""

ALLOWED = {
    "ray": {"sweep"},
    "mlflow": {"tracking"},
    "optuna": {"sweep", "plan", "measuring"},
    "sklearn": {"data", "measuring"},
    "torchvision": {"data", "networks"},
    "timm": {"networks"},
    "ffcv": {"data"},
    "matplotlib": {"api", "report", "charts"},
    "plotly": {"report", "charts"},
    "jinja2": {"report"},
    "typer": {"cli"},
}
"""Which packages import a dependency that is slow to import, optional, or to be replaceable."""

FORBIDDEN = {
    "analysis": {"torch"},
    "charts": {"torch"},
    "core": {"pandas", "pyarrow", "scipy"},
    "config": {"pandas", "pyarrow", "scipy"},
}
"""Further dependencies that a package does without."""


def modules() -> Iterator[tuple[str, Path]]:
    """Iterate over (package, file); the package of a file in the root is its own name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        yield parts[0] if len(parts) > 1 else path.stem, path


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Iterate over (line, dotted name) of a file's imports, those within functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: use an absolute import"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
            if name == "import_module":
                yield node.lineno, str(node.args[0].value)


def test_every_package_has_a_place_in_the_order():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ORDER)


def test_imports_go_down_the_order():
    violations = []
    for package, path in modules():
        if package not in ORDER:
            continue  # the files in the root belong to no package
        for line, name in imported_names(path):
            parts = name.split(".")
            if parts[0] != "stitch_sweep" or len(parts) == 1 or parts[1] not in ORDER:
                continue
            if ORDER.index(parts[1]) < ORDER.index(package):
                violations.append(f"{path.relative_to(ROOT)}:{line}: {package} imports {name}")
    assert violations == []


def test_heavy_dependencies_are_imported_by_their_packages_only():
    violations = []
    for package, path in modules():
        for line, name in imported_names(path):
            dependency = name.split(".")[0]
            is_misplaced = package not in ALLOWED.get(dependency, {package})
            if is_misplaced or dependency in FORBIDDEN.get(package, ()):
                violations.append(f"{path.relative_to(ROOT)}:{line}: {package} imports {name}")
    assert violations == []


def test_package_files_hold_a_docstring_only():
    """A package file with imports would load them for every module of the package."""
    faults = []
    for path in sorted(PACKAGE.rglob("*/__init__.py")):
        body = ast.parse(path.read_text()).body
        if path.parent == PACKAGE:
            continue  # the public names, which are loaded on access
        is_docstring = (
            len(body) == 1
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        )
        if not is_docstring:
            faults.append(str(path.relative_to(ROOT)))
    assert faults == []


def test_the_root_imports_nothing_of_its_own_on_import():
    """Every command imports the root first. Its public names are imported on access."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("stitch_sweep")
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("stitch_sweep") for alias in node.names)


def test_no_test_file_imports_another():
    """Shared helpers are in tests/support."""
    violations = []
    for path in sorted(TESTS.rglob("*.py")):
        for line, name in imported_names(path):
            if name.startswith("tests.") and not name.startswith("tests.support"):
                violations.append(f"{path.relative_to(ROOT)}:{line}: imports {name}")
    assert violations == []


def test_unit_tests_mirror_the_packages():
    folders = {path.name for path in (TESTS / "unit").iterdir() if any(path.glob("test_*.py"))}
    assert folders == set(ORDER)
