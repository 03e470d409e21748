"""A small sweep with stored stitches, run in this process, and its networks and images loaded by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.config.root import Config
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load
from stitch_sweep.measuring.tables import Measured, measure
from stitch_sweep.networks.recipes import make_recipe
from stitch_sweep.networks.zoo import Zoo
from stitch_sweep.networks.zoo import load as load_network
from stitch_sweep.plan.prepare import Prepared, prepare, provide_networks
from stitch_sweep.plan.sizes import count_samples
from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.storage.digests import fingerprint
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.sweep.views import write_views
from stitch_sweep.training.workbench import Workbench

TREE: dict[str, Any] = {
    "seed": 3,
    "data": {"name": "digits", "image_size": 16, "train_images": 200, "test_images": 60},
    "networks": [
        {"name": "a", "family": "resnet1111", "width": 4, "seed": 0},
        {"name": "b", "family": "resnet1111", "width": 4, "seed": 1},
        {"name": "r", "family": "resnet1111", "width": 4, "seed": 2, "weights": "random"},
        {"name": "c", "family": "resnet1111", "width": 4, "seed": 2, "weights": "class_only"},
    ],
    "pretraining": {"epochs": 2, "batch_size": 32},
    "pairs": [
        {"sender": "a", "receiver": "b", "sender_layers": [1, 3], "receiver_layers": [-1, 2]},
        {"sender": "r", "receiver": "b", "sender_layers": [2], "receiver_layers": [2]},
        {"sender": "c", "receiver": "b", "sender_layers": [3], "receiver_layers": [2]},
    ],
    "training": {"epochs": 2, "batch_size": 64},
    "search": {
        "cross": {"loss": [{"task": 1.0}, {"mse": 1.0}, {"correlation": 1.0}]},
        "space": {
            "training.optimizer.lr": {"type": "float", "low": 0.003, "high": 0.1, "log": True}
        },
        "samples": 2,
    },
    "tracking": {"enabled": False},
    "controls": ["linear_probe"],
}


def run_here(prepared: Prepared, folder: Path) -> None:
    """Write a sweep's folder in this process, one trial after another, without Ray."""
    config = prepared.config
    modules = provide_networks(prepared)
    ledger = Ledger(folder)
    ledger.start(
        {
            "decides": {"data": prepared.data.fingerprint},
            "config": config.model_dump(mode="json", exclude={"tracking"}),
            "trials": prepared.trials,
            "networks": {name: fingerprint(module) for name, module in modules.items()},
        }
    )
    (folder / "config.resolved.yml").write_text(to_yaml(config))
    bench = Workbench(config, prepared.data, modules)
    writer = LedgerWriter(str(folder), config.keep_stitches, config.search.mode)
    for study in prepared.studies:
        search = StudySearch(study, config)
        for number in range(count_samples(config, study)):
            params = search.ask(number)
            settings = config.trial_settings({**study.factors, **params})
            trial = study.trial(number)
            spec = {
                **study.key,
                "study": study.id,
                "number": number,
                "params": params,
                "settings": settings.model_dump(mode="json"),
            }
            ledger.begin(trial, spec)
            training = bench.training(
                study.sender,
                study.sender_layer,
                study.receiver,
                study.receiver_layer,
                settings,
                study.repeat,
            )
            while not training.done:
                training.run_epoch()
            result = training.finish()
            outcome = {
                "status": result.status,
                "metric": result.metrics[config.search.metric],
                "metrics": result.metrics,
                "trajectory": result.trajectory,
                "seconds": result.seconds,
            }
            assert result.predictions is not None
            stitch = training.pack_stitch({**spec, "trial": trial})
            writer.finish(trial, outcome, result.predictions.numpy(), stitch)
            search.tell(number, params, [result.metrics[config.search.metric]])
    write_views(folder, prepared.studies, config)


def copied(folder: Path, target: Path) -> Path:
    copy = target / "copy"
    shutil.copytree(folder, copy)
    edit(copy, zoo=str(copy / "zoo"))
    return copy


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.resolved.yml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def table(measured: Measured, name: str) -> pd.DataFrame:
    return pd.read_parquet(measured.path(name))


def networks(folder: Path) -> tuple[Data, dict[str, torch.nn.Module], dict[str, Path]]:
    """Load the images, the networks and their folders, one by one."""
    config = read_config(folder / "config.resolved.yml")
    data = load(config.data)
    folders = {}
    for network in config.networks:
        if network.weights != "class_only":
            entry = Zoo(config.zoo).find(make_recipe(network, config, data))
            assert entry is not None
            folders[network.name] = entry.folder
    return data, {name: load_network(path) for name, path in folders.items()}, folders


def normalised(data: Data, split: str) -> torch.Tensor:
    pixels = getattr(data, split).images.float() / 255
    return (pixels - data.mean.view(-1, 1, 1)) / data.std.view(-1, 1, 1)


def best(folder: Path, sender: str, i: int, j: int, loss: str) -> pd.Series:
    """Return the best trial of a cell and loss, selected by hand."""
    results = pd.read_parquet(folder / "results.parquet")
    where = (results["sender"] == sender) & (results["loss"] == loss)
    where &= (results["sender_layer"] == i) & (results["receiver_layer"] == j)
    cells = results[where].sort_values(["val_accuracy", "number"], ascending=[False, True])
    return cells.iloc[0]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment folder with its zoo and without tables of `measured/`; read-only."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "zoo").mkdir()
    config = Config.model_validate({**TREE, "zoo": str(folder / "zoo")})
    run_here(prepare(config), folder)
    return folder


@pytest.fixture(scope="session")
def told() -> list[tuple[str, int, int]]:
    """The calls of `on_progress` while `measured` was computed."""
    return []


@pytest.fixture(scope="session")
def measured(
    finished: Path, told: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> Measured:
    """All tables of a copy of the folder."""
    copy = copied(finished, tmp_path_factory.mktemp("measured"))
    return measure(copy, on_progress=lambda *progress: told.append(progress))


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may change."""
    return copied(finished, tmp_path)
