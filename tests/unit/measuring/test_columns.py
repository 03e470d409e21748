"""Every column and key of an experiment folder has a description, from which a page is generated."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from stitch_sweep.report.writing import analyze
from stitch_sweep.storage import columns, layout
from tests.support.reports import make_folder


def test_the_tables_of_a_sweep(finished):
    for name, described in (
        (layout.RESULTS, columns.RESULTS),
        (layout.TRAJECTORIES, columns.TRAJECTORIES),
        (layout.PREDICTIONS, columns.PREDICTIONS),
    ):
        found = pd.read_parquet(finished / name).columns
        assert columns.find_undescribed(found, described) == [], name
    keys = json.loads((finished / layout.SUMMARY).read_text())
    assert columns.find_undescribed(keys, columns.SUMMARY) == []
    assert columns.find_undescribed(columns.SUMMARY, dict.fromkeys(keys, "")) == []


def test_the_measured_tables(measured):
    for name, described in columns.MEASURED.items():
        if (path := measured.path(name)).exists() and path.suffix == ".parquet":
            found = pd.read_parquet(path).columns
            assert columns.find_undescribed(found, described) == [], name


def test_the_tables_of_a_report(measured, tmp_path):
    analyze([measured.folder.parent], output=tmp_path / "report", measured=False)
    check_report(tmp_path / "report", {"verdicts", "representations", "networks", "probes"})


@pytest.mark.parametrize(
    "options",
    [
        {"measured": True, "pairs": (("a", "b"), ("b", "a")), "samples": 2},
        {"stopped": (1,), "samples": 2},
        {"objectives": {"val_accuracy": "max", "val_mse": "min"}, "samples": 2},
    ],
    ids=["measured", "stopped", "objectives"],
)
def test_the_tables_of_other_reports(options, tmp_path):
    folder = make_folder(tmp_path / "sweep", **options)
    analyze([folder], output=tmp_path / "report", measured=False)
    check_report(tmp_path / "report", {"verdicts"})


def test_the_files_have_descriptions(finished):
    names = {path.name + ("/" if path.is_dir() else "") for path in finished.iterdir()}
    described = {name.partition("/")[0] + ("/" if "/" in name else "") for name in layout.CONTENT}
    extra = {"zoo/"}  # beside the results only in this test
    assert {n for n in names - described - extra if not n.startswith(".")} == set()


def check_report(folder: Path, expected: set[str]) -> None:
    """Check the columns of all tables and the keys of the verdicts."""
    found = set()
    for path in sorted((folder / layout.TABLES).glob("*.csv")):
        name = path.stem
        described = columns.TABLES.get(name) or columns.TABLES["ladder_<size>"]
        assert name in columns.TABLES or name.startswith("ladder_"), name
        found.add(name)
        assert columns.find_undescribed(pd.read_csv(path).columns, described) == [], name
    assert expected <= found
    for verdict in json.loads((folder / layout.VERDICTS).read_text())["matrices"]:
        assert columns.find_undescribed(verdict, columns.VERDICTS) == []
        assert columns.find_undescribed(columns.VERDICTS, dict.fromkeys(verdict, "")) == []
