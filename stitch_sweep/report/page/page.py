"""The page: a chapter per experiment, rendered to one HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from stitch_sweep import __version__
from stitch_sweep.report.cells import describe_trials, thin_trajectories
from stitch_sweep.report.doubts import list_doubts
from stitch_sweep.report.findings import Findings
from stitch_sweep.report.page.data import PageData, Panel
from stitch_sweep.report.page.galleries import Gallery, build_galleries
from stitch_sweep.report.page.markup import encode_json, escape_script, template_source, templates
from stitch_sweep.report.page.matrices import Group, build_bare_group, build_groups
from stitch_sweep.report.page.overview import OverviewRow, build_overview
from stitch_sweep.report.page.provenance import (
    Provenance,
    SanityResult,
    build_provenance,
    build_sanity,
)
from stitch_sweep.report.page.sections import (
    Item,
    build_knock_out,
    build_ladder,
    build_losses,
    build_networks,
    build_search,
)
from stitch_sweep.report.summary import Statement, describe_run, describe_verdicts
from stitch_sweep.report.tables.matrices import VERDICT_NOTE
from stitch_sweep.report.tables.table import Table


@dataclass
class Chapter:
    """Everything about one experiment.

    Attributes:
        name: the experiment's name.
        run: description of networks, data, pairs and trials.
        statements: the summary.
        doubts: reasons to doubt the findings.
        overview: a row per matrix.
        verdict_note: how to read the overview.
        groups: the matrices of pairs.
        controls: the matrices of controls.
        ladders: a figure per kind of size, with the statements of its fits.
        knock_out: figures and tables on knocked-out layers.
        losses: figures and tables that compare losses and measures.
        galleries: images from stitches.
        networks: figures and tables on the networks.
        search: figures and tables on the search.
        sanity: results of the sanity suite, one per folder that has any.
        provenance: the origin of every folder's results.
    """

    name: str
    run: str
    statements: list[Statement]
    doubts: list[str]
    overview: list[OverviewRow]
    groups: list[Group]
    controls: list[Group]
    verdict_note: str = VERDICT_NOTE
    ladders: list[tuple[Panel, list[str]]] = field(default_factory=list)
    knock_out: list[Item] = field(default_factory=list)
    losses: list[Item] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    networks: list[Item] = field(default_factory=list)
    search: list[Item] = field(default_factory=list)
    sanity: list[SanityResult] = field(default_factory=list)
    provenance: list[Provenance] = field(default_factory=list)


class Page:
    """Collects chapters, and the data that the browser draws from.

    Args:
        title: the page's title.
        runs: (folder, trial) -> address of its MLflow run, as far as known.
    """

    def __init__(self, title: str, runs: Mapping[tuple[str, str], str] | None = None) -> None:
        self.title = title
        self.chapters: list[Chapter] = []
        self.comparison: Table | None = None
        self.separate: list[str] = []
        """Reasons why experiments were not merged."""
        self.data = PageData()
        self._runs = runs or {}

    def add(self, findings: Findings, unmeasured: Iterable[str] = ()) -> None:
        """Add a chapter.

        Args:
            findings: the findings of one experiment.
            unmeasured: failed measurements, a sentence each.
        """
        experiment, data = findings.experiment, self.data
        groups, controls, targets = self._add_matrices(findings)
        chapter = Chapter(
            name="Matrix" if experiment is None else experiment.name,
            run=describe_run(findings),
            statements=describe_verdicts(findings, targets),
            doubts=list_doubts(findings, unmeasured),
            overview=build_overview(findings.verdicts, targets),
            groups=groups,
            controls=controls,
            ladders=[build_ladder(ladder, data) for ladder in findings.ladders],
            knock_out=build_knock_out(findings, data),
            losses=build_losses(findings, data),
            networks=build_networks(findings, data),
            search=build_search(findings, data),
        )
        if experiment is not None:
            chapter.galleries = [g for p in experiment.pictures for g in build_galleries(p)]
            chapter.sanity = [build_sanity(part) for part in experiment.parts if part.sanity]
            chapter.provenance = [build_provenance(part, experiment) for part in experiment.parts]
        self.chapters.append(chapter)

    def _add_matrices(self, findings: Findings) -> tuple[list[Group], list[Group], dict[int, str]]:
        experiment = findings.experiment
        if experiment is None:
            group = build_bare_group(findings.verdicts[0], self.data)
            return [group], [], {0: group.variants[0].figure}
        # Trials of several chapters may share an id.
        prefix = f"{len(self.chapters)}/" if self.chapters else ""
        trials = describe_trials(experiment, self._runs)
        trajectories, steps = thin_trajectories(experiment, trials)
        self.data.add_trajectories(prefix, trials, trajectories, steps)
        return build_groups(findings, self.data, prefix)

    def html(self) -> str:
        """Render the page as one file that needs no other."""
        return (
            templates()
            .get_template("report.html")
            .render(
                page=self,
                version=__version__,
                style=Markup(template_source("report.css")),
                script=Markup(template_source("report.js")),
                plotly=Markup(escape_script(get_plotlyjs())),
                data=Markup(encode_json(self.data.to_dict())),
            )
        )
