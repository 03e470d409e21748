"""Reports of test folders, and their pages taken apart."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

from stitch_sweep.report.doubts import list_doubts
from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.page.page import Page
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.report.writing import analyze

HOSTILE = "</script><script>alert(1)</script>\"&'<img src=x onerror=alert(2)>"
"""A name that is markup and breaks out of quotes."""


def write(*folders: Path, **options):
    return analyze(list(folders), measured=False, **options)


def read(folder: Path) -> Parsed:
    """Return the page of a folder without writing figures and tables."""
    page = Page("title")
    page.add(derive_findings(load_experiment(folder)))
    return Parsed(page.html())


def doubts_of(folder: Path) -> list[str]:
    return list_doubts(derive_findings(load_experiment(folder)))


class Parsed(HTMLParser):
    """The elements of a page, its visible text, and the content of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        (self.scripts if self._inside == "script" else self.text).append(data)

    @property
    def data(self):
        return next(
            json.loads(script) for script in self.scripts if script.startswith('{"figures"')
        )


def page_of(path: Path) -> Parsed:
    return Parsed((path / "report.html").read_text())


def edit(folder, change):
    path = folder / "results.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
