"""The page: what the findings are turned into before the template lays it out."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image
from plotly.offline import get_plotlyjs

from stitch_sweep import __version__
from stitch_sweep.analysis.matrix.matrices import Matrix, best_by_matrix, matrices
from stitch_sweep.analysis.matrix.order import REGIONS
from stitch_sweep.analysis.matrix.verdict import CONTROLS, Verdict
from stitch_sweep.analysis.results import best_trials, is_copied
from stitch_sweep.charts.captions import legend, number, subtitle
from stitch_sweep.charts.colors import cell_colours, colour_scale
from stitch_sweep.measuring.pictures import Pictures
from stitch_sweep.report import plots, tables
from stitch_sweep.report.cells import trajectories, trials
from stitch_sweep.report.experiment import Experiment, Part
from stitch_sweep.report.findings import Findings, Ladder, headline, makes_images, mean_accuracy
from stitch_sweep.report.words import (
    Statement,
    count,
    duration,
    signed,
    what_is_doubtful,
    what_the_verdicts_say,
    what_was_run,
)

VALUES = {
    "accuracy_calibrated": "test accuracy, calibrated",
    "test_accuracy": "test accuracy, raw",
    "val_accuracy": "validation accuracy",
    "penalty": "stitching penalty",
    "val_relative_mse": "relative mean squared error",
    "val_cosine": "cosine similarity",
    "val_correlation": "correlation",
    "val_cca": "CCA",
    "val_svcca": "SVCCA",
    "val_pwcca": "PWCCA",
    "val_cka": "CKA",
    "val_procrustes": "Procrustes distance",
    "ev_relative": "EV, relative: expected against task-stitched",
    "es_relative": "ES, relative: expected against this loss's",
    "sv_relative": "SV, relative: this loss's against task-stitched",
    "agreement_sender": "agreement with the sender",
    "agreement_receiver": "agreement with the receiver",
    "kappa_sender": "error consistency κ with the sender",
    "kappa_receiver": "error consistency κ with the receiver",
    "excess": "training error above the optimum",
    "seconds": "seconds",
}
"""What the matrices can show, in the order of the menu."""

MOST_PICTURES = 60
"""At most so many rows of images; a line says how many there are besides."""


@dataclass(frozen=True)
class Variant:
    """One matrix of a pair: its figure, and what is written around it."""

    figure: str
    title: str
    label: str
    headline: str
    indices: list[tuple[str, str, str]]
    notes: list[str]
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Group:
    """All matrices of one pair, and the cell below them."""

    id: str
    title: str
    subtitle: str
    variants: list[Variant]
    values: list[tuple[str, str]]
    shown: str
    low: str
    high: str
    rows: list[int]
    columns: list[int]
    legend: str


@dataclass(frozen=True)
class Glance:
    """A row of the overview."""

    target: str
    pair: str
    factors: str
    thumbnail: Markup
    label: str
    headline: str
    detail: str
    indices: list[tuple[str, str]]
    p: str
    mean: str
    explained: str


@dataclass(frozen=True)
class Panel:
    """A figure with its title, what is said of it, and the table of its numbers if there is one."""

    id: str
    title: str
    note: str
    alt: str
    table: tables.Table | None = None


@dataclass(frozen=True)
class Gallery:
    """Images of one sender and receiver: rows of pictures under their originals."""

    title: str
    heads: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]
    note: str


@dataclass
class Chapter:
    """Everything about one experiment."""

    name: str
    ran: str
    says: list[Statement]
    doubts: list[str]
    glances: list[Glance] = field(default_factory=list)
    verdict_note: str = ""
    groups: list[Group] = field(default_factory=list)
    controls: list[Group] = field(default_factory=list)
    ladders: list[tuple[Panel, list[str]]] = field(default_factory=list)
    knock_out: list[tables.Table | Panel] = field(default_factory=list)
    losses: list[tables.Table | Panel] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    networks: list[tables.Table | Panel] = field(default_factory=list)
    search: list[tables.Table | Panel] = field(default_factory=list)
    sanity: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = field(default_factory=list)
    made: list[tuple[str, list[tuple[str, str]], str]] = field(default_factory=list)


class Page:
    """Collects chapters, and the data that the browser draws from.

    Args:
        title: of the page.
        runs: (folder, trial) -> address of its MLflow run, as far as known.
    """

    def __init__(self, title: str, runs: Mapping[tuple[str, str], str] | None = None) -> None:
        self.title = title
        self.chapters: list[Chapter] = []
        self.comparison: tables.Table | None = None
        self.apart: list[str] = []
        self._runs = runs or {}
        self._figures: dict[str, Any] = {}
        self._groups: list[dict[str, Any]] = []
        self._trials: dict[str, Any] = {}
        self._trajectories: dict[str, Any] = {}
        self._steps: list[list[float]] = []

    def add(self, findings: Findings, unmeasured: Iterable[str] = ()) -> None:
        """Add a chapter.

        Args:
            findings: of one experiment.
            unmeasured: what couldn't be measured and why, a sentence each.
        """
        experiment = findings.experiment
        chapter = Chapter("Matrix" if experiment is None else experiment.name, "", [], [])
        known: dict[str, Any] = {}
        if experiment is not None:
            # Trials of several chapters may have one name.
            prefix = f"{len(self.chapters)}/" if self.chapters else ""
            known = trials(experiment, self._runs)
            paths, steps = trajectories(experiment, known)
            first = len(self._steps)
            self._steps += steps
            self._trials |= {prefix + k: v for k, v in known.items()}
            self._trajectories |= {
                prefix + k: v | {"xv": v["xv"] + first, "xt": v["xt"] + first}
                for k, v in paths.items()
            }
            chapter.groups, chapter.controls, targets = self._matrices(findings, prefix)
        else:
            group = self._bare(findings.verdicts[0])
            chapter.groups, targets = [group], {0: group.variants[0].figure}
        chapter.ran = what_was_run(findings)
        chapter.says = what_the_verdicts_say(findings, targets)
        chapter.doubts = what_is_doubtful(findings, unmeasured)
        chapter.glances = [
            _glance(verdict, targets[k])
            for k, verdict in sorted(
                enumerate(findings.verdicts), key=lambda item: item[1].control is not None
            )
        ]
        chapter.verdict_note = tables.verdict_table(findings.verdicts).note
        for ladder in findings.ladders:
            chapter.ladders.append(self._ladder(ladder))
        chapter.knock_out = self._knock_out(findings)
        chapter.losses = self._losses(findings)
        chapter.networks = self._networks(findings)
        chapter.search = self._search(findings)
        if experiment is not None:
            for pictures in experiment.pictures:
                chapter.galleries += galleries(pictures)
            chapter.sanity = [_sanity(part) for part in experiment.parts if part.sanity]
            chapter.made = [_made(part, experiment) for part in experiment.parts]
        self.chapters.append(chapter)

    def html(self) -> str:
        """The page: one file that needs no other."""
        data = {
            "figures": self._figures,
            "groups": self._groups,
            "trials": self._trials,
            "trajectories": self._trajectories,
            "steps": self._steps,
            "chart": plots.layout(height=250, margin={"l": 52, "r": 8, "t": 10, "b": 40}),
        }
        environment = _environment()
        return environment.get_template("report.html").render(
            page=self,
            version=__version__,
            style=Markup(_source("report.css")),
            script=Markup(_source("report.js")),
            plotly=Markup(script_text(get_plotlyjs())),
            data=Markup(json_text(data)),
            gradient=", ".join(colour for _, colour in colour_scale(12)),
            drawn=bool(self._groups),
        )

    # Figures

    def _figure(
        self, title: str, note: str, alt: str, figure: Any, table: tables.Table | None = None
    ) -> Panel:
        name = f"f{len(self._figures)}"
        self._figures[name] = json.loads(figure.to_json(remove_uids=True))
        return Panel(name, title, note, alt, table)

    def _ladder(self, ladder: Ladder) -> tuple[Panel, list[str]]:
        note = (
            "Each point is a matrix. Bars are its interval; a dashed line is a trend only, a "
            "shaded stretch is where a transition may lie."
        )
        alt = f"Order parameter against {ladder.size}"
        table = tables.ladder_table(ladder)
        title = f"Over {ladder.size}"
        panel = self._figure(title, note, alt, plots.ladder(ladder), table)
        said = [
            f"{series}: {fit.statement}" if series else fit.statement
            for series, fit in ladder.fits.items()
        ]
        return panel, said

    def _knock_out(self, findings: Findings) -> list[tables.Table | Panel]:
        if (table := tables.gap_table(findings)) is None:
            return []
        gaps = findings.gaps
        low, high = plots.scale_of(gaps)
        note = "; ".join([subtitle(gaps[0]), *legend(gaps, missing="grey")])
        drawn = [self._figure(m.title, note, m.title, plots.heatmap(m, low, high)) for m in gaps]
        return [*drawn, table]

    def _losses(self, findings: Findings) -> list[tables.Table | Panel]:
        found: list[tables.Table | Panel | None] = [
            tables.representation_table(findings),
            tables.task_table(findings),
            tables.hacking_table(findings),
        ]
        square = tables.correlation_frame(findings)
        if square is not None:
            note = (
                "Spearman's rank correlation over the cells of a matrix, averaged over the matrices of "
                "pairs; controls and the image's row and column are left out. "
                "Distances count with the opposite sign: 1 always means that two call the same "
                "cells alike."
            )
            alt = "Rank correlations between measures"
            title = "Do the measures agree?"
            found.append(self._figure(title, note, alt, plots.correlations(square)))
        found += [tables.agreement_table(findings), tables.measure_table(findings)]
        return [item for item in found if item is not None]

    def _networks(self, findings: Findings) -> list[tables.Table | Panel]:
        found: list[tables.Table | Panel] = []
        if (table := tables.network_table(findings)) is not None:
            found.append(table)
        if (probes := tables.probe_table(findings)) is not None:
            alt = "Test accuracy of linear probes by layer"
            found.append(
                self._figure(probes.title, probes.note, alt, plots.probes(probes.frame), probes)
            )
        return found

    def _search(self, findings: Findings) -> list[tables.Table | Panel]:
        found: list[tables.Table | Panel] = []
        if (table := tables.importance_table(findings)) is not None:
            alt = "Importance of every searched setting"
            figure = plots.importances(table.frame, group_names(table.frame))
            found.append(self._figure(table.title, table.note, alt, figure, table))
        if (front := tables.front_table(findings)) is not None:
            found.append(front)
        return found

    # Matrices

    def _matrices(
        self, findings: Findings, prefix: str
    ) -> tuple[list[Group], list[Group], dict[int, str]]:
        """Groups of pairs and of controls; and position of a verdict -> id of its figure."""
        experiment = findings.experiment
        assert experiment is not None
        known = _all_values(findings)
        scales = {key: plots.scale_of(list(found.values())) for key, found in known.items()}
        ids = _trials_of_cells(experiment)
        by_pair: dict[tuple[str, str], list[int]] = {}
        for k, verdict in enumerate(findings.verdicts):
            by_pair.setdefault((verdict.matrix.sender, verdict.matrix.receiver), []).append(k)
        groups: list[Group] = []
        controls: list[Group] = []
        targets: dict[int, str] = {}
        for positions in by_pair.values():
            members = [findings.verdicts[k] for k in positions]
            group, figures = self._group(members, known, scales, ids, prefix)
            targets |= dict(zip(positions, figures, strict=True))
            (controls if members[0].control else groups).append(group)
        return groups, controls, targets

    def _group(
        self,
        members: Sequence[Verdict],
        known: Mapping[str, Mapping[str, Matrix]],
        scales: Mapping[str, tuple[float, float]],
        ids: Mapping[tuple[Any, ...], list[str]],
        prefix: str,
    ) -> tuple[Group, list[str]]:
        first = members[0].matrix
        keys = [
            key
            for key, found in known.items()
            if any(found[_identity(v.matrix)].values.notna().any(axis=None) for v in members)
        ]
        shown = first.value_name if first.value_name in keys else (keys or ["test_accuracy"])[0]
        low, high = scales[shown]
        rows, columns = (
            [int(k) for k in axis] for axis in (first.values.index, first.values.columns)
        )
        variants, drawn = [], []
        for k, verdict in enumerate(members):
            matrix = verdict.matrix
            own = {key: found[_identity(matrix)] for key, found in known.items()}
            panel = self._figure("", "", matrix.title, plots.heatmap(own[shown], low, high))
            variants.append(_variant(verdict, panel.id))
            colour, dash, _ = plots.style(k)
            cells = [
                [[prefix + t for t in ids.get((_identity(matrix), i, j), [])] for j in columns]
                for i in rows
            ]
            drawn.append(
                {
                    "figure": panel.id,
                    "label": matrix.factor_text or "stitch",
                    "hover": plots.plain(matrix.factor_text or "stitch"),
                    "colour": colour,
                    "dash": dash,
                    "values": {key: plots.numbers(own[key].values.to_numpy()) for key in keys},
                    "marks": _marks(matrix),
                    "trials": cells,
                }
            )
        title = f"{first.sender} → {first.receiver}"
        about = [first.kind if first.kind == "self-pair" else "", subtitle(first)]
        if members[0].control:
            about.insert(0, f"control: {CONTROLS.get(members[0].control, members[0].control)}")
        group = Group(
            id=f"pair{len(self._groups)}",
            title=title,
            subtitle="; ".join(filter(None, about)),
            variants=variants,
            values=[(key, VALUES[key]) for key in keys],
            shown=shown,
            low=number(low),
            high=number(high),
            rows=rows,
            columns=columns,
            legend="; ".join(legend([v.matrix for v in members], missing="grey")),
        )
        self._groups.append(
            {
                "id": group.id,
                "values": [
                    {"key": key, "label": label, "hover": plots.plain(label),
                     "low": scales[key][0], "high": scales[key][1]}
                    for key, label in group.values
                ],
                "variants": drawn,
                "start": _lowest(known[shown][_identity(first)]),
                "repeats": max(v.matrix.repeats for v in members),
                "positive": self._positive(drawn),
            }
        )  # fmt: skip
        return group, [variant.figure for variant in variants]

    def _positive(self, drawn: Sequence[Mapping[str, Any]]) -> bool:
        """Whether every training loss of a group can stand on a logarithmic axis."""
        used = {t for variant in drawn for row in variant["trials"] for cell in row for t in cell}
        losses = [
            min(self._trajectories[t]["loss"], default=1.0) for t in used if t in self._trajectories
        ]
        return min(losses, default=1.0) > 0

    def _bare(self, verdict: Verdict) -> Group:
        matrix = verdict.matrix
        low, high = plots.scale_of([matrix])
        panel = self._figure("", "", matrix.title, plots.heatmap(matrix, low, high))
        return Group(
            id="pair0",
            title=f"{matrix.sender} → {matrix.receiver}",
            subtitle=subtitle(matrix),
            variants=[_variant(verdict, panel.id)],
            values=[(matrix.value_name, matrix.value_label)],
            shown=matrix.value_name,
            low=number(low),
            high=number(high),
            rows=[],
            columns=[],
            legend="; ".join(legend([matrix], missing="grey")),
        )


def json_text(value: Any) -> str:
    """JSON that can stand inside a `<script>`: nothing in it can end the element.

    Raises:
        ValueError: a number that isn't finite.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_text(source: str) -> str:
    """A script that can stand inside a `<script>`: its own texts must not end the element."""
    return source.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def prose(text: str) -> Markup:
    """A sentence with `commands` between backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("stitch_sweep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["is_table"] = lambda item: isinstance(item, tables.Table)
    environment.filters["count"] = count
    environment.filters["prose"] = prose
    return environment


def _source(name: str) -> str:
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


def _identity(matrix: Matrix) -> str:
    return json.dumps(
        [matrix.sender, matrix.receiver, sorted(matrix.factors.items())], default=repr
    )


def _all_values(findings: Findings) -> dict[str, dict[str, Matrix]]:
    """Value -> matrix's identity -> matrix, of every value in `VALUES` that the results have."""
    experiment = findings.experiment
    assert experiment is not None
    found = {}
    results = _with_agreement(_with_differences(experiment), findings.agreement)
    for key in VALUES:
        if key not in results or not pd.api.types.is_numeric_dtype(results[key]):
            continue
        if results[key].notna().any() or key == "test_accuracy":
            made = matrices(results, key, metric=experiment.metric, mode=experiment.mode)
            found[key] = {_identity(matrix): matrix for matrix in made}
    return found


def _with_differences(experiment: Experiment) -> pd.DataFrame:
    """The results with EV, ES and SV in the rows of the similarity-trained stitches they are of."""
    results, table = experiment.results, experiment.table("representations")
    if table is None or "similarity_trial" not in table or table.empty:
        return results
    names = [name for name in ("ev_relative", "es_relative", "sv_relative") if name in table]
    of_trial = table.drop_duplicates("similarity_trial").set_index("similarity_trial")[names]
    return results.join(of_trial.astype("float64"), on="trial")


def _with_agreement(results: pd.DataFrame, table: pd.DataFrame | None) -> pd.DataFrame:
    """The results with agreement and error consistency in the rows of the trials they are of."""
    if table is None or table.empty:
        return results
    names = [name for name in VALUES if name in table and name.startswith(("agreement_", "kappa_"))]
    of_trial = table.drop_duplicates("trial").set_index("trial")[names]
    return results.join(of_trial.astype("float64"), on="trial")


def _trials_of_cells(experiment: Experiment) -> dict[tuple[Any, ...], list[str]]:
    """(matrix, sender layer, receiver layer) -> its trials, the best of every repeat first."""
    best = set(best_trials(experiment.results, experiment.metric, experiment.mode)["trial"])
    found: dict[tuple[Any, ...], list[str]] = {}
    for (sender, receiver), factors, rows in best_by_matrix(experiment.results):
        identity = json.dumps([sender, receiver, sorted(factors.items())], default=repr)
        ordered = rows.assign(_other=~rows["trial"].isin(best)).sort_values(
            ["_other", "repeat", "number"], kind="stable"
        )
        for trial, i, j in ordered[["trial", "sender_layer", "receiver_layer"]].itertuples(
            index=False
        ):
            found.setdefault((identity, int(i), int(j)), []).append(str(trial))
    return found


def _marks(matrix: Matrix) -> list[list[str]]:
    unconverged = matrix.unconverged.to_numpy()
    return [["*" if mark else "" for mark in row] for row in unconverged]


def _lowest(matrix: Matrix) -> list[int]:
    """Row and column of the lowest value; the first cell where there is none."""
    values = matrix.values.to_numpy()
    if not (~pd.isna(values)).any():
        return [0, 0]
    least = min(
        (float(v), i, j)
        for i, row in enumerate(values)
        for j, v in enumerate(row)
        if not math.isnan(v)
    )
    return [least[1], least[2]]


def _variant(verdict: Verdict, figure: str) -> Variant:
    parameters, matrix = verdict.parameters, verdict.matrix
    images = makes_images(matrix)
    # Of layers that were only planned, or lead into the image alone, no reach is known.
    reached = ~matrix.missing[[k for k in matrix.values.columns if int(k) >= 0]]
    ran = reached.any(axis=1).to_dict()
    facts = [
        (
            "mean rescaled accuracy",
            ", ".join(
                f"{region} {signed(value)} ({count(parameters.cells.get(region, 0), 'cell')})"
                for region in REGIONS
                if not math.isnan(value := getattr(parameters, region))
            ),
        ),
        (
            "each sender layer reaches receiver layer",
            ", ".join(
                f"{layer}: {'none' if pd.isna(farthest) else farthest}"
                for layer, farthest in verdict.reach.items()
                if ran[layer]
            ),
        ),
        (
            "label over resamples",
            ", ".join(
                f"{label} {share:.0%}" for label, share in verdict.label_shares.items() if share
            ),
        ),
    ]
    return Variant(
        figure=figure,
        title=matrix.factor_text,
        label="images" if images else verdict.label,
        headline=headline(verdict),
        # What these say is of regions, and images have none.
        indices=[] if images else _indices(verdict),
        notes=[] if images else list(verdict.notes),
        facts=[] if images else [(name, text) for name, text in facts if text],
    )


def _indices(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Name, value and interval of each index."""
    found = []
    for name in ("triangle", "diagonal", "order"):
        value = getattr(verdict.parameters, name)
        interval = verdict.intervals.get(name)
        text = None if interval is None else tables.interval(interval.low, interval.high)
        found.append((name, "–" if math.isnan(value) else signed(value), text or ""))
    return found


def _glance(verdict: Verdict, target: str) -> Glance:
    matrix, mean = verdict.matrix, mean_accuracy(verdict)
    images = makes_images(matrix)
    detail = []
    if verdict.control is not None:
        detail = [CONTROLS[verdict.control], "images" if images else verdict.shaped]
    return Glance(
        target=target,
        pair=f"{matrix.sender} → {matrix.receiver}",
        factors=matrix.factor_text,
        thumbnail=thumbnail(matrix),
        label="images" if images else verdict.label,
        headline=headline(verdict) if verdict.control is None else "control",
        detail=", ".join(detail),
        indices=[(value, text) for _, value, text in _indices(verdict)],
        p="–" if verdict.p_value is None else tables.p_value(verdict.p_value),
        mean="–" if math.isnan(mean) else f"{mean:.3f}",
        explained=", ".join(CONTROLS.get(name, name) for name in verdict.explained_by),
    )


def thumbnail(matrix: Matrix) -> Markup:
    """A matrix as a picture of a few millimetres, its colours those of the large one."""
    values = matrix.values.to_numpy()
    rows, columns = values.shape
    low, high = plots.scale_of([matrix])
    size = max(2.0, min(9.0, 54 / max(rows, columns)))
    squares = [
        f'<rect x="{j * size:.4g}" y="{i * size:.4g}" width="{size:.4g}" height="{size:.4g}" '
        f'fill="{cell_colours(float(values[i, j]), low, high)[0]}"/>'
        for i in range(rows)
        for j in range(columns)
        if not math.isnan(values[i, j])
    ]
    width, height = columns * size, rows * size
    return Markup(
        f'<svg class="thumb" width="{width:.4g}" height="{height:.4g}" '
        f'viewBox="0 0 {width:.4g} {height:.4g}" shape-rendering="crispEdges" aria-hidden="true">'
        f"{''.join(squares)}</svg>"
    )


def group_names(frame: pd.DataFrame) -> list[str]:
    """What each row's pair and factors are called."""
    factors = tables.factor_columns_shown(frame)
    return [
        ", ".join(
            [f"{row['sender']} → {row['receiver']}"]
            + [f"{c.title} = {row[c.name]}" for c in factors if not pd.isna(row[c.name])]
        )
        for row in frame.to_dict("records")
    ]


# Images


def data_uri(image: Any) -> str:
    """A PNG inside an address.

    Args:
        image: uint8 [C, H, W] of one or three channels.
    """
    pixels = image.transpose(1, 2, 0)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def galleries(pictures: Pictures) -> list[Gallery]:
    """Images by sender and receiver: originals, then per sender layer what each stitch makes of them."""
    if pictures.originals.shape[1] not in (1, 3):
        return []

    def name(label: int) -> str:
        return pictures.classes[label] if 0 <= label < len(pictures.classes) else str(label)

    originals = [data_uri(image) for image in pictures.originals]
    by_pair: dict[tuple[str, str], list[Any]] = {}
    for picture in pictures.pictures:
        by_pair.setdefault(
            (str(picture.about["sender"]), str(picture.about["receiver"])), []
        ).append(picture)
    found = []
    for (sender, receiver), members in by_pair.items():
        members.sort(key=lambda p: (p.about["sender_layer"], p.about["kind"], str(p.about["loss"])))
        rows = [("the image", [(uri, "") for uri in originals])]
        for picture in members[:MOST_PICTURES]:
            about = picture.about
            kind = (
                "reconstruction" if about["kind"] == "reconstruction" else "shown to the receiver"
            )
            factors = [
                f"{k.removeprefix('factor.')} = {v}"
                for k, v in dict(about.get("factors") or {}).items()
            ]
            title = f"layer {about['sender_layer']}, {about['loss']}: {kind}"
            said = [name(int(label)) for label in about.get("predicted") or []]
            said += [""] * (len(picture.images) - len(said))
            rows.append(
                (
                    ", ".join([title, *factors]),
                    [(data_uri(x), text) for x, text in zip(picture.images, said, strict=True)],
                )
            )
        more = len(members) - MOST_PICTURES
        note = (
            "Under a picture: the class that the receiver names for it. A reconstruction comes "
            "from a stitch trained to be like the image, the other from one trained for the task."
        )
        if more > 0:
            note += f" {count(more, 'further row')} in measured/images.safetensors."
        heads = [name(int(label)) for label in pictures.labels]
        found.append(Gallery(f"{sender} → image of {receiver}", heads, rows, note))
    return found


# How it was made


def _sanity(part: Part) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    assert part.sanity is not None
    checks = []
    for check in part.sanity["checks"]:
        gap = check.get("difference")
        checks.append(
            {
                "name": str(check["name"]),
                "verdict": str(check["verdict"]),
                "compared": str(check.get("compared", "")),
                "difference": ""
                if gap is None
                else f"{gap:.3g}"
                if isinstance(gap, int | float)
                else str(gap),
                "detail": str(check.get("detail", "")),
            }
        )
    return part.name, {k: v for k, v in part.sanity.items() if k != "checks"}, checks


def _made(part: Part, experiment: Experiment) -> tuple[str, list[tuple[str, str]], str]:
    """What is known of how a folder came about: its name, facts, and configuration."""
    config, description = part.config or {}, part.description or {}
    rows = experiment.results[experiment.results["folder"] == str(part.folder)]
    facts = [("folder", part.name)]
    planned = f" of {part.planned:,}" if part.planned else ""
    facts.append(("trials", f"{part.ended:,}{planned} ended"))
    if "seconds" in rows:
        seconds = float(rows["seconds"].sum())
        text = duration(seconds)
        trained = rows[~is_copied(rows)]
        if len(trained):
            text += f" in all trials together, {duration(float(trained['seconds'].mean()))} a trial"
        resources = config.get("resources")
        if isinstance(resources, Mapping):
            cores, gpus = float(resources.get("cpu") or 0), float(resources.get("gpu") or 0)
            text += f"; {cores * seconds / 3600:.3g} core hours"
            if gpus:
                text += f", {gpus * seconds / 3600:.3g} GPU hours"
        facts.append(("cost", text))
    for name, versions in (
        ("made with", description.get("versions")),
        ("sanity suite's versions", (part.sanity or {}).get("versions")),
    ):
        if isinstance(versions, Mapping):
            facts.append((name, ", ".join(f"{k} {v}" for k, v in versions.items())))
    if description.get("processor"):
        facts.append(("on (the driver)", str(description["processor"])))
    if "seed" in config:
        networks = [n for n in config.get("networks") or [] if isinstance(n, Mapping)]
        text = f"sweep {config['seed']}"
        data = config.get("data")
        if isinstance(data, Mapping) and "split_seed" in data:
            text += f"; split {data['split_seed']}"
        text += "; networks " + ", ".join(f"{n.get('name')} {n.get('seed')}" for n in networks)
        facts.append(("seeds", text))
    prints = description.get("networks")
    if isinstance(prints, Mapping):
        facts.append(("weights", ", ".join(f"{k} {str(v)[:12]}" for k, v in prints.items())))
    text = yaml.safe_dump(part.config, sort_keys=False, allow_unicode=True) if part.config else ""
    return part.name, facts, text
