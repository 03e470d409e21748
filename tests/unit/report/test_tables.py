"""Tables as LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re

import numpy as np

from stitch_sweep.report.figures import list_charts
from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.report.tables.catalog import all_tables
from stitch_sweep.report.tables.table import escape_latex
from tests.support.reports import make_folder


def test_latex_is_escaped_and_balanced(tmp_path):
    folder = make_folder(
        tmp_path / "sweep", pairs=((r"a_1%$&#{~^\x}", "b→c"),), measured=True, layers=3
    )
    for table in all_tables(derive_findings(load_experiment(folder))):
        text = table.latex()
        bare = re.sub(r"\\[\\{}$&%#_]", "", text)  # escaped ones are characters like others
        depth = 0
        for character in bare:
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0
        assert depth == 0
        assert bare.count("$") % 2 == 0
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
        assert len(body) == len(table.frame)
        for line in body:
            assert line.endswith(r" \\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) - 1
        begun = re.findall(r"\\begin\{(\w+)\}", text)
        assert begun == list(reversed(re.findall(r"\\end\{(\w+)\}", text)))


def test_latex_text_keeps_what_it_can_print():
    assert escape_latex("loss = task, 0.5") == "loss = task, 0.5"
    assert escape_latex("a\nb\x00") == "a b "
    assert escape_latex(r"50% of \alpha_1") == r"50\% of \textbackslash{}alpha\_1"


def test_csv_has_every_digit_and_reads_back(tmp_path):
    folder = make_folder(tmp_path / "sweep", pairs=(('a,"x"', "b"),))
    (table, *_) = all_tables(derive_findings(load_experiment(folder)))
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [row["sender"] for row in rows] == ['a,"x"'] * 2
    np.testing.assert_array_equal([float(r["triangle"]) for r in rows], table.frame["triangle"])


def test_stopped_trials_are_listed_and_change_nothing_else(tmp_path):
    """The other tables are those of the same sweep without the stopped trials."""
    options = {"layers": 3, "losses": ("task", "mse")}
    searched = make_folder(tmp_path / "one" / "sweep", samples=3, stopped=(1, 2), **options)
    single = make_folder(tmp_path / "two" / "sweep", samples=1, **options)
    tables, plain = (
        {table.name: table for table in all_tables(derive_findings(load_experiment(folder)))}
        for folder in (searched, single)
    )
    stopped = tables.pop("stopped").frame
    assert tables.keys() == plain.keys()
    for name, table in plain.items():
        assert tables[name].csv() == table.csv(), name
    assert stopped[["trials", "stopped"]].to_numpy().tolist() == [[27, 18]] * 2
    # One of three trials ran 5 epochs, the others 2 of 5.
    np.testing.assert_allclose(stopped["share_of_epochs"], 9 / 15)


def test_fronts_of_several_objectives_are_listed(tmp_path):
    folder = make_folder(tmp_path / "sweep", samples=2, losses=("task",), layers=2,
                         objectives={"val_accuracy": "max", "val_mse": "min"})  # fmt: skip
    findings = derive_findings(load_experiment(folder))
    (front,) = [table for table in all_tables(findings) if table.name == "pareto"]
    # Both are better in a cell's first trial.
    assert len(front.frame) == 4
    assert set(front.frame["number"]) == {0}
    assert [name for name, _ in list_charts(findings) if name.startswith("pareto__")]
