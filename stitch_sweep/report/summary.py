"""The summary of an experiment in sentences: the trials that ended, and the shape of every matrix."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stitch_sweep.analysis.matrix.excess import EXCESS_THRESHOLDS
from stitch_sweep.analysis.matrix.knock_out import by_removed, gap_matrix, is_knock_out
from stitch_sweep.analysis.matrix.label_thresholds import THRESHOLDS
from stitch_sweep.analysis.matrix.notes import listed
from stitch_sweep.analysis.matrix.order_parameters import REGIONS
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES, Verdict
from stitch_sweep.analysis.results import CELL, PAIR, is_copied
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.findings import (
    DECISIONS,
    Findings,
    makes_images,
    mean_accuracy,
    own_accuracies,
)
from stitch_sweep.report.wording import format_duration, format_signed, pluralize

MEANING = {
    "triangle": "deeper sender layers can be stitched into earlier receiver layers, but not vice versa",
    "diagonal": "only layers of similar depth can be stitched",
    "full": "every layer can be stitched to every layer",
    "none": "no stitched network is better than chance",
    "upper": "earlier sender layers can be stitched into deeper receiver layers, but not vice versa",
    "gradient": "accuracy depends on the sender's or on the receiver's depth alone",
    "unclear": "no shape can be named",
}
"""The meaning of each label."""

EXCESS_MEANING = {
    "triangle": "at equal depth and below, the receiver uses more of the sender than the class "
    "information that linear probes read",
    "diagonal": "at equal depth above all, the receiver uses more of the sender than the class "
    "information that linear probes read",
    "full": "everywhere, the receiver uses more of the sender than the class information that linear "
    "probes read",
    "none": "the class information that linear probes read from the sender is all that the receiver uses",
    "upper": "at equal depth and above, the receiver uses more of the sender than the class "
    "information that linear probes read",
    "gradient": "it depends on the sender's or on the receiver's depth alone",
    "unclear": MEANING["unclear"],
}
"""The meaning of each label of an excess over the logits-only control."""

MAX_SENTENCES = 10
"""With more matrices, labels are counted by series; the table lists every matrix."""

MAX_GAPS = 4
"""Largest number of knocked-out layers in a sentence; the table has the rest."""

_INDEX_TITLES = {
    "triangle": "triangle index",
    "diagonal": "diagonal index",
    "order": "order parameter",
}
_INDEX_OF_LABEL = {
    "triangle": "triangle",
    "upper": "triangle",
    "diagonal": "diagonal",
    "gradient": "order",
}


@dataclass(frozen=True)
class Statement:
    """A sentence about one matrix or several.

    Attributes:
        subject: the subject; may be empty.
        text: the statement.
        shape: the label, printed before the text; empty for none.
        target: id of the page's element that shows the subject; empty for none.
    """

    subject: str
    text: str
    shape: str = ""
    target: str = ""


def describe_run(findings: Findings) -> str:
    """Describe networks, data, pairs, cells, trials and time in one paragraph."""
    experiment = findings.experiment
    if experiment is None:
        (verdict,) = findings.verdicts
        rows, columns = verdict.matrix.values.shape
        cells = int(verdict.matrix.values.notna().to_numpy().sum())
        return (
            f"A bare matrix of {rows} sender layers by {columns} receiver layers, "
            f"{pluralize(cells, 'value')}. Nothing else is known about it."
        )
    results = experiment.results
    pairs = results[PAIR].drop_duplicates()
    cells = len(results[[*PAIR, *CELL]].drop_duplicates())
    networks = {str(name) for role in PAIR for name in results[role]}
    data = _describe_data(experiment)
    text = f"{pluralize(len(networks), 'network')}{f' on {data}' if data else ''}"
    text += f", stitched as {pluralize(len(pairs), 'pair')} in {pluralize(cells, 'cell')}"
    text += f", {pluralize(len(findings.verdicts), 'matrix', 'matrices')} in all"
    if findings.verdicts and findings.verdicts[0].matrix.factors:
        crossed = {
            name: sorted({str(v.matrix.factors.get(name)) for v in findings.verdicts})
            for name in findings.verdicts[0].matrix.factors
        }
        text += f" (crossed: {'; '.join(f'{k} = {listed(v)}' for k, v in crossed.items())})"
    repeats = int(results["repeat"].nunique())
    trials = pluralize(len(results), "trial")
    if experiment.planned and experiment.planned > len(results):
        trials = f"{len(results):,} of {pluralize(experiment.planned, 'trial')}"
    text += f". {trials} have ended" if len(results) != 1 else ". 1 trial has ended"
    if repeats > 1:
        text += f", in {pluralize(repeats, 'repeat')} of each cell"
    if copied := int(is_copied(results).sum()):
        text += f", {copied:,} of them copied from equal ones"
    if "seconds" in results:
        text += f", in {format_duration(float(results['seconds'].sum()))} of computing"
    return text + "."


def _describe_data(experiment: Experiment) -> str:
    config = experiment.parts[0].config or {}
    data = config.get("data")
    if not isinstance(data, Mapping):
        return ""
    name, path = str(data.get("name", "")), data.get("path")
    text = Path(path).name if name == "parquet" and isinstance(path, str) else name
    if size := data.get("image_size"):
        text += f" ({size} × {size} pixels"
        text += f", {train:,} training images)" if (train := _train_images(data)) else ")"
    return text


def _train_images(data: Mapping[str, Any]) -> int | None:
    number = data.get("train_images")
    return number if isinstance(number, int) else None


def describe_verdicts(findings: Findings, targets: Mapping[int, str]) -> list[Statement]:
    """Describe every matrix of a pair, or count them by series; then controls and ladders.

    Args:
        findings: the findings of one experiment.
        targets: position of a verdict -> id of the page's element that shows it.
    """
    pairs = [(k, v) for k, v in enumerate(findings.verdicts) if v.control is None]
    if len(pairs) > MAX_SENTENCES:
        judged = [*(v for _, v in pairs), *findings.excesses]
        statements = _count_by_series(judged, findings.experiment)
    else:
        statements = [
            _describe_verdict(verdict, targets.get(k, ""), findings.experiment)
            for k, pair in pairs
            for verdict in (pair, pair.excess)
            if verdict is not None
        ]
    for verdict in findings.architectures:
        statement = _describe_verdict(verdict, "", findings.experiment)
        statements.append(replace(statement, subject=f"over all seeds, {statement.subject}"))
    statements += _describe_controls(findings.verdicts)
    statements += _describe_decisions(findings)
    # The section on ladders has the other kinds of size.
    for ladder in findings.ladders[:1]:
        for series, fit in ladder.fits.items():
            subject = f"ladder over {ladder.size}{f', {series}' if series else ''}"
            statements.append(Statement(subject, fit.statement, target="ladder"))
    return statements


def _count_by_series(verdicts: Sequence[Verdict], experiment: Experiment | None) -> list[Statement]:
    """Count the labels of each series. Images and knocked-out layers have no label."""
    labels_of_series: dict[str, list[str]] = {}
    images_of_series: dict[str, list[Verdict]] = {}
    knocked_out = []
    for verdict in verdicts:
        series = verdict.matrix.series
        if is_knock_out(verdict.matrix):
            knocked_out.append(verdict)
        elif makes_images(verdict.matrix):
            images_of_series.setdefault(series, []).append(verdict)
        else:
            labels_of_series.setdefault(series, []).append(verdict.label)
    statements = []
    for series, labels in sorted(labels_of_series.items()):
        (most, number), *others = Counter(labels).most_common()
        text = f"{number} of {pluralize(len(labels), 'matrix', 'matrices')} {most}"
        text += "".join(f", {n} {label}" for label, n in others)
        statements.append(Statement(series or "all pairs", f"{text}."))
    for series, members in sorted(images_of_series.items()):
        subject = f"{pluralize(len(members), 'pair')} into images"
        subject += f", {series}" if series else ""
        statements.append(_describe_images(members, subject, experiment))
    statements += [_describe_knock_out(v, "") for v in knocked_out[:MAX_SENTENCES]]
    if (more := len(knocked_out) - MAX_SENTENCES) > 0:
        text = f"{pluralize(more, 'further network')} in the table."
        statements.append(Statement("layers knocked out", text))
    return statements


def _describe_images(
    verdicts: Sequence[Verdict], subject: str, experiment: Experiment | None, target: str = ""
) -> Statement:
    """Describe the accuracy of receivers on images from stitches, and the location of the pictures."""
    values_with_layers = [
        (float(value), int(layer))
        for v in verdicts
        for layer, row in zip(v.matrix.values.index, v.matrix.values.to_numpy(), strict=True)
        for value in row[~np.isnan(row)]
    ]
    # An image made from the image itself measures no layer.
    values_with_layers = [k for k in values_with_layers if k[1] >= 0] or values_with_layers
    if not values_with_layers:
        return Statement(subject, "no image has been made.", target=target)
    (low, lowest_layer), (high, highest_layer) = min(values_with_layers), max(values_with_layers)
    receivers = "the receiver names" if len(verdicts) == 1 else "the receivers name"
    text = f"of images made from the sender's layers {receivers} the class with an accuracy of "
    if f"{low:.2f}" == f"{high:.2f}":
        text += f"{low:.2f}"
    else:
        text += f"{low:.2f} (layer {lowest_layer}) to {high:.2f} (layer {highest_layer})"
    if accuracies := own_accuracies(verdicts):
        ends = (accuracies[0], accuracies[-1])
        span = " to ".join(dict.fromkeys(f"{accuracy:.2f}" for accuracy in ends))
        text += f", of the images themselves {span}"
    if experiment is not None and _have_pictures(verdicts, experiment):
        return Statement(
            subject, f"{text}. The pictures are under Images and in figures/.", target="images"
        )
    return Statement(subject, f"{text}. There are no pictures of them.", target=target)


def _have_pictures(verdicts: Sequence[Verdict], experiment: Experiment) -> bool:
    pairs = {(v.matrix.sender, v.matrix.receiver) for v in verdicts}
    return any(
        (str(picture.about["sender"]), str(picture.about["receiver"])) in pairs
        for pictures in experiment.pictures
        if pictures.originals.shape[1] in (1, 3)  # channels that a screen can show
        for picture in pictures.pictures
    )


def _describe_knock_out(verdict: Verdict, target: str) -> Statement:
    matrix = verdict.matrix
    means = by_removed(gap_matrix(matrix))
    accuracies = [
        f"{mean:.2f} without {pluralize(n, 'layer')}"
        for n, mean in zip(means["layers_removed"], means["mean"], strict=True)
    ]
    text = f"a stitch in place of some layers keeps an accuracy of {listed(accuracies[:MAX_GAPS])}"
    if len(accuracies) > 1:
        text += " on average"
    if not math.isnan(matrix.receiver_accuracy):
        text += f", where the whole network has {matrix.receiver_accuracy:.2f}"
    subject = f"{matrix.sender}, layers knocked out"
    if matrix.factors:
        subject += f", {matrix.factor_text}"
    return Statement(subject, text + ".", target=target)


def _describe_verdict(verdict: Verdict, target: str, experiment: Experiment | None) -> Statement:
    matrix = verdict.matrix
    if is_knock_out(matrix):
        return _describe_knock_out(verdict, target)
    if makes_images(matrix):
        subject = f"{matrix.sender} → image of {matrix.receiver}"
        subject += f", {matrix.factor_text}" if matrix.factors else ""
        return _describe_images([verdict], subject, experiment, target)
    meaning = EXCESS_MEANING if matrix.is_difference else MEANING
    text = f": {meaning[verdict.label]}"
    shape = verdict.parameters.label(EXCESS_THRESHOLDS if matrix.is_difference else THRESHOLDS)
    if verdict.label == "unclear" and shape != "unclear":
        text += f"; too many cells are missing or not converged, and the other cells give {shape}"
    text += _index_text(verdict)
    if verdict.explained_by:
        controls = listed([CONTROL_TITLES.get(name, name) for name in verdict.explained_by])
        text += f". A control does the same: {controls}"
        if "class_only" in verdict.explained_by:
            text += " (it knows the test labels: class information suffices, no more is shown)"
    text += _reduced_text(verdict)
    subject = f"{matrix.sender} → {matrix.receiver}"
    if matrix.kind == "self-pair":
        subject += " (one network with itself)"
    if matrix.series:
        subject += f", {matrix.series}"
    return Statement(subject, text + ".", verdict.label, target)


def _reduced_text(verdict: Verdict) -> str:
    """Give label and triangle index without the columns that say nothing about the receiver."""
    if verdict.reduced is None:
        return ""
    layers = listed([str(k) for k in sorted(verdict.matrix.receiver_free)])
    value = verdict.reduced.parameters.triangle
    index = "" if math.isnan(value) else f", triangle index {format_signed(value)}"
    if verdict.matrix.is_difference:  # its pair's sentence explains it
        return f". Without receiver layer {layers}: {verdict.reduced.label}{index}"
    several = len(verdict.matrix.receiver_free) > 1
    plural, says = ("s", "say") if several else ("", "says")
    return (
        f". After receiver layer{plural} {layers}, the rest of the receiver is linear, so column{plural} "
        f"{layers} {says} nothing about the receiver. Without column{plural} {layers}: "
        f"{verdict.reduced.label}{index}"
    )


def _index_text(verdict: Verdict) -> str:
    """Give the index behind the label with its interval, or else the mean accuracy."""
    index = _INDEX_OF_LABEL.get(verdict.label)
    if index is None:
        mean = mean_accuracy(verdict)
        value = (
            f"mean {verdict.matrix.value_label}"
            if verdict.matrix.is_difference
            else "mean accuracy"
        )
        return "" if math.isnan(mean) else f" ({value} {format_signed(mean)})"
    value = getattr(verdict.parameters, index)
    if math.isnan(value):
        return ""
    text = f" ({_INDEX_TITLES[index]} {format_signed(value)}"
    interval = verdict.intervals.get(index)
    if interval is not None and not math.isnan(interval.low):
        low, high = format_signed(interval.low), format_signed(interval.high)
        text += f", {interval.level:.0%} interval {low} to {high}"
    return text + ")"


def _describe_decisions(findings: Findings) -> list[Statement]:
    """Say where stitched networks fail like their senders rather than like their receivers.

    Only pairs that aren't controls count, with a mean over matrices for each region.
    """
    table = findings.decisions
    if table is None or table.empty:
        return []
    pairs = {(v.matrix.sender, v.matrix.receiver) for v in findings.verdicts if v.control is None}
    sender, receiver = DECISIONS
    is_pair = [pair in pairs for pair in zip(*(table[name] for name in PAIR), strict=True)]
    means = table[is_pair].groupby(["region", "quantity"])["mean"].mean().unstack("quantity")
    regions = [
        f"{region} ({row[sender]:.2f} and {row[receiver]:.2f})"
        for region in REGIONS
        if region in means.index
        for row in [means.loc[region]]
        if row.get(sender, math.nan) > row.get(receiver, math.nan)
    ]
    if not regions:
        return []
    text = (
        "stitched networks fail more like their senders than like their receivers in these regions: "
        f"{listed(regions)}."
    )
    return [Statement("error consistency with sender and receiver", text)]


def _describe_controls(verdicts: Sequence[Verdict]) -> list[Statement]:
    statements = []
    for kind, name in CONTROL_TITLES.items():
        shapes = Counter(
            v.shaped for v in verdicts if v.control == kind and not makes_images(v.matrix)
        )
        if shapes:
            text = listed([f"{n} {words}" for words, n in shapes.most_common()])
            statements.append(Statement(f"controls, {name}", f"{text}."))
    return statements
