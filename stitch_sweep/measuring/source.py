"""An experiment folder as the source of measures; loads each part when it is first needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ValidationError

from stitch_sweep import __version__
from stitch_sweep.analysis.results import best_trials, check_results
from stitch_sweep.config.reading import read_yaml
from stitch_sweep.config.root import Config
from stitch_sweep.config.space import search_problems
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import describe_problems
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.measuring.networks import AvailableNetworks, find_networks
from stitch_sweep.measuring.permissions import Permissions
from stitch_sweep.storage.layout import RESOLVED_CONFIG
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.sweep.result_tables import results_table
from stitch_sweep.training.workbench import Workbench

FORMAT = 2
"""Version of the tables; increase it when a table's content changes without a change of the sweep."""


class NotMeasurableError(Exception):
    """A table cannot be computed; the attributes are those of its `TableOrigin`."""

    def __init__(self, notes: list[str], awaits: list[str], again: bool) -> None:
        super().__init__(*notes)
        self.notes, self.awaits, self.again = notes, awaits, again


class SweepSource:
    """An experiment folder, and its networks, images and results.

    Args:
        folder: the experiment folder.
        permissions: what may be read, loaded and run.

    Attributes:
        ledger: the folder's ledger.
        records: its ended trials, by id.
        damaged: a note for each record that cannot be read.
        general: plain data about the sweep and the software.

    Raises:
        InputError: the folder contains no sweep.
    """

    def __init__(self, folder: Path, permissions: Permissions) -> None:
        self._permissions = permissions
        if not folder.is_dir():
            raise InputError(f"{folder}: is not a folder; give an experiment folder")
        self.ledger = Ledger(folder)
        description = self.ledger.description()
        if description is None:
            raise InputError(f"{folder}: contains no sweep; `stitch-sweep sweep CONFIG` starts one")
        self._description: Mapping[str, Any] = description
        self.damaged: list[str] = []
        records = self.ledger.records(lambda error: self.damaged.append(f"left out: {error}"))
        ended = (record for record in records if record["status"] != "running")
        self.records = {record["trial"]: record for record in ended}
        self.general = {
            "format": FORMAT,
            "version": __version__,
            "ledger": description["id"],
            "trials": len(self.records),
        }

    @cached_property
    def key(self) -> str:
        """Digest of all inputs of the tables that a sweep can change."""
        trials = [(t, r["status"], r["metric"]) for t, r in sorted(self.records.items())]
        probes = "linear_probe" in self._description.get("config", {}).get("controls", [])
        content = [FORMAT, self._description["id"], trials, probes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @cached_property
    def config(self) -> Config:
        """The configuration; the files that it names are not checked."""
        try:
            # Not `read_config`, which looks for every file that the configuration names.
            tree = read_yaml(self.ledger.folder / RESOLVED_CONFIG)
            self._provide_plugins(tree)
            config = Config.model_validate(tree)
            problems = list(search_problems(config))
        except InputError as error:
            problems = list(error.problems)
        except ValidationError as error:
            problems = describe_problems(error, Config)
        if problems:
            notes = [f"the configuration can't be read: {problem}" for problem in problems]
            raise NotMeasurableError(notes, [], again=True)
        return config

    def _provide_plugins(self, tree: Mapping[str, Any]) -> None:
        """Load the plugins of the configuration if the user permits it.

        Raises:
            NotMeasurableError: the user doesn't permit it, or a plugin is not that of the sweep.
        """
        try:
            self._permissions.load_plugins(tree, self._description)
        except InputError as error:
            raise NotMeasurableError(error.problems, [], again=True) from None

    @cached_property
    def data(self) -> Data:
        """The images of the sweep."""
        config = self.config.data
        # FFCV reads the same images, and may be missing on the machine that reads results.
        changes: dict[str, Any] = {"loader": "torch"}
        try:
            if "path" in config.options:
                changes["path"] = str(self._permissions.find(config.options["path"]))
            if "download" in config.options:
                changes["download"] = False
            data = load_data(config.model_copy(update=changes))
        except InputError as error:
            notes = [f"the images can't be loaded: {problem}" for problem in error.problems]
            raise NotMeasurableError(notes, [], again=True) from None
        if self._description.get("decides", {}).get("data", data.fingerprint) != data.fingerprint:
            raise NotMeasurableError(["the images are not those of the sweep"], [], again=True)
        return data

    @cached_property
    def available(self) -> AvailableNetworks:
        """The networks that can be loaded."""
        prints = self._description.get("networks", {})
        return find_networks(self.config, self.data, prints, self._permissions)

    @cached_property
    def bench(self) -> Workbench:
        """The loaded networks on the sweep's device, or on the CPU where there is no GPU."""
        configured = self.config.resources.device
        device = configured if configured == "cpu" or torch.cuda.is_available() else "cpu"
        return Workbench(self.config, self.data, self.available.modules, device)

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row per ended trial, from the ledger: results.parquet lags behind a running sweep."""
        if not self.records:
            raise NotMeasurableError(["no trial has ended yet"], [], again=False)
        return check_results(results_table(self.records.values()))

    @cached_property
    def usable(self) -> pd.DataFrame:
        """The finished best trial of every study whose networks are loaded."""
        search = self.config.search
        best = best_trials(self.results, search.metric, search.mode)
        has_sender = best["sender"].isin(self.bench.senders)
        has_receiver = best["receiver"].isin(self.bench.networks)
        usable = has_sender & has_receiver & (best["status"] == "finished")
        return best[usable].reset_index(drop=True)

    @property
    def device_notes(self) -> list[str]:
        """A note if the device is not the sweep's."""
        if self.bench.device == self.config.resources.device:
            return []
        return ["computed on the CPU, the sweep on a GPU: last digits may differ"]

    def verify(self) -> None:
        """Verify that the networks are unchanged.

        Raises:
            FrozenError: a network has changed.
        """
        if "bench" in self.__dict__:
            for sender in self.bench.senders.values():
                sender.verify()
