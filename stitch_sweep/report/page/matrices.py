"""Interactive matrices: one group per pair, with every value that the results have."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from stitch_sweep.analysis.matrix.matrices import best_by_matrix, matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.notes import listed
from stitch_sweep.analysis.matrix.order_parameters import REGIONS
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES, Verdict
from stitch_sweep.analysis.results import best_trials
from stitch_sweep.charts.captions import describe_networks, explain_marks, format_value
from stitch_sweep.charts.colors import color_scale, series_style, value_range
from stitch_sweep.charts.matrices import describe_matrix
from stitch_sweep.charts.plotly_renderer import (
    DASHES,
    escape_markup,
    matrix_to_plotly,
    to_json_values,
)
from stitch_sweep.core.measures import (
    AGREEMENTS,
    BEYOND_LOGITS,
    COLUMNS,
    REPRESENTATION_QUANTITIES,
)
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.findings import Findings, headline, makes_images
from stitch_sweep.report.page.data import PageData
from stitch_sweep.report.tables.formats import format_interval
from stitch_sweep.report.wording import format_signed, pluralize

_COLUMNS = (
    "accuracy_calibrated",
    "test_accuracy",
    BEYOND_LOGITS,
    "val_accuracy",
    "penalty",
    "val_relative_mse",
    "val_cosine",
    "val_correlation",
    "val_cca",
    "val_svcca",
    "val_pwcca",
    "val_cka",
    "val_jaccard_knn",
    "val_second_order_cosine",
    "val_knn_agreement",
    "val_procrustes",
    *REPRESENTATION_QUANTITIES,
    "agreement_sender",
    "agreement_receiver",
    "kappa_sender",
    "kappa_receiver",
)
VALUES = {
    **{name: COLUMNS[name].title for name in _COLUMNS},
    "excess": "training error above the optimum",
    "seconds": "seconds",
}
"""Values that the matrices can show, in the order of the menu: column -> title."""


@dataclass(frozen=True)
class Variant:
    """One matrix of a pair with the texts around it.

    Attributes:
        figure: key of the figure in the page's data.
        title: the factors.
        label: the shape's label, which selects the icon.
        headline: the label as it is shown.
        indices: name, value and interval of each index.
        notes: reservations of the verdict.
        facts: names and texts of further facts.
    """

    figure: str
    title: str
    label: str
    headline: str
    indices: list[tuple[str, str, str]]
    notes: list[str]
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Group:
    """All matrices of one pair, and the selected cell below them.

    Attributes:
        id: id of the page's element.
        title: sender and receiver.
        subtitle: kind of control, and the networks' accuracies.
        variants: the matrices.
        values: columns and titles of the menu.
        shown: the column that is shown first.
        low: lower end of the color scale.
        high: upper end of the color scale.
        gradient: colors of the scale, for CSS.
        rows: sender layers; empty if cells can't be selected.
        columns: receiver layers.
        legend: meaning of layers and marks.
    """

    id: str
    title: str
    subtitle: str
    variants: list[Variant]
    values: list[tuple[str, str]]
    shown: str
    low: str
    high: str
    gradient: str
    rows: list[int]
    columns: list[int]
    legend: str


def build_groups(
    findings: Findings, data: PageData, prefix: str
) -> tuple[list[Group], list[Group], dict[int, str]]:
    """Build the groups of all pairs.

    Args:
        findings: the findings of an experiment.
        data: figures and groups are added to it.
        prefix: text before each trial's id.

    Returns:
        The pairs, the controls, and position of a verdict -> key of its figure.
    """
    assert findings.experiment is not None
    builder = _GroupBuilder(findings, findings.experiment, data, prefix)
    positions_of_pairs: dict[tuple[str, str], list[int]] = {}
    for position, verdict in enumerate(findings.verdicts):
        pair = (verdict.matrix.sender, verdict.matrix.receiver)
        positions_of_pairs.setdefault(pair, []).append(position)
    pairs: list[Group] = []
    controls: list[Group] = []
    targets: dict[int, str] = {}
    for positions in positions_of_pairs.values():
        members = [findings.verdicts[position] for position in positions]
        group = builder.build(members)
        figures = [variant.figure for variant in group.variants]
        targets |= dict(zip(positions, figures, strict=True))
        (controls if members[0].control else pairs).append(group)
    return pairs, controls, targets


def build_bare_group(verdict: Verdict, data: PageData) -> Group:
    """Build the group of a bare matrix, whose cells have no trials."""
    matrix = verdict.matrix
    low, high = limits = value_range([matrix])
    figure = matrix_to_plotly(describe_matrix(matrix, limits))
    panel = data.add_figure("", "", matrix.title, figure)
    return Group(
        id="pair0",
        title=f"{matrix.sender} → {matrix.receiver}",
        subtitle=describe_networks(matrix),
        variants=[_build_variant(verdict, panel.id)],
        values=[(matrix.value_name, matrix.value_label)],
        shown=matrix.value_name,
        low=format_value(low),
        high=format_value(high),
        gradient=_gradient(limits),
        rows=[],
        columns=[],
        legend="; ".join(explain_marks([matrix], missing="grey")),
    )


def _gradient(limits: tuple[float, float]) -> str:
    """Return the colors of a scale for a gradient in CSS."""
    return ", ".join(color for _, color in color_scale(*limits))


class _GroupBuilder:
    """Builds the groups of one experiment, which share values and color scales."""

    def __init__(
        self, findings: Findings, experiment: Experiment, data: PageData, prefix: str
    ) -> None:
        self.data = data
        self.prefix = prefix
        self.matrices = _matrices_of_values(findings, experiment)
        self.limits = {key: value_range(list(m.values())) for key, m in self.matrices.items()}
        self.trials = _trials_of_cells(experiment)

    def build(self, members: Sequence[Verdict]) -> Group:
        """Build the group of one pair's verdicts."""
        first = members[0].matrix
        keys = [
            key
            for key, by_identity in self.matrices.items()
            if any(by_identity[_identity(v.matrix)].values.notna().any(axis=None) for v in members)
        ]
        shown = first.value_name if first.value_name in keys else (keys or ["test_accuracy"])[0]
        low, high = self.limits[shown]
        variants, drawn = [], []
        for position, verdict in enumerate(members):
            variant, record = self._build_matrix(verdict, position, keys, shown)
            variants.append(variant)
            drawn.append(record)
        subtitle = [first.kind if first.kind == "self-pair" else "", describe_networks(first)]
        if members[0].control:
            subtitle.insert(
                0, f"control: {CONTROL_TITLES.get(members[0].control, members[0].control)}"
            )
        group = Group(
            id=f"pair{len(self.data.groups)}",
            title=f"{first.sender} → {first.receiver}",
            subtitle="; ".join(filter(None, subtitle)),
            variants=variants,
            values=[(key, VALUES[key]) for key in keys],
            shown=shown,
            low=format_value(low),
            high=format_value(high),
            gradient=_gradient(self.limits[shown]),
            rows=[int(layer) for layer in first.values.index],
            columns=[int(layer) for layer in first.values.columns],
            legend="; ".join(explain_marks([v.matrix for v in members], missing="grey")),
        )
        self.data.groups.append(
            {
                "id": group.id,
                "values": [
                    {"key": key, "label": title, "hover": escape_markup(title),
                     "low": self.limits[key][0], "high": self.limits[key][1],
                     "scale": self.data.add_scale(self.limits[key])}
                    for key, title in group.values
                ],
                "variants": drawn,
                "start": _lowest_cell(self.matrices[shown][_identity(first)]),
                "repeats": max(v.matrix.repeats for v in members),
                "positive": self._has_positive_losses(drawn),
            }
        )  # fmt: skip
        return group

    def _build_matrix(
        self, verdict: Verdict, position: int, keys: Sequence[str], shown: str
    ) -> tuple[Variant, dict[str, Any]]:
        """Build one matrix: its texts, and the record that the page's script reads."""
        matrix, identity = verdict.matrix, _identity(verdict.matrix)
        heatmap = describe_matrix(self.matrices[shown][identity], self.limits[shown])
        panel = self.data.add_figure("", "", matrix.title, matrix_to_plotly(heatmap))
        style = series_style(position)
        label = matrix.factor_text or "stitch"
        return _build_variant(verdict, panel.id), {
            "figure": panel.id,
            "label": label,
            "hover": escape_markup(label),
            "color": style.color,
            "dash": DASHES[style.dash],
            "values": {
                key: to_json_values(self.matrices[key][identity].values.to_numpy()) for key in keys
            },
            "marks": [
                ["*" if mark else "" for mark in row] for row in matrix.unconverged.to_numpy()
            ],
            "trials": [
                [
                    [
                        self.prefix + trial
                        for trial in self.trials.get((identity, int(i), int(j)), [])
                    ]
                    for j in matrix.values.columns
                ]
                for i in matrix.values.index
            ],
        }

    def _has_positive_losses(self, drawn: Sequence[Mapping[str, Any]]) -> bool:
        """Whether every training loss fits on a logarithmic axis."""
        trajectories = self.data.trajectories
        losses = [
            min(trajectories[trial]["loss"], default=1.0)
            for variant in drawn
            for trial in set(_flatten(variant["trials"]))
            if trial in trajectories
        ]
        return min(losses, default=1.0) > 0


def _flatten(trials: Sequence[Sequence[Sequence[str]]]) -> Iterator[str]:
    return (trial for row in trials for cell in row for trial in cell)


def _identity(matrix: Matrix) -> str:
    return _encode_identity(matrix.sender, matrix.receiver, matrix.factors)


def _encode_identity(sender: str, receiver: str, factors: Mapping[str, Any]) -> str:
    return json.dumps([sender, receiver, sorted(factors.items())], default=repr)


def _matrices_of_values(findings: Findings, experiment: Experiment) -> dict[str, dict[str, Matrix]]:
    """Map every value in `VALUES` that the results have to its matrices, by identity."""
    by_value = {}
    receiver_free = {_identity(v.matrix): v.matrix.receiver_free for v in findings.verdicts}
    results = _add_agreement(_add_differences(experiment), findings.agreement)
    for key in VALUES:
        if key == BEYOND_LOGITS and findings.excesses:
            by_value[key] = {_identity(v.matrix): _excess_matrix(v) for v in findings.verdicts}
        if key not in results or not pd.api.types.is_numeric_dtype(results[key]):
            continue
        if results[key].notna().any() or key == "test_accuracy":
            value_matrices = matrices(results, key, metric=experiment.metric, mode=experiment.mode)
            by_value[key] = {
                name: replace(matrix, receiver_free=receiver_free.get(name, frozenset()))
                for matrix in value_matrices
                for name in [_identity(matrix)]
            }
    return by_value


def _excess_matrix(verdict: Verdict) -> Matrix:
    """Return what a pair reaches beyond its logits-only control; without one, a matrix without values."""
    if verdict.excess is not None:
        return verdict.excess.matrix
    blank = verdict.matrix.values * math.nan
    return replace(verdict.matrix, value_name=BEYOND_LOGITS, values=blank)


def _add_differences(experiment: Experiment) -> pd.DataFrame:
    """Return the results with EV, ES, SV and scores in the rows of the similarity-trained stitches."""
    results, table = experiment.results, experiment.table("representations")
    if table is None or "similarity_trial" not in table or table.empty:
        return results
    names = [name for name in REPRESENTATION_QUANTITIES if name in table]
    by_trial = table.drop_duplicates("similarity_trial").set_index("similarity_trial")[names]
    return results.join(by_trial.astype("float64"), on="trial")


def _add_agreement(results: pd.DataFrame, table: pd.DataFrame | None) -> pd.DataFrame:
    """Return the results with agreement and error consistency of each trial."""
    if table is None or table.empty:
        return results
    names = [name for name in VALUES if name in AGREEMENTS and name in table]
    by_trial = table.drop_duplicates("trial").set_index("trial")[names]
    return results.join(by_trial.astype("float64"), on="trial")


def _trials_of_cells(experiment: Experiment) -> dict[tuple[str, int, int], list[str]]:
    """Map (matrix, sender layer, receiver layer) to its trials, the best of each repeat first."""
    best = set(best_trials(experiment.results, experiment.metric, experiment.mode)["trial"])
    trials: dict[tuple[str, int, int], list[str]] = {}
    for (sender, receiver), factors, rows in best_by_matrix(experiment.results):
        identity = _encode_identity(sender, receiver, factors)
        ordered = rows.assign(_is_other=~rows["trial"].isin(best)).sort_values(
            ["_is_other", "repeat", "number"], kind="stable"
        )
        columns = ["trial", "sender_layer", "receiver_layer"]
        for trial, i, j in ordered[columns].itertuples(index=False):
            trials.setdefault((identity, int(i), int(j)), []).append(str(trial))
    return trials


def _lowest_cell(matrix: Matrix) -> list[int]:
    """Return row and column of the lowest value; the first cell if there is none."""
    values = matrix.values.to_numpy()
    finite = [
        (float(value), i, j)
        for i, row in enumerate(values)
        for j, value in enumerate(row)
        if not pd.isna(value)
    ]
    return list(min(finite)[1:]) if finite else [0, 0]


def _build_variant(verdict: Verdict, figure: str) -> Variant:
    variant = Variant(
        figure=figure,
        title=verdict.matrix.factor_text,
        label=verdict.label,
        headline=headline(verdict),
        indices=format_indices(verdict),
        notes=list(verdict.notes),
        facts=[(name, text) for name, text in _list_facts(verdict) if text],
    )
    if makes_images(verdict.matrix):
        # The indices, notes and facts are about regions, which images don't have.
        return replace(variant, label="images", indices=[], notes=[], facts=[])
    return variant


def _list_facts(verdict: Verdict) -> list[tuple[str, str]]:
    parameters, matrix = verdict.parameters, verdict.matrix
    # The reach of layers that were not run, or that lead only into the image, is unknown.
    ran = ~matrix.missing[[k for k in matrix.values.columns if int(k) >= 0]]
    has_run = ran.any(axis=1).to_dict()
    means = (
        f"{region} {format_signed(value)} ({pluralize(parameters.cells.get(region, 0), 'cell')})"
        for region in REGIONS
        if not math.isnan(value := getattr(parameters, region))
    )
    reaches = (
        f"{layer}: {'none' if pd.isna(farthest) else farthest}"
        for layer, farthest in verdict.reach.items()
        if has_run[layer]
    )
    shares = (f"{label} {share:.0%}" for label, share in verdict.label_shares.items() if share)
    return [
        ("mean rescaled accuracy", ", ".join(means)),
        ("each sender layer reaches receiver layer", ", ".join(reaches)),
        ("label over resamples", ", ".join(shares)),
        ("without receiver-free columns", _describe_reduced(verdict)),
        ("beyond the logits-only control", _describe_excess(verdict)),
    ]


def _describe_reduced(verdict: Verdict) -> str:
    """Give label and indices without the columns that say nothing about the receiver."""
    if verdict.reduced is None:
        return ""
    indices = ", ".join(
        f"{name} {value}" + (f" ({interval})" if interval else "")
        for name, value, interval in format_indices(verdict.reduced)
    )
    layers = listed([str(k) for k in sorted(verdict.matrix.receiver_free)])
    return f"{verdict.reduced.label}, {indices}; left out: receiver layer {layers}"


def _describe_excess(verdict: Verdict) -> str:
    """Give label, region means and indices of what the pair reaches beyond its logits-only control."""
    excess = verdict.excess
    if excess is None:
        return ""
    means = [
        f"{region} {format_signed(value)}"
        for region in REGIONS
        if not math.isnan(value := getattr(excess.parameters, region))
    ]
    indices = [
        f"{name} {value}" + (f" ({interval})" if interval else "")
        for name, value, interval in format_indices(excess)
    ]
    return ", ".join([excess.label, *means, *indices])


def format_indices(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Format name, value and interval of each index."""
    indices = []
    for name in ("triangle", "diagonal", "order"):
        value = getattr(verdict.parameters, name)
        interval = verdict.intervals.get(name)
        text = None if interval is None else format_interval(interval.low, interval.high)
        indices.append((name, "–" if math.isnan(value) else format_signed(value), text or ""))
    return indices
