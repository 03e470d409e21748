"""The sweep's searcher, workers and ledger in one process, without Ray."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from stitch_sweep.config.root import Config
from stitch_sweep.data.images import Data
from stitch_sweep.data.transfer import data_to_arrays
from stitch_sweep.plan.outlines import outline_networks
from stitch_sweep.plan.studies import enumerate_studies
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.sweep import trainable
from stitch_sweep.sweep.openings import stitches_to_keep
from stitch_sweep.sweep.ray_setup import ray
from stitch_sweep.sweep.searcher import SweepSearcher
from stitch_sweep.sweep.trainable import Shared, StitchTrainable
from tests.support.digits import DIGITS, TINY

TIMES = {"started", "seconds", "worker"}


class _Here:
    """An object whose methods are called as an actor's."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._target, name))


class LocalSweep:
    """A sweep whose workers take turns.

    Args:
        monkeypatch: replaces the calls of Ray.
        data: the images.
        modules: the networks by name.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, data: Data, modules: Mapping[str, nn.Module]
    ) -> None:
        monkeypatch.setattr(ray, "get", lambda value: value)
        context = SimpleNamespace(get_worker_id=lambda: "worker")
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        monkeypatch.setattr(trainable, "NodeShelf", lambda: None)
        self._data, self._modules = data, modules
        self.worker_class = StitchTrainable
        self.checkpoint_seconds = 60.0

    def run(
        self,
        config: Config,
        folder: Path,
        *,
        width: int = 1,
        slots: int = 1,
        shuffle: int = 0,
        steps: int | None = None,
        checks: bool = True,
    ) -> dict[str, dict[str, Any]]:
        """Run a sweep, or its missing trials.

        Args:
            config: the configuration.
            folder: the experiment folder.
            width: number of places of a pack.
            slots: number of workers.
            shuffle: seed of the order in which they take turns.
            steps: number of steps of workers after which everything is killed.
            checks: whether a failed step is an error.

        Returns:
            All records by trial, without times.
        """
        ledger = Ledger(folder)
        writer = LedgerWriter(str(folder), stitches_to_keep(config), config.search.mode)
        outlines = outline_networks(config, self._data)
        self.searcher = SweepSearcher(
            enumerate_studies(config, outlines),
            config,
            ledger,
            limit=lambda: slots,
            shape=lambda name, layer: outlines[name].shape(layer),
            width=lambda receiver, layer, batch_size: width,
            layers=lambda name: len(outlines[name].layers),
        )
        shared = Shared(
            config,
            data_to_arrays(self._data),
            {name: copy.deepcopy(module) for name, module in self._modules.items()},
            _Here(writer),
            report_seconds=0.0,
            checkpoint_seconds=self.checkpoint_seconds,
        )
        order, ids = random.Random(shuffle), itertools.count()
        idle: list[Any] = []
        running: dict[str, Any] = {}
        self.steps_taken = 0
        while steps is None or self.steps_taken < steps:
            while len(running) < slots:
                group = self.searcher.suggest(trial_id := f"t{next(ids)}")
                if not isinstance(group, dict):
                    break
                if idle:
                    running[trial_id] = idle.pop()
                    running[trial_id].reset_config(group)
                else:
                    running[trial_id] = self.worker_class.__new__(self.worker_class)
                    running[trial_id].setup(group, shared)
            if not running:
                assert self.searcher.exhausted
                break
            self.steps_taken += 1
            trial_id = order.choice(sorted(running))
            try:
                result = running[trial_id].step()
            except Exception:
                if checks:
                    raise
                del running[trial_id]  # and with it its process
                self.searcher.on_trial_complete(trial_id, error=True)
                continue
            if result["done"]:
                idle.append(running.pop(trial_id))
                self.searcher.on_trial_complete(trial_id, result)
            else:
                self.searcher.on_trial_result(trial_id, result)
        return records(folder)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Read all records by trial, without times."""
    found = {}
    for record in Ledger(folder).records():
        kept = {key: value for key, value in record.items() if key not in TIMES}
        rows = record.get("trajectory", [])
        kept["trajectory"] = [{k: v for k, v in row.items() if k != "time"} for row in rows]
        found[record["trial"]] = kept
    return found


def local_config(sender_layers: list[int], receiver_layers: list[int], **changes: Any) -> Config:
    """Make the configuration of a sweep between the tiny networks `a` and `b`."""
    tree: dict[str, Any] = {
        "data": DIGITS,
        "networks": [
            {"name": name, "family": "resnet", "weights": "random", "seed": seed, **TINY}
            for seed, name in enumerate("ab")
        ],
        "pairs": [
            {
                "sender": "a",
                "receiver": "b",
                "sender_layers": sender_layers,
                "receiver_layers": receiver_layers,
            }
        ],
        "training": {"epochs": 4},
        "tracking": {"enabled": False},
        "keep_stitches": "all",
    }
    return Config.model_validate({**tree, **changes})
