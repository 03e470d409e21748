"""Reasons to doubt the findings: missing files, failed trials, missing controls, kinds of intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from stitch_sweep.analysis.matrix.notes import listed
from stitch_sweep.analysis.matrix.uncertainty import BINOMIAL, IMAGES
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.findings import Findings, makes_images
from stitch_sweep.report.wording import capitalize_sentence, pluralize

MAX_SERIES = 3
"""A doubt names at most this many combinations of factors; if there are more, it gives their number."""

_INTERVAL_BASIS = {
    IMAGES: "over test images, for these networks only: networks of other seeds may differ more",
    BINOMIAL: "measurement error only: they don't cover other networks or other trainings",
}


def list_doubts(findings: Findings, unmeasured: Iterable[str] = ()) -> list[str]:
    """List the reasons to doubt the findings, a sentence each, the most important first.

    Args:
        findings: the findings of one experiment.
        unmeasured: failed measurements, a sentence each.
    """
    experiment, verdicts = findings.experiment, findings.verdicts
    doubts: list[str] = []
    if experiment is not None:
        doubts += [capitalize_sentence(note) for note in experiment.notes]
        doubts += _trial_doubts(experiment.results)
        doubts += _sanity_doubts(experiment)
    doubts += _interval_doubts(verdicts)
    if experiment is not None:
        doubts += _control_doubts(verdicts)
    doubts += _hacking_doubts(findings)
    doubts += [capitalize_sentence(text) for text in (*findings.notes, *unmeasured)]
    return [text if text.endswith(".") else f"{text}." for text in dict.fromkeys(doubts)]


def _trial_doubts(results: pd.DataFrame) -> list[str]:
    doubts = []
    failed = int((results["status"] == "failed").sum())
    if failed:
        doubts.append(
            f"{failed:,} of {pluralize(len(results), 'trial')} failed; × marks cells without any other."
        )
    converged = results.loc[results["status"] == "finished", "converged"].astype("boolean")
    of_all = f"of {pluralize(len(converged), 'finished trial')}"
    if unconverged := int((~converged).sum()):
        doubts.append(
            f"{unconverged:,} {of_all} did not converge; * marks cells whose best trial is one of "
            "them."
        )
    if unknown := int(converged.isna().sum()):
        doubts.append(f"{unknown:,} {of_all} can't show whether their training was long enough.")
    return doubts


def _sanity_doubts(experiment: Experiment) -> list[str]:
    doubts = []
    for part in experiment.parts:
        if part.sanity is None:
            continue
        failed = [c["name"] for c in part.sanity["checks"] if c["verdict"] == "fail"]
        if failed:
            doubts.append(f"The sanity suite of {part.name} failed: {', '.join(failed)}.")
    unchecked = [part.name for part in experiment.parts if part.sanity is None]
    if unchecked:
        doubts.append(
            f"The sanity suite has not been run for {listed(unchecked)}; `stitch-sweep sanity` "
            "writes its verdict into the folder."
        )
    return doubts


def _control_doubts(verdicts: Sequence[Verdict]) -> list[str]:
    """Name the factors whose shapes lack a control; controls of other factors prove nothing."""
    controlled = {v.matrix.factor_text for v in verdicts if v.control}
    uncontrolled = [
        v
        for v in verdicts
        if v.label in ("triangle", "diagonal", "full") and v.matrix.factor_text not in controlled
    ]
    if not uncontrolled:
        return []
    scope, place = "", ""
    if controlled:
        series = sorted({v.matrix.factor_text for v in uncontrolled})
        scope = f" for {'; '.join(name or 'matrices without factors' for name in series)}"
        place = "there "
    labels = listed(sorted({v.label for v in uncontrolled}))
    return [
        f"No controls were run{scope} (untrained networks, a sender that knows only the class), so "
        f"nothing shows whether {labels} {place}is evidence about representations."
    ]


def _interval_doubts(verdicts: Sequence[Verdict]) -> list[str]:
    by_method: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if not makes_images(verdict.matrix):
            method = next((k.method for k in verdict.intervals.values()), "")
            by_method.setdefault(method, []).append(verdict)
    doubts = []
    if without := by_method.get(""):
        names = _name_members(without, by_method)
        reason = "predictions or labels of the test images are missing"
        doubts.append(f"Intervals{f' of {names}' if names else ''} are missing: {reason}.")
    for method, basis in _INTERVAL_BASIS.items():
        if members := by_method.get(method):
            names = _name_members(members, by_method)
            doubts.append(f"Intervals{f' of {names}' if names else ''} are {basis}.")
    return doubts


def _name_members(members: Sequence[Verdict], groups: Mapping[str, Sequence[Verdict]]) -> str:
    """Name matrices by their factors, or by number if others share those; "" if all are members."""
    others = [v for group in groups.values() if group is not members for v in group]
    if not others:
        return ""
    series = sorted({v.matrix.factor_text for v in members})
    if len(series) > MAX_SERIES or set(series) & {v.matrix.factor_text for v in others}:
        return f"{len(members):,} of {len(members) + len(others):,} matrices"
    return "; ".join(name or "matrices without factors" for name in series)


def _hacking_doubts(findings: Findings) -> list[str]:
    table = findings.hacking
    if table is None or table.empty:
        return []
    pairs = table[table["control"].isna()]
    controls = table[table["control"].notna()]
    in_pairs, in_controls = (int(part["hacking"].fillna(False).sum()) for part in (pairs, controls))
    if not in_pairs:
        return []
    verb = "performs" if in_pairs == 1 else "perform"
    text = (
        f"{pluralize(in_pairs, 'best trial')} of {len(pairs):,} {verb} well through a "
        "representation that is no nearer to the expected one than a constant"
    )
    if len(controls):
        text += f" (controls, not counted in: {in_controls:,} of {len(controls):,})"
    return [f"{text}."]
