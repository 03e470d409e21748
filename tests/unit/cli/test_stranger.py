"""Files of a stranger: every reader refuses or skips them, and nothing in them controls a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.table import Table
from rich.text import Text

from stitch_sweep.analysis.results import check_results, load_results
from stitch_sweep.analysis.tables import csv_text
from stitch_sweep.core.console import Terminal
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import UnreadableFileError
from stitch_sweep.measuring.tables import measure
from stitch_sweep.networks.zoo import Zoo
from stitch_sweep.report.files import check_target
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.storage.manifest import Manifest, replacing_files
from stitch_sweep.storage.parquet import read_table
from stitch_sweep.sweep.matrix_files import MANIFEST
from stitch_sweep.sweep.progress import Reporter
from tests.support.foreign_folders import RECIPE, small_sweep
from tests.support.reports import make_folder

ESCAPES = "[red]x[/red]\x1b[2J\x1b]0;title\x07\u202e"


DEEP = '{"a":' * 900 + "1" + "}" * 900


@pytest.fixture
def sweep(tmp_path):
    return small_sweep(tmp_path)


@pytest.mark.parametrize("name", ["figures", "tables", "measured"])
def test_nothing_is_written_through_a_link(sweep, tmp_path, name):
    (tmp_path / "home").mkdir()
    (sweep / name).symlink_to(tmp_path / "home")
    with pytest.raises(InputError, match="is a link or a file"):
        measure(sweep) if name == "measured" else check_target(sweep)
    assert list((tmp_path / "home").iterdir()) == []


# Tables, JSON and pictures


def test_a_table_comes_back_as_it_was_written(tmp_path):
    table = pd.DataFrame(
        {
            "text": ["a", None, "b"],
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "number": [0.5, np.nan, 1.0],
            "truth": pd.array([True, None, False], dtype="boolean"),
            "lists": [[1, 2], [3], []],
        }
    )
    table.to_parquet(tmp_path / "x.parquet")
    result = read_table(tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(result.drop(columns="lists"), table.drop(columns="lists"))
    assert [list(row) for row in result["lists"]] == [[1, 2], [3], []]


def test_what_pandas_and_arrow_add_is_not_followed(tmp_path):
    """An Arrow extension type can contain a pickle; pandas metadata can have any shape."""
    values = pa.array([b"1", b"2"])
    field = pa.field("text", pa.string(), metadata={
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": b"cos\nsystem\n(S'touch sprung'\ntR."})  # fmt: skip
    for pandas in (b"[]", b"nothing", DEEP.encode(), b'{"index_columns": 1, "columns": [[]]}'):
        schema = pa.schema([field], metadata={b"pandas": pandas})
        pq.write_table(pa.Table.from_arrays([values.cast(pa.string())], schema=schema),
                       tmp_path / "x.parquet")  # fmt: skip
        assert read_table(tmp_path / "x.parquet")["text"].tolist() == ["1", "2"]
    assert not Path("sprung").exists()


def bomb(path: Path, kind: str) -> None:
    """Write a small file that expands to gigabytes, or something other than a table."""
    if kind == "rows":
        with pq.ParquetWriter(path, pa.schema([("a", pa.int64())])) as writer:
            for _ in range(20):
                writer.write_table(pa.table({"a": np.zeros(2_000_000, np.int64)}), 2_000_000)
    elif kind == "texts":
        repeated = pa.DictionaryArray.from_arrays(np.zeros(50_000, np.int32), ["x" * 1_000_000])
        pq.write_table(pa.table({"a": repeated}), path, store_schema=False)
    elif kind == "list":
        lists = pa.ListArray.from_arrays([0, 40_000_000], pa.array(np.zeros(40_000_000, np.int8)))
        pq.write_table(pa.table({"a": lists}), path)
    elif kind == "twice":
        pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    elif kind == "struct":
        pq.write_table(pa.table({"a": [{"b": 1}]}), path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("PAR1 nothing PAR1")


@pytest.mark.parametrize(
    "kind", ["rows", "texts", "list", "twice", "struct", "pipe", "folder", "text"]
)
def test_a_table_that_is_none_or_too_large_is_refused(tmp_path, kind):
    path = tmp_path / "x.parquet"
    bomb(path, kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableFileError, match=r"x\.parquet"):
        read_table(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_accuracy": 3.0}, "from 0 to 1"),
        ({"val_accuracy": np.inf}, "from 0 to 1"),
        ({"sender_layer": 1e300}, "whole numbers"),
        ({"trial": 5}, "column trial must contain text in every row"),
    ],
)
def test_results_that_can_not_be_are_refused(sweep, change, message):
    results = load_results(sweep)
    with pytest.raises(InputError, match=message):
        check_results(results.assign(**change))


def test_matrices_that_are_nearly_empty_are_bounded(sweep):
    row = load_results(sweep).iloc[[0]]
    many = pd.concat([row] * 4000, ignore_index=True)
    many = many.assign(sender_layer=range(4000), receiver_layer=range(4000))
    with pytest.raises(InputError, match="at most 10,000,000"):
        check_results(many)


WRONG = {
    "predictions.parquet": {"predictions": ["a", "b"]},
    "traj.parquet": {"step": ["a", "b"]},
    "measured/networks.parquet": {"depth": [10**12, -3]},
    "measured/labels.parquet": {"label": ["a", "b"]},
    "measured/representations.parquet": {"ev": ["a", "b"]},
    "measured/probes.parquet": {"layer": [2**40, 1]},
    "measured/importances.parquet": {"importance": [7.0, 0.0]},
}


@pytest.mark.parametrize("fault", ["column", "pipe", "text"])
def test_a_wrong_table_is_left_out_with_a_note(tmp_path, fault):
    folder = make_folder(tmp_path / "sweep", measured=True, sanity=True)
    for name, change in WRONG.items():
        path = folder / name
        table = pd.read_parquet(path).iloc[:2].assign(**change)
        path.unlink()
        if fault == "column":
            table.to_parquet(path)
        elif fault == "text":
            path.write_text("nothing")
        else:
            os.mkfifo(path)
    experiment = load_experiment(folder)
    assert experiment.predictions is None
    assert experiment.measured == {}
    if fault != "pipe":
        assert len([n for n in experiment.notes if "can't be used" in n]) == len(WRONG)


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "5", '{"checks": 5}', '{"checks": [[]]}', '{"checks": [{"name": 1}]}', DEEP,
     '{"checks": [{"name": "a", "verdict": "pass", "difference": [1]}]}', "pipe"],
)  # fmt: skip
def test_sanity_of_another_shape_is_left_out_with_a_note(sweep, content):
    path = sweep / "sanity.json"
    os.mkfifo(path) if content == "pipe" else path.write_text(content)
    experiment = load_experiment(sweep)
    assert experiment.parts[0].sanity is None
    assert any("sanity.json was not written by" in note for note in experiment.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"networks": "ab"},
        {"networks": [5]},
        {"networks": [{"name": "a", "blocks": [10**9]}, {"name": "b"}]},
        {"pairs": [{"sender": "a", "receiver": "b", "sender_layers": ["x"]}]},
        {"search": {"cross": ["loss"]}},
        {"search": {"objectives": {"val_accuracy": 3}}},
        {"knock_out": [{"network": 5}]},
        {"resources": {"cpu": "many"}},
    ],
)
def test_a_configuration_of_another_shape_is_left_out_with_a_note(sweep, change):
    path = sweep / "config.resolved.yml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    experiment = load_experiment(sweep)
    assert experiment.parts[0].config is None
    assert any("config.resolved.yml can't be used" in note for note in experiment.notes)


def test_a_configuration_that_is_nested_too_deeply_is_named(sweep):
    path = sweep / "config.resolved.yml"
    deep = {"training": json.loads('{"a":' * 60 + "1" + "}" * 60)}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **deep}))
    with pytest.raises(InputError, match=r"config\.resolved\.yml: is nested more than 50 levels"):
        load_experiment(sweep)


@pytest.mark.parametrize(
    "content", ["{}", "[1]", '{"files": 5}', '{"files": [[], 1]}', DEEP, "pipe"]
)
def test_a_manifest_of_another_shape_removes_nothing(tmp_path, content):
    path = tmp_path / MANIFEST
    os.mkfifo(path) if content == "pipe" else path.write_text(content)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").touch()
    manifest = Manifest(path, re.compile(r"figures/\w+\.png"))
    assert manifest.names == set()
    with pytest.raises(InputError, match=r"mine\.png: would be replaced"):
        manifest.check_free(["figures/mine.png"], "move it")
    assert (tmp_path / "figures" / "mine.png").exists()


def test_a_manifest_removes_no_folder_and_nothing_through_a_link(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "a.png").touch()
    (tmp_path / "sweep" / "tables" / "b.png").mkdir(parents=True)
    (tmp_path / "sweep" / "figures").symlink_to(tmp_path / "home")
    path = tmp_path / "sweep" / MANIFEST
    path.write_text(json.dumps({"files": ["figures/a.png", "tables/b.png"]}))
    with replacing_files(Manifest(path, re.compile(r"\w+/\w+\.png")), [], "move it"):
        pass
    assert (tmp_path / "home" / "a.png").exists()
    assert (tmp_path / "sweep" / "tables" / "b.png").exists()


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", DEEP, "pipe",
     *(json.dumps({**RECIPE, **change}) for change in (
         {"recipe": {}}, {"recipe": 5}, {"accuracy": {}}, {"accuracy": {"test": "high"}},
         {"seconds": "long"}, {"versions": []},
         {"recipe": {"weights": 5, "options": {}}}, {"recipe": {"weights": "x", "network": 3}}))],
)  # fmt: skip
def test_a_recipe_of_another_shape_is_named(tmp_path, content):
    path = tmp_path / "net" / "recipe.json"
    path.parent.mkdir()
    os.mkfifo(path) if content == "pipe" else path.write_text(content)
    with pytest.raises(InputError, match=r"recipe\.json"):
        Zoo(tmp_path).entries()
    path.unlink()
    path.write_text(json.dumps(RECIPE))
    assert len(Zoo(tmp_path).entries()) == 1


# What is printed, and what spreadsheets open


def printed(*things: Any, width: int = 200) -> str:
    out = io.StringIO()
    terminal = Terminal(file=out, width=width)
    for thing in things:
        terminal.print(thing)
    return out.getvalue()


def is_harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text) and "[red]x[/red]" in text


@pytest.mark.parametrize("kind", ["text", "styled", "cell", "head", "title"])
def test_what_is_printed_can_not_control_a_terminal(kind):
    table = Table("n" * 100, title=Text("t"))
    if kind == "head":
        table.add_column(ESCAPES)
    if kind == "title":
        table.title = ESCAPES
    table.add_row(ESCAPES if kind == "cell" else "")
    thing = {"text": ESCAPES, "styled": Text(ESCAPES, style="bold")}.get(kind, table)
    assert is_harmless(printed(thing))


def test_progress_can_not_control_a_terminal():
    out = io.StringIO()
    with Reporter(Terminal(file=out, width=200)) as reporter:
        reporter.say(ESCAPES)
        reporter.step(ESCAPES, 1, 2)
    assert is_harmless(out.getvalue())
    out = io.StringIO()
    with Reporter(Terminal(file=out, width=200, force_terminal=True)) as reporter:
        reporter.step(ESCAPES, 1, 2)
    assert "\x1b[2J" not in out.getvalue()
    assert "[red]x[/red]" in out.getvalue()


@pytest.mark.parametrize("command", [["status"], ["analyze"], ["zoo", "list"]])
def test_commands_escape_names(tmp_path, monkeypatch, capsys, command):
    from stitch_sweep.cli import main as cli
    from stitch_sweep.cli import output

    folder = tmp_path / ESCAPES.replace("/", "-")
    make_folder(folder, losses=("task",), layers=2)
    entry = folder / f"net{ESCAPES.replace('/', '-')}"
    entry.mkdir()
    (entry / "recipe.json").write_text(json.dumps(RECIPE))
    measuring = ["--no-measure"] if command == ["analyze"] else []
    monkeypatch.setattr(sys, "argv", ["stitch-sweep", *command, str(folder), *measuring])
    for terminal in (output.stdout, output.stderr):
        monkeypatch.setattr(terminal, "_width", 300)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    text = "".join(capsys.readouterr())
    assert ended.value.code in (0, None), text
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "[red]x" in text


def test_texts_that_a_spreadsheet_would_run_get_a_quote():
    table = pd.DataFrame({"=a": ["=1+1", "+x", "-x", "@x", "x"], "n": [-1.5, 2.0, 3.0, 4.0, 5.0]})
    lines = csv_text(table).splitlines()
    assert lines == ["'=a,n", "'=1+1,-1.5", "'+x,2.0", "'-x,3.0", "'@x,4.0", "x,5.0"]
