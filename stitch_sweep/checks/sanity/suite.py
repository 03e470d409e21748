"""All checks, on a configuration's networks and on little ones."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import nn

from stitch_sweep.checks.sanity.catalog import CHECKS
from stitch_sweep.checks.sanity.subject import Finding, Subject
from stitch_sweep.config.models import Config, TrialSettings
from stitch_sweep.core.errors import DivergedError, InputError, nearest
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.core.untrusted import UnreadableFileError, read_json
from stitch_sweep.core.versions import MAIN, versions
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load
from stitch_sweep.networks.zoo import make_recipe, train_network
from stitch_sweep.plan.cells import Cell, choose_cell, parse_cell
from stitch_sweep.plan.prepare import Prepared, misfit, prepare, provide_networks
from stitch_sweep.storage.checkpoints import unpack
from stitch_sweep.storage.files import check_writable, write_atomically
from stitch_sweep.sweep.progress import Reporter
from stitch_sweep.sweep.resources import check_local

FEWEST_IMAGES = 20
LITTLE = "little: "
"""Before the names of the checks that run on little networks."""


@dataclass(frozen=True)
class Sanity:
    """What all checks found.

    Attributes:
        findings: one per check.
        about: what they were run on, as plain data.
    """

    findings: list[Finding]
    about: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether nothing failed; a warning is no failure."""
        return not any(finding.verdict == "fail" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As plain data: `checks` has name, verdict and difference of each."""
        return {**self.about, "checks": [finding.to_dict() for finding in self.findings]}


def run_sanity(
    config: Config,
    *,
    pair: str | None = None,
    images: int = 1000,
    only: Sequence[str] = (),
    output: Path | None = None,
    reporter: Reporter | None = None,
) -> Sanity:
    """Run the checks.

    Args:
        config: networks that its zoo lacks are trained first, as a sweep would.
        pair: `sender:layer,receiver:layer`; the middle layers of the first pair if not given.
        images: so many training and test images are used where a check doesn't need all.
        only: names of checks, with or without `little: `; all if empty.
        output: where to write what was found, as JSON.
        reporter: where progress is shown.

    Raises:
        InputError: the configuration, the pair or a check's name is wrong; or `output` is a file that
            an earlier call didn't write.
    """
    check_local(config.resources)
    chosen = _chosen(only)
    if output is not None:
        _check_output(output)
    if images < FEWEST_IMAGES:
        raise InputError(f"--images {images}: at least {FEWEST_IMAGES} are needed")
    named = None if pair is None else parse_cell(pair, config)
    if output is not None:
        check_writable(output, "--output")
    prepared = prepare(config)
    cell, settings = choose_cell(prepared, named)
    began = time.perf_counter()
    findings = []
    with reporter or Reporter() as shown:
        subjects: dict[str, Callable[[], Subject]] = {
            "": lambda: _subject(prepared, cell, settings, images, shown),
            LITTLE: lambda: _little(config, settings),
        }
        made: dict[str, Subject] = {}
        for k, (prefix, name) in enumerate(chosen):
            if prefix not in made:
                made[prefix] = subjects[prefix]()
            shown.check(prefix + name, k, len(chosen))
            findings.append(_find(prefix, name, made[prefix]))
        shown.check("", len(chosen), len(chosen))
    sanity = Sanity(
        findings,
        {
            "pair": str(cell),
            "stitch": settings.stitch.name,
            "loss": settings.loss.label,
            "images": images,
            "only": list(only),
            "device": config.resources.device,
            "threads": config.resources.cpu,
            "seconds": round(time.perf_counter() - began, 1),
            "versions": versions(MAIN),
        },
    )
    if output is not None:
        text = json.dumps(sanity.to_dict(), indent=1, allow_nan=False)
        write_atomically(output, f"{text}\n".encode())
    return sanity


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"--output {path}: is a folder, the name of a file is wanted")
    try:
        is_own = isinstance(read_json(path).get("checks"), list)
    except FileNotFoundError:
        return
    except UnreadableFileError:
        is_own = False
    if not is_own:
        raise InputError(
            f"--output {path}: holds no results of `stitch-sweep sanity`, and would be replaced; name "
            "another file"
        )


def table(sanity: Sanity) -> Table:
    """A row per check, for the terminal."""
    shown = Table("check", "what it compared", "difference", "verdict", "little")
    shown.columns[0].no_wrap = shown.columns[2].no_wrap = True
    found = {finding.name: finding for finding in sanity.findings}
    for name in CHECKS:
        own, little = found.get(name), found.get(LITTLE + name)
        if (first := own or little) is None:
            continue
        gap = "" if own is None or own.difference is None else f"{own.difference:.3g}"
        shown.add_row(name, first.compared, gap, *(_coloured(f) for f in (own, little)))
    return shown


def _coloured(finding: Finding | None) -> Text:
    if finding is None:
        return Text()
    colours = {"pass": "green", "fail": "bold red", "warn": "yellow", "skip": "dim"}
    return Text(finding.verdict, style=colours[finding.verdict])


def _chosen(only: Sequence[str]) -> list[tuple[str, str]]:
    """(prefix, name) of every check to run, in order."""
    known = [(prefix, name) for prefix in ("", LITTLE) for name in CHECKS]
    names = [prefix + name for prefix, name in known]
    problems = [
        f"--only {name}: no check is named so: {nearest(name, names)}"
        for name in only
        if name not in names
    ]
    if problems:
        raise InputError(*problems)
    return [(prefix, name) for prefix, name in known if not only or prefix + name in only]


def _find(prefix: str, name: str, subject: Subject) -> Finding:
    """Run one check; whatever it raises is a finding too."""
    seed_everything(subject.config.seed, subject.config.resources.cpu)
    try:
        finding = CHECKS[name](subject)
    except DivergedError as error:
        return Finding(prefix + name, "could not be run to its end", None, "fail", str(error))
    except Exception as error:
        traceback.print_exc()
        why = f"{type(error).__name__}: {error}"
        return Finding(prefix + name, "could not be run to its end", None, "fail", why)
    return Finding(**{**vars(finding), "name": prefix + finding.name})


def _subject(
    prepared: Prepared, cell: Cell, settings: TrialSettings, images: int, reporter: Reporter
) -> Subject:
    return Subject(
        config=prepared.config,
        # Cut-down images would leave files behind that nobody needs; `loaders` makes its own.
        whole=replace(prepared.data, beton_folder=None),
        modules=provide_networks(prepared, reporter.network),
        # From the zoo's files, where they are by now.
        load_again=lambda: provide_networks(prepared),
        cell=cell,
        settings=settings,
        images=images,
    )


def _little(config: Config, settings: TrialSettings) -> Subject:
    """Two untrained networks of width 4 on handwritten digits, on the CPU."""
    little = Config.model_validate(
        {
            "seed": config.seed,
            "data": {"name": "digits", "image_size": 16, "train_images": 200, "test_images": 100},
            "networks": [
                {"name": name, "family": "resnet1111", "width": 4, "seed": k, "weights": "random"}
                for k, name in enumerate("ab")
            ],
            "pairs": [{"sender": "a", "receiver": "b"}],
            "training": {"batch_size": 32},
            "resources": {"cpu": config.resources.cpu},
        }
    )
    data = load(little.data)
    weights = {name: _untrained(little, k, data) for k, name in enumerate("ab")}

    def build() -> dict[str, nn.Module]:
        modules = {}
        for k, name in enumerate("ab"):
            module = make_recipe(little.networks[k], little, data).architecture()
            module.load_state_dict(unpack(weights[name])["model"])
            modules[name] = module.eval()
        return modules

    cell = Cell("a", 2, "b", 2)
    own = TrialSettings.model_validate(little.settings)
    # The user's stitch and loss, where the stitch can join two equal feature maps.
    shape = (8, 8, 8)
    stitch = settings.stitch if misfit(settings.stitch, shape, shape) is None else own.stitch
    own = own.model_copy(update={"stitch": stitch, "loss": settings.loss})
    return Subject(little, data, build(), build, cell, own, images=200, little=True)


def _untrained(config: Config, k: int, data: Data) -> bytes:
    recipe = make_recipe(config.networks[k], config, data)
    progress: Iterator[Any] = train_network(recipe, data, threads=config.resources.cpu)
    weights = [step.weights for step in progress][-1]
    assert weights is not None
    return weights
