"""Tables, once for all three: the page, CSV with every digit, and LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from stitch_sweep.analysis.comparison.losses import DIFFERENCES, LIKENESS, identity_columns
from stitch_sweep.analysis.comparison.pareto import pareto_front, pareto_table
from stitch_sweep.analysis.matrix.knock_out import by_removed
from stitch_sweep.analysis.matrix.matrices import Matrix
from stitch_sweep.analysis.matrix.order import REGIONS
from stitch_sweep.analysis.matrix.verdict import CONTROLS, Verdict
from stitch_sweep.analysis.results import FACTOR, PAIR, SETTING
from stitch_sweep.analysis.tables import csv_text
from stitch_sweep.report.findings import (
    Findings,
    Ladder,
    counted,
    from_zero,
    headline,
    makes_images,
    mean_accuracy,
)
from stitch_sweep.report.terminal_tables import short_names
from stitch_sweep.report.words import signed

MISSING = "–"
_BY_REGION = (
    "Means ± standard errors over the cells below, in and above the band of equal depth; of one "
    "cell there is no error."
)


@dataclass(frozen=True)
class Column:
    """A column as it is shown.

    Attributes:
        name: of the data frame's column.
        title: its head.
        show: value -> text; missing values are never handed to it.
        number: whether it is aligned to the right.
        error: the column that holds its standard error, which is shown behind it; empty for none.
    """

    name: str
    title: str
    show: Callable[[Any], str] = str
    number: bool = False
    error: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """A table with its caption.

    Attributes:
        name: file name without suffix.
        title: what it is, in a line.
        note: how to read it.
        frame: the data, every digit.
        columns: those that are shown, in order; the CSV file has all of `frame`.
    """

    name: str
    title: str
    note: str
    frame: pd.DataFrame = field(repr=False)
    columns: Sequence[Column] = field(repr=False)

    @property
    def rows(self) -> list[list[str]]:
        """The shown texts."""
        return [
            [_shown(column, row) for column in self.columns]
            for row in self.frame.to_dict("records")
        ]

    def csv(self) -> str:
        """Comma-separated, with a head of column names."""
        return csv_text(self.frame)

    def latex(self) -> str:
        r"""A `table` environment with the shown columns; needs `\usepackage{booktabs}`."""
        align = "".join("r" if column.number else "l" for column in self.columns)
        head = " & ".join(latex_text(column.title) for column in self.columns)
        body = "\n".join(" & ".join(map(latex_text, row)) + r" \\" for row in self.rows)
        return (
            "% needs \\usepackage{booktabs}\n"
            "\\begin{table}\n  \\centering\n"
            f"  \\caption{{{latex_text(self.title)}}}\n"
            f"  \\begin{{tabular}}{{{align}}}\n\\toprule\n{head} \\\\\n\\midrule\n"
            f"{body}\n\\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
        )


def _shown(column: Column, row: Mapping[Any, Any]) -> str:
    value = row[column.name]
    if _absent(value):
        return MISSING
    error = row[column.error] if column.error else None
    return column.show(value) + ("" if _absent(error) else f" ± {column.show(error)}")


def _absent(value: Any) -> bool:
    return value is None or (not isinstance(value, list | dict) and bool(pd.isna(value)))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "−": "$-$",
    "–": "--",
}


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it stands; control characters become spaces."""
    return "".join(_LATEX.get(c, c if c.isprintable() else " ") for c in text)


def fixed(digits: int) -> Callable[[Any], str]:
    """Numbers with so many decimals, and no minus before a zero."""
    return lambda value: signed(float(value), digits)


def whole(value: Any) -> str:
    """A whole number with commas."""
    return f"{int(value):,}"


def p_value(value: Any) -> str:
    """A p-value with three decimals; `< 0.001` below."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(low: float, high: float) -> str | None:
    """`0.10 to 0.20`, None where undefined."""
    return None if math.isnan(low) or math.isnan(high) else f"{signed(low)} to {signed(high)}"


def factor_columns_shown(frame: pd.DataFrame) -> list[Column]:
    """A column for every crossed factor, named by its path."""
    return [
        Column(str(name), str(name).removeprefix(FACTOR))
        for name in frame.columns
        if str(name).startswith(FACTOR) and frame[name].notna().any()
    ]


def _pair_columns(frame: pd.DataFrame) -> list[Column]:
    return [
        Column("sender", "sender"),
        Column("receiver", "receiver"),
        *factor_columns_shown(frame),
    ]


def verdict_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """A row per matrix: label, indices with intervals, what is behind them."""
    rows = []
    for verdict in verdicts:
        matrix, parameters = verdict.matrix, verdict.parameters
        row: dict[str, Any] = {
            "sender": matrix.sender,
            "receiver": matrix.receiver,
            **{f"{FACTOR}{k}": v for k, v in matrix.factors.items()},
            "value": matrix.value_name,
            "label": headline(verdict),
            "mean_accuracy": mean_accuracy(verdict),
            "lower": parameters.lower,
            "band": parameters.band,
            "upper": parameters.upper,
        }
        for name in ("triangle", "diagonal", "order"):
            row[name] = getattr(parameters, name)
            found = verdict.intervals.get(name)
            row[f"{name}_low"] = math.nan if found is None else found.low
            row[f"{name}_high"] = math.nan if found is None else found.high
        row |= {
            "label_share": None
            if makes_images(matrix)
            else verdict.label_shares.get(verdict.label),
            "p_value": verdict.p_value,
            "cells": _cells(matrix, matrix.values.notna()),
            "unconverged": _cells(matrix, matrix.unconverged),
            "failed": _cells(matrix, matrix.failed),
            "missing": _cells(matrix, matrix.missing),
            "control": verdict.control,
            "explained_by": ", ".join(verdict.explained_by) or None,
            "sender_accuracy": matrix.sender_accuracy,
            "receiver_accuracy": matrix.receiver_accuracy,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _cells(matrix: Matrix, marked: pd.DataFrame) -> int:
    return int(counted(matrix, marked).to_numpy().sum())


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """The matrices, a row each."""
    frame = verdict_frame(verdicts)
    for name in ("triangle", "diagonal", "order"):
        frame[f"{name}_interval"] = [
            interval(low, high)
            for low, high in zip(frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
        ]
    columns = [*_pair_columns(frame), Column("label", "label")]
    for name in ("triangle", "diagonal", "order"):
        columns.append(Column(name, name, fixed(2), number=True))
        columns.append(Column(f"{name}_interval", "interval"))
    columns += [
        Column("p_value", "p", p_value, number=True),
        Column("mean_accuracy", "mean accuracy", fixed(3), number=True),
    ]
    note = (
        "Triangle index L − U, diagonal index D − max(L, U), order parameter (L − U)/(D − U), with "
        "their intervals; L, D and U are the mean rescaled accuracies below, in and above the band "
        "of equal depth. p is of the hypothesis that rows and columns have effects of their own only. "
        "Mean accuracies are over layers from 0 on, without the image's row and column."
    )
    return Table("verdicts", "Shape of every matrix", note, frame, columns)


def network_table(findings: Findings) -> Table | None:
    """The networks, a row each."""
    experiment = findings.experiment
    networks = None if experiment is None else experiment.table("networks")
    if networks is None or networks.empty:
        return None
    frame = networks.drop(columns=[c for c in ("predictions", "layers") if c in networks.columns])
    known = [
        Column("network", "network"),
        Column("family", "family"),
        Column("weights", "weights"),
        Column("seed", "seed", number=True),
        Column("depth", "depth", whole, number=True),
        Column("width", "width", whole, number=True),
        Column("parameters", "parameters", whole, number=True),
        Column("test_accuracy", "test accuracy", fixed(3), number=True),
    ]
    shown = [c for c in known if c.name in frame.columns]
    note = "Depth is the number of layers after the first, width the family's own option."
    return Table("networks", "The networks", note, frame, shown)


def region_table(frame: pd.DataFrame, name: str, title: str, note: str) -> Table:
    """Means by region side by side, from what `comparison.regional` returns."""
    loss = "similarity_loss" if "similarity_loss" in frame else "loss"
    factors = [c for c in identity_columns(frame) if frame[c].notna().any()]
    keys = [*PAIR, *factors, loss, "quantity"]
    texts = frame.assign(**{key: frame[key].astype("object") for key in keys})
    wide = texts.pivot_table(
        index=keys, columns="region", values=["mean", "standard_error"], sort=False, dropna=False
    )
    wide.columns = pd.Index([_flat(*pair) for pair in wide.columns.to_flat_index()])
    rows = wide.reset_index()
    # A table in which every region has one cell only has no errors at all.
    for region in REGIONS:
        if region in rows and (error := f"{region}_standard_error") not in rows:
            rows[error] = math.nan
    rows = rows.dropna(subset=[r for r in REGIONS if r in rows], how="all")
    columns = [
        *(Column(c, c.removeprefix(FACTOR)) for c in [*PAIR, *factors]),
        Column(loss, "loss"),
        Column("quantity", "quantity", quantity),
        *(
            Column(region, region, significant, number=True, error=f"{region}_standard_error")
            for region in REGIONS
            if region in rows.columns
        ),
    ]
    return Table(name, title, note, rows.reset_index(drop=True), columns)


def _flat(value: str, region: str) -> str:
    """A column's name for a region's mean or standard error."""
    return region if value == "mean" else f"{region}_{value}"


def quantity(name: Any) -> str:
    """A measured column's name in words."""
    text = str(name)
    if text in DIFFERENCES:
        return text.removesuffix("_relative").upper() + (
            ", relative" if text.endswith("_relative") else ""
        )
    known = {
        "val_mse": "MSE",
        "val_relative_mse": "relative MSE",
        "val_cosine": "cosine",
        "val_correlation": "correlation",
        "val_cca": "CCA",
        "val_svcca": "SVCCA",
        "val_pwcca": "PWCCA",
        "val_cka": "CKA",
        "val_procrustes": "Procrustes",
        "accuracy_calibrated": "calibrated accuracy",
    }
    return known.get(text, text.replace("_", " "))


def significant(value: Any) -> str:
    """Three digits, without an exponent where it can be helped."""
    number = float(value)
    if number != 0 and not 1e-3 <= abs(number) < 1e4:
        return f"{number:.2e}".replace("-", "−")
    return signed(number, 3) if abs(number) < 10 else f"{number:.3g}".replace("-", "−")


def task_table(findings: Findings) -> Table | None:
    """Every loss against the task loss, matrix by matrix."""
    frame = findings.against_task
    if frame is None or frame.empty:
        return None
    columns = [
        *_pair_columns(frame),
        Column("loss", "loss"),
        Column("cells", "cells", whole, number=True),
        Column("accuracy", "accuracy", fixed(3), number=True),
        Column("task_accuracy", "task's", fixed(3), number=True),
        Column("difference", "difference", fixed(3), number=True),
        Column("behind", "cells behind", lambda v: f"{float(v):.0%}", number=True),
        Column("spearman", "rank correlation", fixed(2), number=True),
    ]
    note = (
        "Mean calibrated test accuracies over the cells that both losses have; cells behind: the "
        "share in which the loss is more than 0.05 below the task loss; rank correlation "
        "(Spearman) of the two over cells."
    )
    return Table("losses", "Each loss against the task loss", note, frame, columns)


def hacking_table(findings: Findings) -> Table | None:
    """Cells that perform well through a representation far from the expected one."""
    if findings.hacking is None:
        return None
    frame = findings.hacking[findings.hacking["hacking"].fillna(False)]
    if frame.empty:
        return None
    frame = frame.sort_values("val_relative_mse", ascending=False, kind="stable")
    frame = pd.concat([frame[frame["control"].isna()], frame[frame["control"].notna()]])
    columns = [
        *_pair_columns(frame),
        *([Column("control", "control", CONTROLS.__getitem__)] if frame["control"].any() else []),
        Column("loss", "loss"),
        Column("sender_layer", "sender layer", whole, number=True),
        Column("receiver_layer", "receiver layer", whole, number=True),
        Column("accuracy_calibrated", "accuracy", fixed(3), number=True),
        Column("rescaled", "rescaled", fixed(2), number=True),
        Column("val_relative_mse", "relative MSE", significant, number=True),
        Column("nearest", "nearest", significant, number=True),
        Column("nearest_loss", "of loss"),
    ]
    note = (
        "Rescaled accuracy of 0.9 or more, and a relative mean squared error to the expected "
        "representation of 1 or more: no nearer than a constant. Nearest: the best that any loss "
        "reached in that cell. Controls stand last; layers are those from 0 on."
    )
    return Table("hacking", "Performing well, far from the expected", note, frame, columns)


def agreement_table(findings: Findings) -> Table | None:
    """Means over the cells of each matrix of how alike stitched and original networks decide."""
    if findings.agreement is None or findings.agreement.empty:
        return None
    table = from_zero(findings.agreement)
    keys = [*PAIR, *identity_columns(table), "loss"]
    values = [
        f"{kind}_{other}"
        for other in ("sender", "receiver", "own")
        for kind in ("agreement", "kappa")
    ]
    frame = table.groupby(keys, dropna=False, sort=False)[values].mean().reset_index()
    heads = {"sender": "with sender", "receiver": "with receiver", "own": "sender with receiver"}
    columns = [
        *_pair_columns(frame),
        Column("loss", "loss"),
        *(Column(f"agreement_{k}", v, fixed(3), number=True) for k, v in heads.items()),
        *(Column(f"kappa_{k}", f"κ, {v}", fixed(2), number=True) for k, v in heads.items()),
    ]
    note = (
        "Agreement: the share of test images for which both name the same class. Error consistency "
        "κ: how far they fail on the same images beyond what their accuracies make likely. Means "
        "over cells of layers from 0 on; tables/agreement_cells.csv has each cell."
    )
    return Table("agreement", "How alike they decide", note, frame, columns)


def correlation_frame(findings: Findings) -> pd.DataFrame | None:
    """Mean rank correlation of each two measures over pairs' matrices, square and symmetric."""
    table = findings.correlations
    if table is None or table.empty or table["spearman"].isna().all():
        return None
    wanted = ["accuracy_calibrated", *(q for q in LIKENESS if (table == q).any().any())]
    square = pd.DataFrame(math.nan, index=wanted, columns=wanted)
    for name in wanted:
        square.at[name, name] = 1.0
    means = table.groupby(["first", "second"], sort=False)["spearman"].mean().reset_index()
    for first, second, value in means.to_numpy().tolist():
        square.at[first, second] = square.at[second, first] = value
    return square


def ladder_table(ladder: Ladder) -> Table:
    """The points of a ladder."""
    frame = ladder.points.copy()
    frame["interval"] = [
        interval(low, high) for low, high in zip(frame["low"], frame["high"], strict=True)
    ]
    columns = [
        *([Column("series", "series")] if (frame["series"] != "").any() else []),
        Column("sender", "sender"),
        Column("receiver", "receiver"),
        Column("size", ladder.size, whole, number=True),
        Column("order", "order parameter", fixed(2), number=True),
        Column("interval", "interval"),
        Column("triangle", "triangle", fixed(2), number=True),
        Column("diagonal", "diagonal", fixed(2), number=True),
        Column("label", "label"),
    ]
    return Table(f"ladder_{ladder.size}", f"The ladder over {ladder.size}", "", frame, columns)


def importance_table(findings: Findings) -> Table | None:
    """How much each searched setting mattered."""
    experiment = findings.experiment
    frame = None if experiment is None else experiment.table("importances")
    if frame is None or frame.empty:
        return None
    known = [
        *_pair_columns(frame),
        Column("setting", "setting"),
        Column("importance", "importance", fixed(2), number=True),
        Column("p_value", "p", fixed(2), number=True),
        Column("studies", "studies", whole, number=True),
        Column("trials", "trials", whole, number=True),
    ]
    note = (
        "Importances sum to 1 within a group even where nothing mattered; p is the share of "
        "shuffles of the results that gave at least as much."
    )
    if "evaluator" in frame:
        note = f"{frame['evaluator'].iloc[0]}. {note}"
    columns = [c for c in known if c.name in frame.columns]
    return Table("importances", "Which settings mattered", note, frame, columns)


def front_table(findings: Findings) -> Table | None:
    """What no other trial of its cell beats in every objective, where several were searched."""
    experiment = findings.experiment
    if experiment is None or not (objectives := experiment.objectives):
        return None
    frame = pareto_table(pareto_front(experiment.results, objectives), objectives)
    if frame.empty:
        return None
    settings = short_names([str(n) for n in frame.columns if str(n).startswith(SETTING)])
    columns = [
        *_pair_columns(frame),
        Column("sender_layer", "sender layer", whole, number=True),
        Column("receiver_layer", "receiver layer", whole, number=True),
        *(Column(n, f"{n} ({mode})", significant, number=True) for n, mode in objectives.items()),
        *(Column(name, short, _setting) for name, short in settings.items()),
    ]
    note = "The trials of each cell that no other trial of it beats in every objective."
    return Table("pareto", "The fronts of several objectives", note, frame, columns)


def _setting(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def gap_table(findings: Findings) -> Table | None:
    """What every network keeps without some of its layers, a row per number of them."""
    gaps = findings.gaps
    if not gaps:
        return None
    frame = pd.concat(
        [
            by_removed(matrix).assign(network=matrix.sender, factors=matrix.factor_text)
            for matrix in gaps
        ],
        ignore_index=True,
    )
    columns = [
        Column("network", "network"),
        *([Column("factors", "factors")] if frame["factors"].any() else []),
        Column("layers_removed", "layers removed", whole, number=True),
        Column("mean", "mean", fixed(3), number=True),
        Column("lowest", "lowest", fixed(3), number=True),
        Column("lowest_first", "from layer", whole, number=True),
        Column("highest", "highest", fixed(3), number=True),
    ]
    note = (
        "Accuracy with a stitch in place of some layers, over all places where so many can be taken "
        "out; the lowest with the first of the layers that it lacks."
    )
    return Table("knock_out", "Without some of its layers", note, frame, columns)


def probe_table(findings: Findings) -> Table | None:
    """Linear probes, a row per network and layer."""
    experiment = findings.experiment
    frame = None if experiment is None else experiment.table("probes")
    if frame is None or frame.empty:
        return None
    known = [
        Column("network", "network"),
        Column("layer", "layer", whole, number=True),
        Column("train_accuracy", "training", fixed(3), number=True),
        Column("val_accuracy", "validation", fixed(3), number=True),
        Column("test_accuracy", "test", fixed(3), number=True),
    ]
    columns = [c for c in known if c.name in frame.columns]
    note = "Test accuracy of a linear classifier on each layer's representation."
    return Table("probes", "Linear probes", note, frame, columns)


def representation_table(findings: Findings) -> Table | None:
    """EV, ES and SV by region: the paper's table."""
    if findings.representations is None or findings.representations.empty:
        return None
    note = (
        "Mean squared differences between the receiver's expected representation (E), the one of a "
        "stitch trained for the task (V, vanilla) and of one trained for similarity (S), as in "
        "arXiv 2303.11277; relative ones are divided by the expected representation's variance. "
        f"{_BY_REGION}"
    )
    return region_table(
        findings.representations, "representations", "EV, ES and SV by region", note
    )


def measure_table(findings: Findings) -> Table | None:
    """Every measure by region, which says when similarity is small."""
    if findings.measures is None or findings.measures.empty:
        return None
    note = (
        "Likeness of the stitched to the expected representation on validation images, by what the "
        f"stitch was trained for. {_BY_REGION}"
    )
    return region_table(findings.measures, "measures", "When is similarity small?", note)


def all_tables(findings: Findings) -> list[Table]:
    """Every table that the findings give."""
    found = [
        verdict_table(findings.verdicts),
        *map(ladder_table, findings.ladders),
        representation_table(findings),
        measure_table(findings),
        task_table(findings),
        hacking_table(findings),
        agreement_table(findings),
        network_table(findings),
        probe_table(findings),
        importance_table(findings),
        front_table(findings),
        gap_table(findings),
    ]
    return [table for table in found if table is not None]


def safe_name(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "x"
