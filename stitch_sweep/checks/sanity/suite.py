"""Run the checks on a configuration's networks and on tiny ones."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from stitch_sweep.checks.sanity.catalog import CHECKS, LOADERS, TINY
from stitch_sweep.checks.sanity.findings import Finding, SanityReport
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.checks.sanity.tiny import tiny_subject
from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import DivergedError, InputError, nearest
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.core.untrusted import UnreadableFileError, read_json
from stitch_sweep.core.versions import MAIN_PACKAGES, versions
from stitch_sweep.plan.cells import Cell, choose_cell, parse_cell
from stitch_sweep.plan.machine import check_local
from stitch_sweep.plan.prepare import Prepared, prepare, provide_networks
from stitch_sweep.storage.files import check_writable, write_atomically
from stitch_sweep.sweep.progress import Reporter

FEWEST_IMAGES = 20


def run_sanity(
    config: Config,
    *,
    pair: str | None = None,
    images: int = 1000,
    only: Sequence[str] = (),
    output: Path | None = None,
    reporter: Reporter | None = None,
) -> SanityReport:
    """Run the checks.

    Args:
        config: networks that its zoo lacks are trained first, as by a sweep.
        pair: `sender:layer,receiver:layer`; the middle layers of the first pair if not given.
        images: number of training and of test images for checks that don't need all.
        only: names of checks, with or without `little: `; if empty, all that concern the configuration.
        output: JSON file to write the findings to.
        reporter: shows the progress.

    Raises:
        InputError: the configuration, the pair or a check's name is wrong; or `output` is a file that
            no earlier call wrote.
    """
    check_local(config.resources)
    chosen = _choose_checks(only, with_ffcv=config.data.loader == "ffcv")
    if output is not None:
        check_output_file(output)
    if images < FEWEST_IMAGES:
        raise InputError(f"--images {images}: give at least {FEWEST_IMAGES}")
    requested_cell = None if pair is None else parse_cell(pair, config)
    if output is not None:
        check_writable(output, "--output")
    prepared = prepare(config)
    cell, settings = choose_cell(prepared, requested_cell)
    began = time.perf_counter()
    findings = []
    with reporter or Reporter() as progress:
        factories: dict[str, Callable[[], Subject]] = {
            "": lambda: _configured_subject(prepared, cell, settings, images, progress),
            TINY: lambda: tiny_subject(config, settings),
        }
        subjects: dict[str, Subject] = {}
        for k, (prefix, name) in enumerate(chosen):
            if prefix not in subjects:
                subjects[prefix] = factories[prefix]()
            progress.check(prefix + name, k, len(chosen))
            findings.append(_run_check(prefix, name, subjects[prefix]))
        progress.check("", len(chosen), len(chosen))
    report = SanityReport(
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
            "versions": versions(MAIN_PACKAGES),
        },
    )
    if output is not None:
        text = json.dumps(report.to_dict(), indent=1, allow_nan=False)
        write_atomically(output, f"{text}\n".encode())
    return report


def check_output_file(path: Path) -> None:
    """Check that a path is free or contains an earlier report.

    Raises:
        InputError: it is a folder, or a file of another kind.
    """
    if path.is_dir():
        raise InputError(f"--output {path}: is a folder; give the name of a file")
    try:
        is_report = isinstance(read_json(path).get("checks"), list)
    except FileNotFoundError:
        return
    except UnreadableFileError:
        is_report = False
    if not is_report:
        raise InputError(
            f"--output {path}: contains no results of `stitch-sweep sanity`, and would be replaced; name "
            "another file"
        )


def _choose_checks(only: Sequence[str], *, with_ffcv: bool) -> list[tuple[str, str]]:
    """Return (prefix, name) of every check to run, in order.

    Args:
        only: names of checks; if empty, all.
        with_ffcv: whether all checks include the comparison of FFCV with the plain loader.
    """
    checks = [(prefix, name) for prefix in ("", TINY) for name in CHECKS]
    names = [prefix + name for prefix, name in checks]
    problems = [
        f"--only {name}: there is no such check: {nearest(name, names)}"
        for name in only
        if name not in names
    ]
    if problems:
        raise InputError(*problems)
    if not only:
        return [(prefix, name) for prefix, name in checks if with_ffcv or name != LOADERS]
    return [(prefix, name) for prefix, name in checks if prefix + name in only]


def _run_check(prefix: str, name: str, subject: Subject) -> Finding:
    """Run one check; an exception becomes a finding."""
    seed_everything(subject.config.seed, subject.config.resources.cpu)
    try:
        finding = CHECKS[name](subject)
    except DivergedError as error:
        detail = str(error)
    except Exception as error:
        traceback.print_exc()
        detail = f"{type(error).__name__}: {error}"
    else:
        return replace(finding, name=prefix + finding.name)
    return Finding(prefix + name, "did not run to its end", None, "fail", detail)


def _configured_subject(
    prepared: Prepared, cell: Cell, settings: TrialSettings, images: int, reporter: Reporter
) -> Subject:
    return Subject(
        config=prepared.config,
        # FFCV files of sampled images would stay behind; the check `loaders` makes its own.
        all_data=replace(prepared.data, beton_folder=None),
        modules=provide_networks(prepared, reporter.network),
        load_again=lambda: provide_networks(prepared),  # the zoo has the networks by now
        cell=cell,
        settings=settings,
        images=images,
    )
