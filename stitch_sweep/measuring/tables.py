"""From an experiment folder to the tables that need networks, images and stored stitches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ValidationError
from torch import Tensor

from stitch_sweep import __version__
from stitch_sweep.analysis.comparison.losses import identity_columns
from stitch_sweep.analysis.results import PAIR, best_trials, check_results
from stitch_sweep.config.models import Config, LossConfig
from stitch_sweep.config.reading import read_yaml
from stitch_sweep.config.space import search_problems
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.problems import describe_problems
from stitch_sweep.data.augmentation import normalise
from stitch_sweep.data.images import SPLITS, Data
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.losses.base import CombinedLoss, LossContext
from stitch_sweep.measuring import about
from stitch_sweep.measuring.about import Entry
from stitch_sweep.measuring.importances import importances
from stitch_sweep.measuring.networks import CHUNKED, Found, find_networks, network_table
from stitch_sweep.measuring.permissions import Permissions
from stitch_sweep.measuring.pictures import Picture, Pictures, choose, displayable, write_pictures
from stitch_sweep.measuring.probes import gather, pooled, probe
from stitch_sweep.measuring.representations import Shelf, by_cell, compare, represent
from stitch_sweep.networks.frozen import IMAGE_LAYER, Examples
from stitch_sweep.storage.files import atomic
from stitch_sweep.storage.ledger import Ledger, some
from stitch_sweep.sweep.views import results_table
from stitch_sweep.training.workbench import Workbench

FORMAT = 1
"""Raised when a table's content changes without its sweep having changed."""

TABLES = ("networks", "labels", "importances", "representations", "probes", "images")
"""What `measure` writes, in this order; `images` is a safetensors file, the others are parquet."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measured:
    """What lies in `measured/` after a call.

    Attributes:
        folder: the folder of the tables.
        tables: number of rows by table; 0 where there is no file.
        written: the tables that this call wrote, the others held already.
        notes: what could not be computed and why, and what to know of the rest; a plain sentence each.
    """

    folder: Path
    tables: dict[str, int]
    written: list[str]
    notes: list[str]

    def path(self, table: str) -> Path:
        """Where a table lies, if it has rows."""
        return _path(self.folder, table)


def measure(
    folder: Path | str,
    *,
    on_progress: OnProgress = lambda table, done, total: None,
    only: Iterable[str] | None = None,
    run_code: bool = False,
    allow: Iterable[Path | str] = (),
    download: Iterable[str] = (),
) -> Measured:
    """Compute what an analysis needs beside a sweep's results, from its networks and stored stitches.

    Works on a finished and on a half-finished sweep, and takes the best trial of every study. Nothing
    is trained: a network that the zoo lacks is named, and what depends on it is left out. Tables that
    still hold are not computed again: `about.json` says what each was made from. Networks and data are
    those of `config.resolved.yml`; paths in it are looked up as in a sweep, beside it or in the current
    folder. Nothing is downloaded, and files are read below the folder only, because it may be a
    stranger's; the zoo may also be `zoo` in the current folder, where that is its name.

    Args:
        folder: an experiment folder that `stitch-sweep sweep` wrote.
        on_progress: told (table, parts done, parts in all).
        only: names in `TABLES`; all of them if not given.
        run_code: whether to run the factories of networks of `source: python`. The folder names them,
            and it may be a stranger's; without it these networks are left out.
        allow: further folders whose files are read where the configuration names them.
        download: libraries ("torchvision", "timm") whose published weights are loaded, from their cache
            or the network.

    Returns:
        What was written, and what could not be and why.

    Raises:
        InputError: the folder holds no sweep, a name in `only` is no table, a folder in `allow` is
            none, a name in `download` no library, `measured` is a link to another
            place, or it holds files that would be replaced and aren't known to be Stitch Sweep's.
        FrozenError: a network changed while it was looked at, which nothing here may do.

    Example:
        >>> measured = measure("experiments/quickstart/digits")  # doctest: +SKIP
        >>> pd.read_parquet(measured.path("networks"))["test_accuracy"]  # doctest: +SKIP
    """
    wanted = list(TABLES if only is None else dict.fromkeys(only))
    if unknown := [name for name in wanted if name not in TABLES]:
        raise InputError(*(f"no table {name!r}: {nearest(name, TABLES)}" for name in unknown))
    folder = Path(folder)
    permissions = Permissions(folder, allow=allow, download=download, run_code=run_code)
    source = _Source(folder, permissions)
    target = folder / "measured"
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target}: is a link or a file, and a folder of that name is written")
    entries = about.read(target)
    if not (target / about.NAME).exists():
        _check_free(target)
        about.write(target, source.general, entries)  # shows from now on whose the tables are
    written = []
    for table in (name for name in TABLES if name in wanted):
        entry = entries.get(table)
        if entry is not None and entry.holds(source.key, _path(target, table), permissions.exists):
            continue
        had_rows = entry is not None and entry.rows > 0
        entries[table] = _write(source, target, table, on_progress)
        if had_rows and not entries[table].rows:
            _path(target, table).unlink(missing_ok=True)  # of an earlier state of the sweep
        # After each, so that a process that is killed has lost one table at most.
        about.write(target, source.general, entries)
        if entries[table].rows:
            written.append(table)
    source.verify()
    notes = [*source.damaged, *(note for name in wanted for note in entries[name].notes)]
    rows = {name: entries[name].rows for name in wanted}
    return Measured(target, rows, written, list(dict.fromkeys(notes)))


class _NotNowError(Exception):
    """A table can't be computed; the arguments are an entry's notes, and the files that are missing."""

    def __init__(self, notes: list[str], awaits: list[str], again: bool) -> None:
        super().__init__(*notes)
        self.notes, self.awaits, self.again = notes, awaits, again


@dataclass
class _Content:
    """A table, or what writes it, and what is to be said of it."""

    table: pd.DataFrame | Pictures | None
    notes: list[str] = field(default_factory=list)
    awaits: list[str] = field(default_factory=list)
    again: bool = False


class _Source:
    """An experiment folder, and what is loaded of it when it is first needed.

    Raises:
        InputError: the folder holds no sweep.
    """

    def __init__(self, folder: Path, permissions: Permissions) -> None:
        self._permissions = permissions
        if not folder.is_dir():
            raise InputError(f"{folder}: not a folder; expected an experiment folder")
        self.ledger = Ledger(folder)
        description = self.ledger.description()
        if description is None:
            raise InputError(f"{folder}: holds no sweep; `stitch-sweep sweep CONFIG` starts one")
        self._description: Mapping[str, Any] = description
        self.damaged: list[str] = []
        records = self.ledger.records(lambda error: self.damaged.append(f"left out: {error}"))
        ended = (r for r in records if r["status"] != "running")
        self.records = {record["trial"]: record for record in ended}
        self.general = {
            "format": FORMAT,
            "version": __version__,
            "ledger": description["id"],
            "trials": len(self.records),
        }

    @cached_property
    def key(self) -> str:
        """Digest of all that the tables depend on and a sweep may change."""
        trials = [(t, r["status"], r["metric"]) for t, r in sorted(self.records.items())]
        probes = "linear_probe" in self._description.get("config", {}).get("controls", [])
        content = [FORMAT, self._description["id"], trials, probes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @cached_property
    def config(self) -> Config:
        """The configuration as it stands; its paths are looked up when they are needed."""
        try:
            # Not `read_config`: it looks for every file that the configuration names.
            config = Config.model_validate(read_yaml(self.ledger.folder / "config.resolved.yml"))
            problems = list(search_problems(config))
        except InputError as error:
            problems = list(error.problems)
        except ValidationError as error:
            problems = describe_problems(error, Config)
        if problems:
            why = [f"the configuration can't be read: {problem}" for problem in problems]
            raise _NotNowError(why, [], again=True)
        return config

    @cached_property
    def data(self) -> Data:
        config = self.config.data
        # FFCV reads the same images, and need not be installed where one looks at results.
        changes: dict[str, Any] = {"loader": "torch"}
        try:
            if "path" in config.options:
                changes["path"] = str(self._permissions.find(config.options["path"]))
            if "download" in config.options:
                changes["download"] = False
            data = load_data(config.model_copy(update=changes))
        except InputError as error:
            why = [f"the images can't be loaded: {problem}" for problem in error.problems]
            raise _NotNowError(why, [], again=True) from None
        if self._description.get("decides", {}).get("data", data.fingerprint) != data.fingerprint:
            raise _NotNowError(["the images are not those of the sweep"], [], again=True)
        return data

    @cached_property
    def found(self) -> Found:
        prints = self._description.get("networks", {})
        return find_networks(self.config, self.data, prints, self._permissions)

    @cached_property
    def bench(self) -> Workbench:
        wanted = self.config.resources.device
        device = wanted if wanted == "cpu" or torch.cuda.is_available() else "cpu"
        return Workbench(self.config, self.data, self.found.modules, device)

    @cached_property
    def results(self) -> pd.DataFrame:
        """A row per ended trial; from the ledger, because results.parquet is behind a running sweep."""
        if not self.records:
            raise _NotNowError(["no trial has ended yet"], [], again=False)
        return check_results(results_table(self.records.values()))

    @cached_property
    def usable(self) -> pd.DataFrame:
        """The finished best trial of every study whose networks are there."""
        search = self.config.search
        best = best_trials(self.results, search.metric, search.mode)
        there = best["sender"].isin(self.bench.senders) & best["receiver"].isin(self.bench.networks)
        return best[there & (best["status"] == "finished")].reset_index(drop=True)

    @property
    def device_notes(self) -> list[str]:
        if self.bench.device == self.config.resources.device:
            return []
        return ["computed on the CPU, the sweep on a GPU: last digits may differ"]

    def verify(self) -> None:
        """See that the networks are as they were."""
        if "bench" in self.__dict__:
            for sender in self.bench.senders.values():
                sender.verify()


def _check_free(folder: Path) -> None:
    """Check that a folder without `about.json` has no files that tables would replace.

    Raises:
        InputError: it has.
    """
    blocking = [str(path) for table in TABLES if (path := _path(folder, table)).exists()]
    if blocking:
        raise InputError(
            f"{some(blocking)}: would be replaced, and without {folder / about.NAME} nothing shows "
            "that Stitch Sweep made it; move it away"
        )


def _path(folder: Path, table: str) -> Path:
    return folder / f"{table}.{'safetensors' if table == 'images' else 'parquet'}"


def _write(source: _Source, folder: Path, table: str, on_progress: OnProgress) -> Entry:
    path = _path(folder, table)
    try:
        content = _MAKERS[table](source, lambda done, total: on_progress(table, done, total))
    except _NotNowError as error:
        content = _Content(None, error.notes, error.awaits, error.again)
    if isinstance(content.table, Pictures):
        rows = len(content.table.pictures)
        if rows:
            write_pictures(path, content.table)
    else:
        rows = 0 if content.table is None else len(content.table)
        if content.table is not None and rows:
            with atomic(path) as temporary:
                content.table.to_parquet(temporary)
    return Entry(source.key, rows, content.notes, content.awaits, content.again)


_Report = Callable[[int, int], None]


def _networks(source: _Source, report: _Report) -> _Content:
    report(0, 1)
    results = source.results if source.records else pd.DataFrame(columns=[*PAIR, *_OWN])
    table = network_table(source.found, source.bench, results)
    return _Content(table, *_of_networks(source))


_OWN = ["sender_accuracy", "receiver_accuracy"]


def _labels(source: _Source, report: _Report) -> _Content:
    report(0, 1)
    return _Content(pd.DataFrame({"label": source.data.test.labels.numpy()}))


def _importances(source: _Source, report: _Report) -> _Content:
    params = {trial: record["params"] for trial, record in source.records.items()}
    table = importances(source.results, params, source.config, report)
    searched = bool(source.config.search.distributions)
    none = searched and not len(table)
    notes = ["importances: no study has two ended trials that could be compared"] if none else []
    return _Content(table, notes)


def _representations(source: _Source, report: _Report) -> _Content:
    usable = source.usable
    shelf = Shelf(source.ledger, source.records, source.bench)
    found = compare(usable, source.bench, shelf, report)
    table = pd.DataFrame(found.rows)
    if len(table):
        names = identity_columns(usable)
        table = table.astype({name: usable[name].dtype for name in names})
        first = [*PAIR, *names]
        table = table[[*first, *(c for c in table if c not in first)]]
    notes, awaits, again = _of_networks(source)
    notes += _of_shelf(source, shelf)
    for count, what in (
        (found.without_task, "a stitch trained for another loss, but no finished one for the task"),
        (
            found.without_similarity,
            "a stitch trained for the task, but no finished one for another loss",
        ),
    ):
        if count:
            notes.append(
                f"representations: {count} cells, counted per repeat and factors, are left out: they "
                f"have {what}"
            )
    return _Content(table, notes, awaits + shelf.missing, again or bool(shelf.problems))


def _probes(source: _Source, report: _Report) -> _Content:
    if "linear_probe" not in source.config.controls:
        return _Content(None)
    bench, results = source.bench, source.results
    asked = results[results["sender"].isin(bench.networks)]
    columns = (asked["sender"].map(str), asked["sender_layer"].map(int))
    places = sorted(set(zip(*columns, strict=True)))
    rows = []
    for done, (name, layer) in enumerate(places):
        report(done, len(places))
        splits = {}
        for split in SPLITS:
            labels = getattr(source.data, split).labels
            chunks = [pooled(x).cpu() for x in represent(bench, "sender", name, layer, split)]
            whole = torch.cat(chunks)[: len(labels)]
            splits[split] = gather([whole], labels)
        figures = probe(
            splits["train"], splits["validation"], splits["test"], source.config.resources.cpu
        )
        rows.append({"network": name, "layer": layer, **figures})
    notes, awaits, again = _of_networks(source)
    rough = sum(row["converged"] is False for row in rows)
    if rough:
        notes.append(f"probes: {rough} of {len(rows)} had not converged after all their iterations")
    return _Content(pd.DataFrame(rows), notes, awaits, again)


@torch.no_grad()
def _images(source: _Source, report: _Report) -> _Content:
    if not any(r["receiver_layer"] == IMAGE_LAYER for r in source.records.values()):
        return _Content(None)
    bench, data = source.bench, source.data
    into = source.usable[source.usable["receiver_layer"] == IMAGE_LAYER]
    labels = data.test.labels.tolist()
    numbers = choose(labels)
    at = torch.tensor(numbers)
    loader = bench.loaders(CHUNKED)["test"]
    pixels = data.test.images[at].to(bench.device)
    shown = normalise(pixels, loader.mean, loader.std)
    examples = Examples("test", at.to(bench.device), shown, data.test.labels[at].to(bench.device))
    shelf = Shelf(source.ledger, source.records, bench)
    pictures = []
    cells = list(by_cell(into, bench))
    names = identity_columns(into)
    for done, (cell, trials) in enumerate(cells):
        report(done, len(cells))
        stitches = shelf.load(cell, trials["trial"].tolist())
        receiver = bench.networks[cell.receiver]
        for row in trials.to_dict("records"):
            if (stitch := stitches.get(row["trial"])) is None:
                continue
            made: Tensor = stitch(bench.senders[cell.sender].represent(cell.sender_layer, examples))
            images, figures = displayable(made, loader.mean, loader.std)
            identity = {
                "trial": row["trial"],
                **cell._asdict(),
                "repeat": row["repeat"],
                "factors": {name: None if pd.isna(row[name]) else row[name] for name in names},
                "loss": row["loss"],
                "kind": _kind(source.records[row["trial"]]["settings"]["loss"]),
                "calibrated": stitch.calibration != "none",
            }
            predicted = receiver.suffix(IMAGE_LAYER)(made).argmax(dim=1).tolist()
            pictures.append(Picture({**identity, **figures, "predicted": predicted}, images))
    predicted = {
        name: of.evaluate(loader).predictions[at].tolist()
        for name, of in bench.networks.items()
        if of.classifies
    }
    chosen = [labels[k] for k in numbers]
    found = Pictures(numbers, chosen, list(data.classes), predicted, pixels.cpu().numpy(), pictures)
    notes, awaits, again = _of_networks(source)
    notes += _of_shelf(source, shelf)
    return _Content(found, notes, awaits + shelf.missing, again or bool(shelf.problems))


def _kind(loss: Any) -> str:
    """Whether a stitch was trained to be like the image, or to be of use to the receiver."""
    terms = LossConfig.model_validate(loss).terms
    combined = CombinedLoss([(t.name, t.weight, t.options) for t in terms], LossContext())
    useful = combined.needs_logits or combined.needs_hints
    return "shown" if useful else "reconstruction"


_MAKERS: dict[str, Callable[[_Source, _Report], _Content]] = {
    "networks": _networks,
    "labels": _labels,
    "importances": _importances,
    "representations": _representations,
    "probes": _probes,
    "images": _images,
}


def _of_networks(source: _Source) -> tuple[list[str], list[str], bool]:
    """What is to be said of the networks, and whether it may be otherwise another time."""
    found = source.found
    return [*source.device_notes, *found.notes], list(found.awaits), found.damaged


def _of_shelf(source: _Source, shelf: Shelf) -> Iterator[str]:
    """What is to be said of the stored stitches."""
    if shelf.missing and source.config.keep_stitches == "none":
        yield "the sweep stored no stitches (keep_stitches: none), so nothing can be made of them"
    elif shelf.missing:
        more = f", and {len(shelf.missing) - 1} others" if len(shelf.missing) > 1 else ""
        yield f"{shelf.missing[0]} is missing{more}: what needs these stitches is left out"
    yield from shelf.problems
