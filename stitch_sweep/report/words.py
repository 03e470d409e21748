"""What an experiment says, in sentences: what was run, what the matrices show, what is doubtful."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stitch_sweep.analysis.matrix.knock_out import by_removed, gap_matrix, is_knock_out
from stitch_sweep.analysis.matrix.quality import listed
from stitch_sweep.analysis.matrix.uncertainty import BINOMIAL, IMAGES
from stitch_sweep.analysis.matrix.verdict import CONTROLS, Verdict
from stitch_sweep.analysis.results import is_copied
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.findings import Findings, makes_images, mean_accuracy

MEANING = {
    "triangle": "deeper sender layers can be stitched into earlier receiver layers, not the other way",
    "diagonal": "only layers of like depth can be stitched",
    "full": "every layer can be stitched to every layer",
    "none": "no stitched network is better than chance",
    "upper": "earlier sender layers can be stitched into deeper receiver layers, not the other way",
    "gradient": "accuracy follows sender or receiver depth by itself, whatever the other",
    "unclear": "no shape can be named",
}
"""What a label says of a matrix."""

MOST_SENTENCES = 10
"""Above this many matrices their labels are counted by series; the table has each."""

MOST_SERIES = 3
"""Above this many combinations of factors a doubt gives their number in place of their names."""

MOST_GAPS = 4
"""Above this many knocked-out layers the table has the rest."""


@dataclass(frozen=True)
class Statement:
    """A sentence on one matrix or several.

    Attributes:
        subject: what it is about; may be empty.
        text: what is said of it.
        shape: the label it is about, which stands before the text; empty for none.
        target: id of the element of the page that shows it; empty for none.
    """

    subject: str
    text: str
    shape: str = ""
    target: str = ""


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: `1 pair`, `2 pairs`, `12,000 trials`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def signed(value: float, digits: int = 2) -> str:
    """A number with so many decimals and a real minus sign; none before a zero."""
    return f"{value:z.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(45), duration(300), duration(9000)
        ('45 s', '5.0 min', '2.5 h')
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def what_was_run(findings: Findings) -> str:
    """One paragraph: networks, data, pairs, cells, trials, time."""
    experiment = findings.experiment
    if experiment is None:
        (verdict,) = findings.verdicts
        rows, columns = verdict.matrix.values.shape
        cells = int(verdict.matrix.values.notna().to_numpy().sum())
        return (
            f"A bare matrix of {rows} sender layers by {columns} receiver layers, "
            f"{count(cells, 'value')}. Nothing else is known of how it was made."
        )
    results = experiment.results
    pairs = results[["sender", "receiver"]].drop_duplicates()
    networks = sorted({*map(str, results["sender"]), *map(str, results["receiver"])})
    run = results[["sender", "receiver", "sender_layer", "receiver_layer"]].drop_duplicates()
    where = _data(experiment)
    text = f"{count(len(networks), 'network')}{f' on {where}' if where else ''}"
    text += f", stitched as {count(len(pairs), 'pair')} in {count(len(run), 'cell')}"
    text += f", {count(len(findings.verdicts), 'matrix', 'matrices')} in all"
    if findings.verdicts and findings.verdicts[0].matrix.factors:
        crossed = {
            name: sorted({str(v.matrix.factors.get(name)) for v in findings.verdicts})
            for name in findings.verdicts[0].matrix.factors
        }
        text += f" (crossed: {'; '.join(f'{k} = {listed(v)}' for k, v in crossed.items())})"
    repeats = int(results["repeat"].nunique())
    trials = count(len(results), "trial")
    if experiment.planned and experiment.planned > len(results):
        trials = f"{len(results):,} of {count(experiment.planned, 'trial')}"
    text += f". {trials} have ended" if len(results) != 1 else ". 1 trial has ended"
    if repeats > 1:
        text += f", in {count(repeats, 'repeat')} of each cell"
    if copied := int(is_copied(results).sum()):
        text += f", {copied:,} of them copied from equal ones"
    if "seconds" in results:
        text += f", in {duration(float(results['seconds'].sum()))} of computing"
    return text + "."


def _data(experiment: Experiment) -> str:
    config = experiment.parts[0].config or {}
    data = config.get("data")
    if not isinstance(data, Mapping):
        return ""
    name, path = str(data.get("name", "")), data.get("path")
    text = Path(path).name if name == "parquet" and isinstance(path, str) else name
    if size := data.get("image_size"):
        text += f" ({size} × {size} pixels"
        text += f", {data['train_images']:,} training images)" if _whole(data) else ")"
    return text


def _whole(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("train_images"), int)


def what_the_verdicts_say(findings: Findings, targets: Mapping[int, str]) -> list[Statement]:
    """A sentence per matrix of a pair or, of many, per series; then what controls and ladders say.

    Args:
        findings: of one experiment.
        targets: position of a verdict -> id of the element of the page that shows it.
    """
    pairs = [(k, v) for k, v in enumerate(findings.verdicts) if v.control is None]
    if len(pairs) > MOST_SENTENCES:
        said = _counted([v for _, v in pairs], findings.experiment)
    else:
        said = [_statement(v, targets.get(k, ""), findings.experiment) for k, v in pairs]
    for verdict in findings.architectures:
        found = _statement(verdict, "", findings.experiment)
        said.append(replace(found, subject=f"over all seeds, {found.subject}"))
    said += _controls(findings.verdicts)
    # One kind of size stands for all here; the others are in their own section.
    for ladder in findings.ladders[:1]:
        for series, fit in ladder.fits.items():
            subject = f"ladder over {ladder.size}{f', {series}' if series else ''}"
            said.append(Statement(subject, fit.statement, target="ladder"))
    return said


def _counted(verdicts: Sequence[Verdict], experiment: Experiment | None) -> list[Statement]:
    """How many matrices of each series have which label; images and knocked-out layers have none."""
    shaped: dict[str, list[str]] = {}
    images: dict[str, list[Verdict]] = {}
    knocked_out = []
    for verdict in verdicts:
        series = verdict.matrix.factor_text
        if is_knock_out(verdict.matrix):
            knocked_out.append(verdict)
        elif makes_images(verdict.matrix):
            images.setdefault(series, []).append(verdict)
        else:
            shaped.setdefault(series, []).append(verdict.label)
    said = []
    for series, labels in sorted(shaped.items()):
        (most, number), *others = Counter(labels).most_common()
        text = f"{number} of {count(len(labels), 'matrix', 'matrices')} {most}"
        text += "".join(f", {n} {label}" for label, n in others)
        said.append(Statement(series or "all pairs", f"{text}."))
    for series, members in sorted(images.items()):
        about = f"{count(len(members), 'pair')} into images"
        said.append(_images(members, f"{about}, {series}" if series else about, experiment))
    said += [_knocked_out(v, "") for v in knocked_out[:MOST_SENTENCES]]
    if (more := len(knocked_out) - MOST_SENTENCES) > 0:
        said.append(
            Statement("layers knocked out", f"{count(more, 'further network')} in the table.")
        )
    return said


def _images(
    verdicts: Sequence[Verdict], subject: str, experiment: Experiment | None, target: str = ""
) -> Statement:
    """How well receivers know images that stitches made, and where the pictures are."""
    found = [
        (float(value), int(layer))
        for v in verdicts
        for layer, row in zip(v.matrix.values.index, v.matrix.values.to_numpy(), strict=True)
        for value in row[~np.isnan(row)]
    ]
    # What is made from the image itself is no measure of a layer.
    found = [known for known in found if known[1] >= 0] or found
    own = sorted(a for v in verdicts if not math.isnan(a := v.matrix.receiver_accuracy))
    if not found:
        return Statement(subject, "no image has been made.", target=target)
    (low, first), (high, last) = min(found), max(found)
    whose = "the receiver names" if len(verdicts) == 1 else "the receivers name"
    text = f"of images made from the sender's layers {whose} the class with an accuracy of "
    if f"{low:.2f}" == f"{high:.2f}":
        text += f"{low:.2f}"
    else:
        text += f"{low:.2f} (layer {first}) to {high:.2f} (layer {last})"
    if own:
        span = " to ".join(dict.fromkeys(f"{k:.2f}" for k in (own[0], own[-1])))
        text += f", of the images themselves {span}"
    if experiment is not None and _pictured(verdicts, experiment):
        return Statement(
            subject, f"{text}. The pictures are under Images and in figures/.", target="images"
        )
    return Statement(subject, f"{text}. There are no pictures of them.", target=target)


def _pictured(verdicts: Sequence[Verdict], experiment: Experiment) -> bool:
    pairs = {(v.matrix.sender, v.matrix.receiver) for v in verdicts}
    return any(
        (str(picture.about["sender"]), str(picture.about["receiver"])) in pairs
        for pictures in experiment.pictures
        if pictures.originals.shape[1] in (1, 3)  # what a screen can show
        for picture in pictures.pictures
    )


def _knocked_out(verdict: Verdict, target: str) -> Statement:
    matrix = verdict.matrix
    found = by_removed(gap_matrix(matrix))
    kept = [
        f"{mean:.2f} without {count(n, 'layer')}"
        for n, mean in zip(found["layers_removed"], found["mean"], strict=True)
    ]
    text = f"a stitch in place of some layers keeps an accuracy of {listed(kept[:MOST_GAPS])}"
    if len(kept) > 1:
        text += " on average"
    if not math.isnan(matrix.receiver_accuracy):
        text += f", where the whole network has {matrix.receiver_accuracy:.2f}"
    subject = f"{matrix.sender}, layers knocked out"
    if matrix.factors:
        subject += f", {matrix.factor_text}"
    return Statement(subject, text + ".", target=target)


def _statement(verdict: Verdict, target: str, experiment: Experiment | None) -> Statement:
    matrix = verdict.matrix
    if is_knock_out(matrix):
        return _knocked_out(verdict, target)
    if makes_images(matrix):
        subject = f"{matrix.sender} → image of {matrix.receiver}"
        subject += f", {matrix.factor_text}" if matrix.factors else ""
        return _images([verdict], subject, experiment, target)
    text = f": {MEANING[verdict.label]}"
    shape = verdict.parameters.label()
    if verdict.label == "unclear" and shape != "unclear":
        text += f", with so many cells missing or not converged; the others make it {shape}"
    index = {"diagonal": "diagonal", "gradient": "order"}.get(verdict.label, "triangle")
    value = getattr(verdict.parameters, index)
    if verdict.label not in _INDEXED:
        mean = mean_accuracy(verdict)
        text += "" if math.isnan(mean) else f" (mean accuracy {mean:.2f})"
    elif not math.isnan(value):
        text += f" ({_INDEX[index]} {signed(value)}"
        interval = verdict.intervals.get(index)
        if interval is not None and not math.isnan(interval.low):
            text += (
                f", {interval.level:.0%} interval {signed(interval.low)} to {signed(interval.high)}"
            )
        text += ")"
    if verdict.explained_by:
        controls = listed([CONTROLS.get(name, name) for name in verdict.explained_by])
        text += f". A control does the same: {controls}"
    subject = f"{matrix.sender} → {matrix.receiver}"
    if matrix.kind == "self-pair":
        subject += " (one network with itself)"
    if matrix.factors:
        subject += f", {matrix.factor_text}"
    return Statement(subject, text + ".", verdict.label, target)


_INDEXED = {"triangle", "diagonal", "upper", "gradient"}
_INDEX = {"triangle": "triangle index", "diagonal": "diagonal index", "order": "order parameter"}


def _controls(verdicts: Sequence[Verdict]) -> list[Statement]:
    found = []
    for kind, name in CONTROLS.items():
        shaped = Counter(
            v.shaped for v in verdicts if v.control == kind and not makes_images(v.matrix)
        )
        if shaped:
            shapes = listed([f"{n} {words}" for words, n in shaped.most_common()])
            found.append(Statement(f"controls, {name}", f"{shapes}."))
    return found


def what_is_doubtful(findings: Findings, measured: Iterable[str] = ()) -> list[str]:
    """What a reader should know before believing any of it, the weightiest first.

    Args:
        findings: of one experiment.
        measured: what couldn't be measured, a sentence each.
    """
    experiment, verdicts = findings.experiment, findings.verdicts
    said: list[str] = []
    if experiment is not None:
        said += [_capital(note) for note in experiment.notes]
        said += _trials(experiment.results)
        said += _sanity(experiment)
    said += _intervals(verdicts)
    if experiment is not None:
        said += _uncontrolled(verdicts)
    said += _hacking(findings)
    said += [_capital(text) for text in (*findings.notes, *measured)]
    return [text if text.endswith(".") else f"{text}." for text in dict.fromkeys(said)]


def _capital(text: str) -> str:
    """With a capital, unless it begins with the name of a file."""
    first = text.partition(" ")[0].rstrip(":,")
    return text[:1].upper() + text[1:] if first.isalpha() else text


def _trials(results: pd.DataFrame) -> list[str]:
    said = []
    failed = int((results["status"] == "failed").sum())
    if failed:
        said.append(
            f"{count(failed, 'trial')} of {len(results):,} failed; × marks cells without any other."
        )
    known = results[results["status"] == "finished"]["converged"].dropna().astype(bool)
    unconverged = int((~known).sum())
    if unconverged:
        said.append(
            f"{count(unconverged, 'finished trial')} of {len(known):,} did not converge; "
            "* marks cells whose best trial is one of them."
        )
    return said


def _sanity(experiment: Experiment) -> list[str]:
    said = []
    for part in experiment.parts:
        if part.sanity is None:
            continue
        bad = [c["name"] for c in part.sanity["checks"] if c["verdict"] == "fail"]
        if bad:
            said.append(f"The sanity suite of {part.name} failed: {', '.join(bad)}.")
    without = [part.name for part in experiment.parts if part.sanity is None]
    if without:
        said.append(
            f"The sanity suite's verdict is not there for {listed(without)}; "
            "`stitch-sweep sanity` writes it into the folder."
        )
    return said


def _uncontrolled(verdicts: Sequence[Verdict]) -> list[str]:
    """Which combinations of factors have shapes and no control: one of another says nothing of them."""
    controlled = {v.matrix.factor_text for v in verdicts if v.control}
    without = [
        v
        for v in verdicts
        if v.label in ("triangle", "diagonal", "full") and v.matrix.factor_text not in controlled
    ]
    if not without:
        return []
    where = ""
    if controlled:
        series = sorted({v.matrix.factor_text for v in without})
        where = f" for {'; '.join(name or 'matrices without factors' for name in series)}"
    return [
        f"No controls were run{where} (untrained networks, a sender that knows only the class), so "
        f"nothing shows whether {listed(sorted({v.label for v in without}))} "
        f"{'there ' if where else ''}says anything about representations."
    ]


def _intervals(verdicts: Sequence[Verdict]) -> list[str]:
    of: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if not makes_images(verdict.matrix):
            method = next((k.method for k in verdict.intervals.values()), "")
            of.setdefault(method, []).append(verdict)
    said = []
    if none := of.get(""):
        which = _which(none, of)
        why = "predictions or labels of the test images are missing"
        said.append(f"{f'Of {which} intervals are' if which else 'Intervals are'} missing: {why}.")
    basis = {
        IMAGES: "over test images, for these very networks: other seeds of them may differ by more",
        BINOMIAL: "measurement error only: neither networks nor trainings are in them",
    }
    for method, text in basis.items():
        if members := of.get(method):
            which = _which(members, of)
            said.append(f"Intervals{f' of {which}' if which else ''} are {text}.")
    return said


def _which(members: Sequence[Verdict], of: Mapping[str, Sequence[Verdict]]) -> str:
    """These matrices by their factors or, where others share those, by number; empty if all are."""
    others = [v for group in of.values() if group is not members for v in group]
    if not others:
        return ""
    series = sorted({v.matrix.factor_text for v in members})
    if len(series) > MOST_SERIES or set(series) & {v.matrix.factor_text for v in others}:
        return f"{len(members):,} of {len(members) + len(others):,} matrices"
    return "; ".join(name or "matrices without factors" for name in series)


def _hacking(findings: Findings) -> list[str]:
    table = findings.hacking
    if table is None or table.empty:
        return []
    pairs = table[table["control"].isna()]
    number, among_controls = (
        int(part["hacking"].fillna(False).sum())
        for part in (pairs, table[table["control"].notna()])
    )
    if not number:
        return []
    text = (
        f"{count(number, 'best trial')} of {len(pairs):,} {'performs' if number == 1 else 'perform'} "
        "well through a representation that is no nearer to the expected one than a constant"
    )
    if controls := len(table) - len(pairs):
        text += f" (controls, not counted in: {among_controls:,} of {controls:,})"
    return [f"{text}."]
