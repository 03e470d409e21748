"""Decide which matrices are controls, and which controls explain a pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from stitch_sweep.analysis.matrix.label_thresholds import Thresholds
from stitch_sweep.analysis.matrix.notes import listed
from stitch_sweep.analysis.matrix.order_parameters import REGIONS, OrderParameters, rescaled
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES, Verdict
from stitch_sweep.analysis.networks import architectures

_EXPLANATIONS = {
    "class_only": "class information alone suffices for it; this sender knows the test labels, so it "
    "does not show how much of the pair class information explains",
    "logits_only": "what linear probes read from the sender's layers suffices for it",
    "untrained_sender": "stitch and receiver reach it from untrained features",
    "untrained_receiver": "the stitch reaches it from the sender without a trained receiver",
    "untrained_both": "the stitch reaches it without any trained network",
    "image": "stitch and receiver reach it from the image itself",
}
_UNTRAINED = ("random", "random_raw")
# The configuration's `controls` appends these to a network's name.
_SUFFIXES = ("-untrained", "-class-only", "-logits-only")
_SENDERS_ONLY = ("class_only", "logits_only")
_LITTLE = "the accuracy of the regions says little about the layers"


def network_weights(networks: pd.DataFrame | None) -> dict[str, str]:
    """Map each measured network to the source of its weights, where recorded."""
    if networks is None or "weights" not in networks.columns:
        return {}
    recorded = networks[["network", "weights"]].dropna()
    return dict(zip(recorded["network"].astype(str), recorded["weights"].astype(str), strict=True))


def network_kind(cells: pd.DataFrame, role: str, weights: Mapping[str, str]) -> str | None:
    """Return the kind of a matrix's sender or receiver; None if nothing records it.

    Args:
        cells: the best trials of the matrix.
        role: "sender" or "receiver".
        weights: the result of `network_weights`, for trials without `sender_kind`.
    """
    column = f"{role}_kind"
    kinds = cells[column].dropna() if column in cells.columns else pd.Series(dtype=str)
    return str(kinds.iloc[0]) if len(kinds) else weights.get(str(cells[role].iloc[0]))


def control_kind(sender_kind: str | None, receiver_kind: str | None) -> str | None:
    """Return the pair's kind of control, a key of `CONTROL_TITLES`; None if it is not a control."""
    if sender_kind in _SENDERS_ONLY:
        return sender_kind
    untrained = (sender_kind in _UNTRAINED, receiver_kind in _UNTRAINED)
    names = {(True, True): "both", (True, False): "sender", (False, True): "receiver"}
    return f"untrained_{names[untrained]}" if untrained in names else None


def controls_of(
    verdict: Verdict,
    judged: Sequence[Verdict],
    kinds: Sequence[tuple[str, str]],
    networks: pd.DataFrame | None,
) -> list[Verdict]:
    """Find the controls of a pair: on each side the pair's network or a control variant of it.

    Args:
        verdict: the pair's verdict.
        judged: the verdicts of all matrices.
        kinds: kinds of sender and receiver of each of them.
        networks: columns `network`, `family` and `options`: an untrained network of the same
            architecture is a variant too.
    """
    described = {} if networks is None else architectures(networks)

    def stands_for(name: str, kind: str, network: str) -> bool:
        if name == network:
            return True
        if kind not in (*_UNTRAINED, *_SENDERS_ONLY):
            return False
        same = name in described and described[name] == described.get(network)
        return same or name in [network + suffix for suffix in _SUFFIXES]

    return [
        other
        for other, (sender_kind, receiver_kind) in zip(judged, kinds, strict=True)
        if other.control is not None
        and other.withheld != "gaps"
        and other.matrix.factors == verdict.matrix.factors
        and other.matrix.value_name == verdict.matrix.value_name
        and stands_for(other.matrix.sender, sender_kind, verdict.matrix.sender)
        and stands_for(other.matrix.receiver, receiver_kind, verdict.matrix.receiver)
    ]


def explain(verdict: Verdict, controls: Sequence[Verdict], thresholds: Thresholds) -> Verdict:
    """Add the controls that explain the pair.

    A control explains the pair if it has the same label, or if it is at most `slack` below the pair in
    every region in which the pair performs, with values in at least half as many cells. A control
    that performs everywhere explains a triangle in this way: its good half is no evidence of anything
    that is specific to the sender. A class-only sender knows the labels, so it shows that class
    information suffices, not how much of the pair it explains.

    An `unclear` matrix has no shape to explain, but readers look at its regions. A note therefore
    names each control that is as high in them.
    """
    if verdict.label == "none":
        return verdict
    if verdict.label == "unclear":
        return replace(
            verdict, notes=[*verdict.notes, *_unclear_notes(verdict, controls, thresholds)]
        )
    explained, notes = [], []
    for control in controls:
        kind = str(control.control)
        name = _control_name(control)
        if control.label == verdict.label:
            notes.append(f"{name} has the same shape: {_EXPLANATIONS[kind]}")
        elif _is_as_high(control.parameters, verdict.parameters, thresholds):
            notes.append(f"{name} is as high wherever this pair performs: {_EXPLANATIONS[kind]}")
        else:
            continue
        explained.append(kind)
    if _is_image_as_high(verdict, thresholds):
        explained.append("image")
        notes.append(f"the row of the image is as high as the band: {_EXPLANATIONS['image']}")
    return replace(
        verdict,
        explained_by=[kind for kind in CONTROL_TITLES if kind in explained],
        notes=[*verdict.notes, *notes],
    )


def _unclear_notes(
    verdict: Verdict, controls: Sequence[Verdict], thresholds: Thresholds
) -> Iterator[str]:
    """Note each control that is as high wherever a matrix without a shape performs."""
    performing = _performing_regions(verdict.parameters, thresholds)
    place = (
        "every region"
        if len(performing) == len(REGIONS)
        else f"the {listed(performing)} {'region' if len(performing) == 1 else 'regions'}, wherever "
        "this pair performs"
    )
    for control in controls:
        if _is_as_high(control.parameters, verdict.parameters, thresholds):
            yield f"{_control_name(control)} reaches as much in {place}: {_LITTLE}"
    if _is_image_as_high(verdict, thresholds):
        yield f"the row of the image is as high as the band: {_LITTLE}"


def _control_name(control: Verdict) -> str:
    matrix = control.matrix
    return f"{matrix.sender} → {matrix.receiver} ({CONTROL_TITLES[str(control.control)]})"


def _performing_regions(pair: OrderParameters, thresholds: Thresholds) -> list[str]:
    return [region for region in REGIONS if getattr(pair, region) >= thresholds.high]


def _is_as_high(control: OrderParameters, pair: OrderParameters, thresholds: Thresholds) -> bool:
    """Whether a control is as high as a pair in every region in which the pair performs."""
    performing = _performing_regions(pair, thresholds)
    return bool(performing) and all(
        getattr(control, r) >= getattr(pair, r) - thresholds.slack
        and 2 * control.cells[r] >= pair.cells[r]
        for r in performing
    )


def _is_image_as_high(verdict: Verdict, thresholds: Thresholds) -> bool:
    """Whether at least half of the image's row has values, all of them as high as the band."""
    values = rescaled(verdict.matrix.values, verdict.chance, verdict.best_accuracy)
    if -1 not in values.index or not verdict.parameters.band >= thresholds.high:
        return False
    columns = [k for k in values.columns if int(k) >= 0]
    row = values.loc[-1, columns].dropna()
    return 2 * len(row) >= len(columns) > 0 and bool(
        (row >= verdict.parameters.band - thresholds.slack).all()
    )
