"""The pages of evidence name scripts, options and tables that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.support.paths import ROOT

DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("evidence/*.md")), *sorted(DOCS.glob("results/*.md"))]


def script(name: str) -> Path:
    """Return the path of a script that a page names; benchmarks may be named without their folder."""
    return ROOT / name if "/" in name else ROOT / "benchmarks" / name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_scripts_exist_and_have_the_options(page):
    commands = re.findall(
        r"`(?:python |sh )?((?:(?:benchmarks|experiments)/)?[\w/]+\.(?:py|sh))((?: [^`]*)?)`",
        page.read_text(),
    )
    faults = []
    for name, options in commands:
        path = script(name)
        if not path.is_file():
            faults.append(f"no {name}")
            continue
        code = path.read_text()
        wanted = [o for o in re.findall(r"--[\w-]+", options) if path.suffix == ".py"]
        faults += [f"{name} has no {option}" for option in wanted if f'"{option}"' not in code]
    assert faults == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_configurations_exist(page):
    names = re.findall(r"(experiments/[\w/]+(?:/config\.yml)?)", page.read_text())
    assert [n for n in names if "FAMILY" not in n and not any(ROOT.glob(f"{n}*"))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_linked_tables_can_be_read(page):
    for name in re.findall(r"\]\(([\w/]+\.csv)\)", page.read_text()):
        table = pd.read_csv(page.parent / name)
        assert len(table) > 0, name
