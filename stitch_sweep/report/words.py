"""What an experiment says, in sentences: what was run, what the matrices show, what is doubtful."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from stitch_sweep.analysis.knock_out import by_removed, gap_matrix, is_knock_out
from stitch_sweep.analysis.quality import listed
from stitch_sweep.analysis.uncertainty import BINOMIAL, IMAGES, NETWORKS
from stitch_sweep.analysis.verdict import CONTROLS, Verdict
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.findings import Findings, mean_accuracy

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
"""Above this many matrices their labels are counted; the table has each."""

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
    """A sentence per matrix of a pair, then what controls and ladders say.

    Args:
        findings: of one experiment.
        targets: position of a verdict -> id of the element of the page that shows it.
    """
    pairs = [(k, v) for k, v in enumerate(findings.verdicts) if v.control is None]
    said = [_statement(v, targets.get(k, "")) for k, v in pairs[:MOST_SENTENCES]]
    if len(pairs) > MOST_SENTENCES:
        said = [
            Statement(count(number, "matrix", "matrices"), f": {MEANING[label]}.", label)
            for label, number in Counter(v.label for _, v in pairs).most_common()
        ]
    for verdict in findings.architectures:
        found = _statement(verdict, "")
        said.append(replace(found, subject=f"over all seeds, {found.subject}"))
    said += _controls(findings.verdicts)
    # One kind of size stands for all here; the others are in their own section.
    for ladder in findings.ladders[:1]:
        for series, fit in ladder.fits.items():
            subject = f"ladder over {ladder.size}{f', {series}' if series else ''}"
            said.append(Statement(subject, fit.statement, target="ladder"))
    return said


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


def _statement(verdict: Verdict, target: str) -> Statement:
    if is_knock_out(verdict.matrix):
        return _knocked_out(verdict, target)
    matrix = verdict.matrix
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
        shaped = Counter(v.shaped for v in verdicts if v.control == kind)
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
    if experiment is not None and not any(v.control for v in verdicts):
        shapes = {v.label for v in verdicts} & {"triangle", "diagonal", "full"}
        if shapes:
            said.append(
                "No controls were run (untrained networks, a sender that knows only the class), so "
                f"nothing shows whether {listed(sorted(shapes))} says anything about representations."
            )
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


def _intervals(verdicts: Sequence[Verdict]) -> list[str]:
    methods = {interval.method for v in verdicts for interval in v.intervals.values()}
    said = []
    if any(not v.intervals for v in verdicts):
        which = "No matrix has" if not methods else "Some matrices have no"
        said.append(f"{which} intervals: predictions or labels of the test images are missing.")
    if IMAGES in methods and NETWORKS not in methods:
        said.append(
            "Intervals are over test images, for these very networks: other seeds of them may "
            "differ by more."
        )
    if BINOMIAL in methods:
        said.append(
            "Intervals are measurement error only: neither networks nor trainings are in them."
        )
    return said


def _hacking(findings: Findings) -> list[str]:
    table = findings.hacking
    if table is None or table.empty:
        return []
    found = int(table["hacking"].fillna(False).sum())
    if not found:
        return []
    return [
        f"{count(found, 'best trial')} of {len(table):,} {'performs' if found == 1 else 'perform'} well "
        "through a representation that is no nearer to the expected one than a constant."
    ]
