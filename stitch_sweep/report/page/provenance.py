"""The section "How it was made": sanity checks, cost, versions, seeds, configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from stitch_sweep.analysis.results import is_copied
from stitch_sweep.report.experiment import Experiment, Part
from stitch_sweep.report.wording import format_duration


@dataclass(frozen=True)
class SanityResult:
    """The result of a folder's sanity suite.

    Attributes:
        name: the folder's name.
        about: pair, duration and the like.
        checks: `name`, `verdict`, `compared`, `difference` and `detail` of every check, as text.
    """

    name: str
    about: dict[str, Any]
    checks: list[dict[str, str]]


@dataclass(frozen=True)
class Provenance:
    """The origin of a folder's results.

    Attributes:
        name: the folder's name.
        facts: names and texts.
        config: the configuration as YAML; empty if unknown.
    """

    name: str
    facts: list[tuple[str, str]]
    config: str


def build_sanity(part: Part) -> SanityResult:
    """Build the table of a folder's sanity checks."""
    assert part.sanity is not None
    checks = [
        {
            "name": str(check["name"]),
            "verdict": str(check["verdict"]),
            "compared": str(check.get("compared", "")),
            "difference": _format_difference(check.get("difference")),
            "detail": str(check.get("detail", "")),
        }
        for check in part.sanity["checks"]
    ]
    return SanityResult(part.name, {k: v for k, v in part.sanity.items() if k != "checks"}, checks)


def _format_difference(difference: float | str | None) -> str:
    if difference is None:
        return ""
    return f"{difference:.3g}" if isinstance(difference, int | float) else str(difference)


def build_provenance(part: Part, experiment: Experiment) -> Provenance:
    """Collect the facts on a folder's origin, and its configuration."""
    text = yaml.safe_dump(part.config, sort_keys=False, allow_unicode=True) if part.config else ""
    return Provenance(part.name, list(_iterate_facts(part, experiment)), text)


def _iterate_facts(part: Part, experiment: Experiment) -> Iterator[tuple[str, str]]:
    config, description = part.config or {}, part.description or {}
    rows = experiment.results[experiment.results["folder"] == str(part.folder)]
    yield "folder", part.name
    planned = f" of {part.planned:,}" if part.planned else ""
    yield "trials", f"{part.ended:,}{planned} ended"
    if "seconds" in rows:
        yield "cost", _describe_cost(rows, config)
    for name, versions in (
        ("made with", description.get("versions")),
        ("sanity suite's versions", (part.sanity or {}).get("versions")),
    ):
        if isinstance(versions, Mapping):
            yield name, ", ".join(f"{k} {v}" for k, v in versions.items())
    if description.get("processor"):
        yield "on (the driver)", str(description["processor"])
    if "seed" in config:
        yield "seeds", _describe_seeds(config)
    digests = description.get("networks")
    if isinstance(digests, Mapping):
        yield "weights", ", ".join(f"{k} {str(v)[:12]}" for k, v in digests.items())


def _describe_cost(rows: pd.DataFrame, config: Mapping[str, Any]) -> str:
    seconds = float(rows["seconds"].sum())
    text = format_duration(seconds)
    trained = rows[~is_copied(rows)]
    if len(trained):
        mean = format_duration(float(trained["seconds"].mean()))
        text += f" in all trials together, {mean} a trial"
    resources = config.get("resources")
    if isinstance(resources, Mapping):
        cores, gpus = float(resources.get("cpu") or 0), float(resources.get("gpu") or 0)
        text += f"; {cores * seconds / 3600:.3g} core hours"
        if gpus:
            text += f", {gpus * seconds / 3600:.3g} GPU hours"
    return text


def _describe_seeds(config: Mapping[str, Any]) -> str:
    networks = [n for n in config.get("networks") or [] if isinstance(n, Mapping)]
    text = f"sweep {config['seed']}"
    data = config.get("data")
    if isinstance(data, Mapping) and "split_seed" in data:
        text += f"; split {data['split_seed']}"
    return text + "; networks " + ", ".join(f"{n.get('name')} {n.get('seed')}" for n in networks)
