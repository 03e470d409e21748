"""Sentences of the report, and the cells that its means and counts include."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from stitch_sweep.analysis.comparison.regional import regional
from stitch_sweep.analysis.matrix.order_parameters import regions
from stitch_sweep.analysis.matrix.uncertainty import BINOMIAL, IMAGES
from stitch_sweep.analysis.results import CELL
from stitch_sweep.charts.matrices import describe_matrix
from stitch_sweep.report.doubts import list_doubts
from stitch_sweep.report.figures import list_charts
from stitch_sweep.report.files import write
from stitch_sweep.report.findings import (
    DECISIONS,
    Findings,
    derive_findings,
    makes_images,
    mean_accuracy,
)
from stitch_sweep.report.page.page import Page
from stitch_sweep.report.reading import load_experiment, read_measured
from stitch_sweep.report.summary import describe_verdicts
from stitch_sweep.report.tables.catalog import all_tables
from stitch_sweep.report.tables.losses import (
    correlation_frame,
    decision_table,
    hacking_table,
    representation_table,
)
from stitch_sweep.report.tables.matrices import verdict_frame
from stitch_sweep.report.terminal import show
from stitch_sweep.report.writing import Report
from tests.support.reports import make_folder

LAYERS = 3


def edited(folder: Path, change) -> Findings:
    """Return the findings of a folder with changed results, without its ledger."""
    path = folder / "results.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    shutil.rmtree(folder / "ledger")
    return derive_findings(load_experiment(folder))


def with_control(table: pd.DataFrame) -> pd.DataFrame:
    """Make the sender c an untrained network."""
    return table.assign(
        sender_kind=np.where(table["sender"] == "c", "random", "trained"), receiver_kind="trained"
    )


def with_image_row(table: pd.DataFrame) -> pd.DataFrame:
    """Shift the sender layers: rows -1 to 1 were run, row 2 was only planned."""
    return table.assign(sender_layer=table["sender_layer"] - 1)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory) -> Findings:
    """A pair and an untrained sender; every representation is far from the expected one."""
    folder = make_folder(tmp_path_factory.mktemp("controlled") / "sweep", measured=True,
                         layers=LAYERS, pairs=(("a", "b"), ("c", "b")))  # fmt: skip

    def change(table: pd.DataFrame) -> pd.DataFrame:
        # The control's measure orders its cells the other way round.
        sign = np.where(table["sender"] == "c", -1, 1)
        return with_control(table).assign(
            val_relative_mse=2.0, val_cka=0.5 + sign * (table["val_cka"] - 0.5)
        )

    return edited(folder, change)


@pytest.fixture(scope="module")
def from_images(tmp_path_factory) -> Findings:
    folder = make_folder(tmp_path_factory.mktemp("image") / "sweep", layers=LAYERS,
                         losses=("task",), unconverged=((0, 0),))  # fmt: skip
    return edited(folder, with_image_row)


@pytest.fixture(scope="module")
def into_images(tmp_path_factory) -> Findings:
    folder = make_folder(tmp_path_factory.mktemp("images") / "sweep", layers=LAYERS, measured=True)
    path = folder / "config.resolved.yml"
    config = yaml.safe_load(path.read_text())
    config["pairs"][0]["receiver_layers"] = [-1]
    path.write_text(yaml.safe_dump(config))
    (folder / "measured" / "representations.parquet").unlink()
    return edited(
        folder, lambda table: table[table["receiver_layer"] == 0].assign(receiver_layer=-1)
    )


def doubt(findings: Findings, start: str) -> list[str]:
    return [text for text in list_doubts(findings) if text.startswith(start)]


# Sentences


def test_many_matrices_are_counted_by_what_was_crossed(tmp_path):
    pairs = tuple((f"a{k}", f"b{k}") for k in range(6))
    findings = derive_findings(load_experiment(make_folder(tmp_path / "x", pairs=pairs, layers=2)))
    labels = {"mse": ["none", "diagonal"] + 4 * ["none"], "task": 6 * ["triangle"]}
    verdicts = [
        replace(v, label=labels[v.matrix.factors["loss"]].pop(0)) for v in findings.verdicts
    ]
    statements = describe_verdicts(replace(findings, verdicts=verdicts, ladders=[]), {})
    assert [(s.subject, s.text) for s in statements] == [
        ("loss = mse", "5 of 6 matrices none, 1 diagonal."),
        ("loss = task", "6 of 6 matrices triangle."),
    ]


def test_controls_of_one_combination_say_nothing_of_another(tmp_path):
    pairs = (("a", "b"), ("c", "b"))

    def results_by_name(name: str, controls: tuple[str, ...]) -> list[str]:
        def change(table: pd.DataFrame) -> pd.DataFrame:
            table = with_control(table)
            return table[(table["sender"] != "c") | table["factor.loss"].isin(controls)]

        folder = make_folder(tmp_path / name, pairs=pairs, layers=LAYERS)
        return doubt(edited(folder, change), "No controls were run")

    (text,) = results_by_name("mse", ("mse",))
    assert text.startswith("No controls were run for loss = task (untrained networks")
    assert "so nothing shows whether triangle there is evidence" in text
    assert results_by_name("both", ("mse", "task")) == []
    (text,) = results_by_name("none", ())
    assert text.startswith("No controls were run (untrained networks")


def test_each_kind_of_interval_is_said_of_its_own_matrices(tmp_path):
    folder = make_folder(tmp_path / "x", layers=LAYERS, measured=True)

    def change(table: pd.DataFrame) -> pd.DataFrame:
        blind = table["loss"] == "mse"
        return table.assign(
            accuracy_calibrated=table["accuracy_calibrated"] + np.where(blind, 0.02, 0.0)
        )

    findings = edited(folder, change)
    methods = {v.matrix.factors["loss"]: v.intervals["order"].method for v in findings.verdicts}
    assert methods == {"mse": BINOMIAL, "task": IMAGES}
    assert sorted(doubt(findings, "Intervals")) == [
        "Intervals of loss = mse are measurement error only: they don't cover other networks or "
        "other trainings.",
        "Intervals of loss = task are over test images, for these networks only: networks of "
        "other seeds may differ more.",
    ]
    alike = replace(findings, verdicts=findings.verdicts[1:])
    (text,) = doubt(alike, "Intervals")
    assert text.startswith("Intervals are over test images")


# Controls and the image are no part of means


def test_controls_are_not_counted_among_the_pairs(controlled):
    table = controlled.hacking
    counts = table.groupby(table["control"].fillna("pair"))["hacking"].sum()
    assert counts["pair"] == counts["untrained_sender"] > 0
    (text,) = [t for t in list_doubts(controlled) if "no nearer to the expected one" in t]
    assert text.startswith(f"{counts['pair']} best trials of 18 perform well")
    assert text.endswith(f"(controls, not counted in: {counts['untrained_sender']} of 18).")
    rows = hacking_table(controlled).frame["control"].notna().tolist()
    assert rows == sorted(rows), "controls stand last"
    assert sum(rows) == counts["untrained_sender"]


def test_measures_are_correlated_over_pairs_alone(controlled):
    square = correlation_frame(controlled)
    # The control's correlation is -1: with it the mean would be 0.
    assert square.at["accuracy_calibrated", "val_cka"] > 0.9
    assert set(controlled.correlations["sender"]) == {"a"}


def test_means_and_counts_of_a_pair_are_of_layers_from_0_on(from_images):
    (verdict,) = from_images.verdicts
    values = verdict.matrix.values
    assert values.index.tolist() == [-1, 0, 1, 2]
    assert not np.isnan(values.loc[-1]).any()
    inner = values.loc[[0, 1]].to_numpy()
    assert mean_accuracy(verdict) == pytest.approx(inner.mean())
    assert mean_accuracy(verdict) != pytest.approx(np.nanmean(values.to_numpy()))
    row = verdict_frame([verdict]).iloc[0]
    assert row["mean_accuracy"] == pytest.approx(inner.mean())
    assert (row["cells"], row["missing"], row["unconverged"]) == (6, 3, 0)
    assert int(verdict.matrix.unconverged.to_numpy().sum()) == 1, "in the image's row"


def test_only_layers_that_were_run_reach_any(from_images):
    page = Page("x")
    page.add(from_images)
    (chapter,) = page.chapters
    (variant,) = chapter.groups[0].variants
    reach = dict(variant.facts)["each sender layer reaches receiver layer"]
    assert [part.partition(":")[0] for part in reach.split(", ")] == ["-1", "0", "1"]


# Images


def test_images_get_a_sentence_and_no_verdict(into_images):
    statements = describe_verdicts(into_images, {})
    assert [s.shape for s in statements] == ["", ""]
    assert [s.subject for s in statements] == [
        f"a → image of b, loss = {k}" for k in ("mse", "task")
    ]
    for statement, verdict in zip(statements, into_images.verdicts, strict=True):
        values = verdict.matrix.values[-1]
        low, high = (f"{k:.2f}" for k in (values.min(), values.max()))
        assert low in statement.text
        assert f"{high}, of" in statement.text or f"{high} (layer" in statement.text
        assert "of the images themselves 0.90. The pictures are under Images" in statement.text
        assert statement.target == "images"
        assert mean_accuracy(verdict) == pytest.approx(values.mean())
    page = Page("x")
    page.add(into_images)
    text = page.html().partition('<script type="application/json"')[0]
    assert "unclear" not in text
    assert '<a href="#images">' in text
    assert 'id="images"' in text
    assert not any("intervals" in text for text in list_doubts(into_images))
    out = io.StringIO()
    doubts = list_doubts(into_images)
    show(Report(None, [into_images], [doubts]), Console(file=out, width=200))
    assert "unclear" not in out.getvalue()
    assert "a -> image of b, loss = mse: of images made" in out.getvalue()


def test_many_images_are_counted_apart_from_shapes(into_images, controlled):
    images = into_images.verdicts
    assert all(makes_images(v.matrix) for v in images)
    assert not any(makes_images(v.matrix) for v in controlled.verdicts)
    shaped = [v for v in controlled.verdicts if v.control is None and v.label == "triangle"]
    many = replace(into_images, verdicts=5 * images + shaped)
    statements = {s.subject: s.text for s in describe_verdicts(many, {})}
    assert statements["loss = task"] == "1 of 1 matrix triangle."
    assert "5 pairs into images, loss = task" in statements
    assert "unclear" not in " ".join(statements.values())


# Tables and figures


def test_matrices_that_one_figure_has_no_room_for_get_another(tmp_path, monkeypatch):
    monkeypatch.setattr("stitch_sweep.report.figures.MAX_PANELS", 2)
    pairs = (("a", "b"), ("c", "d"), ("e", "f"))
    folder = make_folder(tmp_path / "x", pairs=pairs, losses=("task",), layers=2)
    results_by_name = {
        name: draw.args[0]
        for name, draw in list_charts(derive_findings(load_experiment(folder)))
        if name.startswith("matrices")
    }
    assert [name.removeprefix("matrices_accuracy_calibrated") for name in results_by_name] == [
        "",
        "_2",
    ]
    assert [m.sender for drawn in results_by_name.values() for m in drawn] == ["a", "c", "e"]


def test_regions_are_shown_with_their_standard_errors(controlled):
    table = representation_table(controlled)
    (row,) = [
        k
        for k, row in enumerate(table.frame.to_dict("records"))
        if row["sender"] == "a" and row["quantity"] == "ev_relative"
    ]
    shown = dict(zip([c.name for c in table.columns], table.rows[row], strict=True))
    # EV is 1 plus the sender's layer; the band is the diagonal of three.
    assert shown["band"] == f"2.000 ± {1 / np.sqrt(3):.3f}"
    assert rf"2.000 $\pm$ {1 / np.sqrt(3):.3f}" in table.latex()
    assert "±" not in table.csv()
    # A single cell has no error, and is shown all the same.
    single = replace(table, frame=table.frame.assign(band_standard_error=np.nan))
    assert single.rows[row][[c.name for c in table.columns].index("band")] == "2.000"


def test_agreement_is_shown_and_written_cell_by_cell(controlled, tmp_path):
    table = controlled.agreement
    page = Page("x")
    page.add(controlled)
    (group, _) = page.data.groups
    expected = {"agreement_sender", "agreement_receiver", "kappa_sender", "kappa_receiver"}
    assert expected <= {value["key"] for value in group["values"]}
    for variant, loss in zip(group["variants"], ("mse", "task"), strict=True):
        inner = table[(table["sender"] == "a") & (table["loss"] == loss)]
        cells = inner.pivot_table("kappa_sender", "sender_layer", "receiver_layer", dropna=False)
        np.testing.assert_allclose(
            np.array(variant["values"]["kappa_sender"], dtype=float), cells, rtol=1e-4
        )
    page.chapters.clear()
    lean = replace(
        controlled, verdicts=controlled.verdicts[:1], ladders=[], experiment=controlled.experiment
    )
    assert "agreement_cells" not in {t.name for t in all_tables(lean)}
    write(tmp_path / "out", page, [lean])
    written = pd.read_csv(tmp_path / "out" / "tables" / "agreement_cells.csv")
    assert len(written) == len(table) == 4 * LAYERS**2
    np.testing.assert_array_equal(written["kappa_receiver"], table["kappa_receiver"])


def test_regions_where_the_sender_decides_are_named(controlled):
    findings = controlled
    table = findings.agreement
    where = regions(findings.verdicts[0].matrix.values)
    inside = [where.loc[i, j] for i, j in zip(*(table[k] for k in CELL), strict=True)]
    is_lower = np.array(inside) == "lower"
    low, high = np.full(len(table), 0.2), np.full(len(table), 0.6)
    edited_table = table.assign(
        kappa_sender=np.where(is_lower, high, low), kappa_receiver=np.where(is_lower, low, high)
    )
    by_region = regional(edited_table, where, DECISIONS)
    expected = by_region.set_index(["quantity", "region"])["mean"].groupby(level=[0, 1]).mean()
    assert expected["kappa_sender", "lower"] == pytest.approx(0.6)
    assert expected["kappa_sender", "band"] == pytest.approx(0.2)
    statements = describe_verdicts(replace(findings, decisions=by_region), {})
    (statement,) = [s for s in statements if "error consistency" in s.subject]
    assert statement.text.endswith("in these regions: lower (0.60 and 0.20).")
    table = decision_table(replace(findings, decisions=by_region))
    assert {"lower", "band", "upper"} <= set(table.frame)


def test_factors_stand_whole_above_the_table_of_their_matrices(controlled):
    long = {"loss": "correlation", "stitch.start": "least_squares", "training.epochs": "16"}
    verdicts = [
        replace(v, matrix=replace(v.matrix, factors=factors))
        for factors in (long, {"loss": "task"})
        for v in controlled.verdicts
    ]
    out = io.StringIO()
    show(Report(None, [replace(controlled, verdicts=verdicts)], [[]]), Console(file=out, width=80))
    lines = [line.strip() for line in out.getvalue().splitlines()]
    title = "loss = correlation, stitch.start = least_squares, training.epochs = 16"
    assert lines.count(title) == 1
    assert lines.count("loss = task") == 1
    assert "…" not in out.getvalue()


def test_layers_knocked_out_beside_a_whole_self_pair_have_their_gap_matrix(tmp_path):
    findings = derive_findings(load_experiment(make_folder(tmp_path / "s", pairs=(("a", "a"),))))
    assert findings.gaps == [], "nothing says that layers were to be knocked out"
    (part,) = findings.experiment.parts
    asked = replace(part, config={**part.config, "knock_out": [{"network": "a"}]})
    with_knock_out = replace(findings, experiment=replace(findings.experiment, parts=(asked,)))
    assert {gaps.kind for gaps in with_knock_out.gaps} == {"knock-out"}
    assert {table.name for table in all_tables(with_knock_out)} - {
        t.name for t in all_tables(findings)
    } == {"knock_out"}


@pytest.mark.parametrize(
    ("layers", "expected", "phrase"),
    [
        ([2], {2}, "so column 2 says nothing about the receiver. Without column 2: "),
        (
            [1, 2],
            {1, 2},
            "so columns 1 and 2 say nothing about the receiver. Without columns 1 and 2: ",
        ),
        ([7], set(), ""),
        ("2", set(), ""),
        (None, set(), ""),
    ],
)
def test_a_column_behind_which_the_receiver_is_linear_is_judged_apart(
    tmp_path, layers, expected, phrase
):
    folder = make_folder(tmp_path / "sweep", measured=True, layers=LAYERS, losses=("task",))
    path = folder / "measured/networks.parquet"
    table = pd.read_parquet(path)
    table.assign(receiver_free=[layers] * len(table)).to_parquet(path)
    findings = derive_findings(read_measured(load_experiment(folder)))
    (verdict,) = findings.verdicts
    assert verdict.matrix.receiver_free == expected
    (statement,) = (s for s in describe_verdicts(findings, {}) if "→" in s.subject)
    labels = describe_matrix(verdict.matrix).column_labels
    (row,) = verdict_frame([verdict]).to_dict("records")
    if not expected:
        assert verdict.reduced is None
        assert "linear" not in statement.text
        assert labels == ["0", "1", "2"]
        return
    assert list(verdict.reduced.matrix.values.columns) == sorted({0, 1, 2} - expected)
    assert phrase in statement.text
    assert labels == [f"{k}°" if k in expected else str(k) for k in (0, 1, 2)]
    assert row["reduced_label"] == verdict.reduced.label
    assert row["reduced_triangle"] == pytest.approx(
        verdict.reduced.parameters.triangle, nan_ok=True
    )


def test_what_a_pair_reaches_beyond_its_logits_only_control_is_everywhere(tmp_path):
    """The control has the same accuracies as the pair, on other images."""
    folder = make_folder(
        tmp_path / "sweep",
        pairs=(("a", "b"), ("a-logits-only", "b")),
        losses=("task",),
        crossed=False,
    )
    findings = edited(
        folder,
        lambda table: table.assign(
            sender_kind=np.where(table["sender"] == "a", "trained", "logits_only"),
            receiver_kind="trained",
        ),
    )
    (excess,) = findings.excesses
    assert excess.label == "none"
    (statement,) = (s for s in describe_verdicts(findings, {}) if "beyond" in s.subject)
    assert statement.subject == "a → b, beyond logits-only"
    assert "linear probes read from the sender is all that the receiver uses" in statement.text
    tables = {table.name: table.frame for table in all_tables(findings)}
    assert len(tables["beyond_logits"]) == 16
    assert set(tables["verdicts"]["value"]) == {excess.matrix.value_name, "accuracy_calibrated"}
    assert excess.matrix.file_name in [name for name, _ in list_charts(findings)]
    page = Page("sweep", {})
    page.add(findings, [])
    html = page.html()
    assert "accuracy beyond the logits-only control" in html
    output = io.StringIO()
    show(Report(None, [findings], [[]], [], 0), Console(file=output, width=80))
    assert "a -> b, beyond logits-only: none" in output.getvalue()
