"""Writing a report's files: the page, figures and tables. Files of an earlier report are removed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from stitch_sweep.analysis.tables import csv_text
from stitch_sweep.charts.elements import Chart
from stitch_sweep.charts.figures import draw, save_figure
from stitch_sweep.core.errors import InputError
from stitch_sweep.report.figures import list_charts
from stitch_sweep.report.findings import Findings, mean_accuracy
from stitch_sweep.report.page.page import Page
from stitch_sweep.report.tables.catalog import all_tables
from stitch_sweep.report.tables.table import safe_name
from stitch_sweep.storage import layout
from stitch_sweep.storage.files import check_writable, write_atomically
from stitch_sweep.storage.manifest import Manifest, replacing_files

OnProgress = Callable[[str, int, int], None]
"""Receives the current step, the number of finished items and the number of items."""

_WRITTEN_FILES = re.compile(
    rf"{re.escape(layout.REPORT_PAGE)}|{re.escape(layout.VERDICTS)}"
    rf"|({layout.FIGURES}|{layout.TABLES})/{layout.FILE_STEM}\.(png|pdf|csv|tex)"
)
_REMEDY = "choose another folder with --output"


def check_target(folder: Path) -> None:
    """Check that a report can be written into a folder.

    Raises:
        InputError: the folder is a file, the report would be written through a link to another place,
            or the folder has a page that isn't known to be Stitch Sweep's.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: is a file; give a folder")
    problems = [
        f"{path}: is a link or a file, and the report writes a folder of that name; remove it or "
        "choose another folder with --output"
        for path in (folder / layout.FIGURES, folder / layout.TABLES)
        if path.is_symlink() or (path.exists() and not path.is_dir())
    ]
    if problems:
        raise InputError(*problems)
    check_writable(folder / layout.REPORT_PAGE, "the report")
    _manifest(folder).check_free([layout.REPORT_PAGE], _REMEDY)


def write(
    folder: Path,
    page: Page,
    all_findings: Sequence[Findings],
    on_progress: OnProgress = lambda step, done, total: None,
    *,
    page_only: bool = False,
) -> list[Path]:
    """Write page, figures and tables; remove files of an earlier report that this one lacks.

    Args:
        folder: the target folder.
        page: the page.
        all_findings: the findings for figures and tables.
        on_progress: called with ("figures", done, total).
        page_only: whether to write neither figures nor tables; the page has them too.

    Returns:
        The files, the page first.
    """
    charts: dict[str, Callable[[], Chart]] = {}
    texts: dict[str, Callable[[], str]] = {}
    for k, findings in enumerate([] if page_only else all_findings):
        prefix = "" if len(all_findings) == 1 else f"{k + 1}-{safe_name(_name(findings))}__"
        for name, describe in list_charts(findings):
            charts[prefix + name] = describe
        for table in all_tables(findings):
            texts[f"{layout.TABLES}/{prefix}{table.name}.csv"] = table.csv
            texts[f"{layout.TABLES}/{prefix}{table.name}.tex"] = table.latex
        # A row per cell is for programs: it is too long for a page of a paper.
        if findings.agreement is not None and len(findings.agreement):
            cells = partial(csv_text, findings.agreement)
            texts[f"{layout.TABLES}/{prefix}agreement_cells.csv"] = cells
    if page.comparison is not None and not page_only:
        texts[f"{layout.TABLES}/compared.csv"] = page.comparison.csv
        texts[f"{layout.TABLES}/compared.tex"] = page.comparison.latex
    if len(all_findings) == 1 and all_findings[0].experiment is not None:
        texts[layout.VERDICTS] = partial(_verdicts_text, all_findings[0])
    figures = [f"{layout.FIGURES}/{name}.{suffix}" for name in charts for suffix in ("png", "pdf")]
    current = [layout.REPORT_PAGE, *figures, *texts]
    with replacing_files(_manifest(folder), current, _REMEDY):
        for name, text in texts.items():
            write_atomically(folder / name, text().encode())
        for k, (name, describe) in enumerate(charts.items()):
            on_progress("figures", k, len(charts))
            save_figure(draw(describe()), folder / layout.FIGURES, name, pdf=True)
        on_progress("figures", len(charts), len(charts))
        write_atomically(folder / layout.REPORT_PAGE, page.html().encode())
    return [folder / name for name in current]


def _verdicts_text(findings: Findings) -> str:
    """Return label, indices and intervals of each matrix as JSON."""
    verdicts = [
        {
            # Named as in `matrices/`, whose values are not calibrated.
            "matrix": replace(verdict.matrix, value_name="test_accuracy").file_name,
            "mean_accuracy": None if math.isnan(mean := mean_accuracy(verdict)) else mean,
            **verdict.to_dict(),
        }
        for verdict in findings.verdicts
    ]
    return json.dumps({"matrices": verdicts}, indent=2, allow_nan=False) + "\n"


def _manifest(folder: Path) -> Manifest:
    manifest = folder / layout.REPORT_MANIFEST
    return Manifest(manifest, _WRITTEN_FILES, [layout.ANALYSIS_MANIFEST])


def _name(findings: Findings) -> str:
    return "matrix" if findings.experiment is None else findings.experiment.name
