"""Tables of `measured/`, against networks and stitches loaded by hand and plain sums."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from stitch_sweep.config.models import Config, trial_settings
from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load
from stitch_sweep.measuring.importances import SHUFFLES, importances, shares_better
from stitch_sweep.measuring.pictures import choose, displayable, read_pictures
from stitch_sweep.measuring.probes import STRENGTHS, Features, pooled, probe
from stitch_sweep.measuring.tables import TABLES, Measured, measure
from stitch_sweep.networks.controls import ClassOnly
from stitch_sweep.networks.cutting.tracing import create_sub_network
from stitch_sweep.networks.zoo import Zoo, make_recipe
from stitch_sweep.networks.zoo import load as load_network
from stitch_sweep.plan.prepare import Prepared, prepare, provide_networks
from stitch_sweep.plan.search import StudySearch, samples_per_study
from stitch_sweep.stitches.storage import load_stitch
from stitch_sweep.storage.checkpoints import fingerprint
from stitch_sweep.storage.ledger import Ledger, LedgerWriter, predictions_of
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
    """A sweep's folder, made by this process: what Ray would do, one trial after the other."""
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
        for number in range(samples_per_study(config, study)):
            params = search.ask(number)
            settings = trial_settings(config.settings, {**study.factors, **params})
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment folder with its zoo in it, and nothing measured yet; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "zoo").mkdir()
    config = Config.model_validate({**TREE, "zoo": str(folder / "zoo")})
    run_here(prepare(config), folder)
    return folder


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    """What `on_progress` was told when `measured` was made."""
    return []


@pytest.fixture(scope="module")
def measured(
    finished: Path, told: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> Measured:
    """All tables of a copy of the folder."""
    copy = copied(finished, tmp_path_factory.mktemp("measured"))
    return measure(copy, on_progress=lambda *progress: told.append(progress))


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the folder, for a test to do with as it likes."""
    return copied(finished, tmp_path)


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
    """Images, networks and their folders, loaded one by one."""
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
    """The best trial of a cell and loss, chosen by hand."""
    results = pd.read_parquet(folder / "results.parquet")
    where = (results["sender"] == sender) & (results["loss"] == loss)
    where &= (results["sender_layer"] == i) & (results["receiver_layer"] == j)
    cells = results[where].sort_values(["val_accuracy", "number"], ascending=[False, True])
    return cells.iloc[0]


# What is written


def test_every_table_is_written_and_nothing_is_wrong(measured):
    assert measured.notes == []
    assert measured.written == list(TABLES)
    assert all(measured.path(name).is_file() for name in TABLES)
    assert measured.tables == {
        "networks": 4,
        "labels": 60,
        "importances": 9,  # three pairs of networks, three losses, one searched setting
        "representations": 12,  # six cells, two similarity losses
        "probes": 3,  # a has two layers, r one; c is no network
        "images": 6,  # two sender layers, three losses
    }
    about = json.loads((measured.folder / "about.json").read_text())
    assert about["ledger"] == Ledger(measured.folder.parent).description()["id"]
    assert about["trials"] == 36


def test_a_second_call_computes_nothing(measured, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in measured.folder.iterdir()}
    for name in ("load_data", "results_table", "Workbench"):
        monkeypatch.setattr(f"stitch_sweep.measuring.tables.{name}", None)
    again = measure(measured.folder.parent)
    assert again.written == []
    assert again.tables == measured.tables
    assert {path: path.stat().st_mtime_ns for path in measured.folder.iterdir()} == before


def test_tables_are_the_same_each_time(measured, folder):
    names = [name for name in TABLES if name != "probes"]
    again = measure(folder, only=names)
    for name in names:
        assert again.path(name).read_bytes() == measured.path(name).read_bytes(), name


def test_progress_is_told_for_every_table(measured, told):
    assert list(dict.fromkeys(name for name, _, _ in told)) == list(TABLES)
    cells = [progress for progress in told if progress[0] == "representations"]
    assert cells == [("representations", k, 6) for k in range(6)]


def test_labels_and_networks_are_what_a_plain_loop_finds(measured):
    data, modules, _ = networks(measured.folder.parent)
    labels = table(measured, "labels")["label"].to_numpy()
    assert labels.tolist() == data.test.labels.tolist()
    found = table(measured, "networks").set_index("network")
    with torch.no_grad():
        predicted = {n: m(normalised(data, "test")).argmax(1) for n, m in modules.items()}
    for name, module in modules.items():
        row = found.loc[name]
        assert row["predictions"].tolist() == predicted[name].tolist()
        assert row["test_accuracy"] == (predicted[name].numpy() == labels).mean()
        assert row["parameters"] == sum(p.numel() for p in module.parameters())
        assert row["layers"].tolist() == ["relu", "layer1.0", "layer2.0", "layer3.0", "layer4.0"]
        assert (row["depth"], row["width"], row["classes"]) == (4, 4, 10)
        assert json.loads(row["options"]) == {"blocks": [1, 1, 1, 1], "width": 4}
    assert found["weights"].to_dict() == {
        "a": "trained", "b": "trained", "r": "random", "c": "class_only",
    }  # fmt: skip
    assert pd.isna(found.loc["c", "test_accuracy"])
    assert found.loc["c", "predictions"] is None


# EV, ES and SV


@pytest.mark.parametrize(
    ("sender", "i", "j"), [("a", 1, -1), ("a", 1, 2), ("r", 2, 2), ("c", 3, 2)]
)
def test_ev_es_and_sv_are_plain_means_over_validation_images(measured, sender, i, j):
    folder = measured.folder.parent
    data, modules, _ = networks(folder)
    images = normalised(data, "validation")
    with torch.no_grad():
        if sender == "c":
            shapes = [
                create_sub_network(modules["b"], -1, k)(images[:1]).shape[1:] for k in range(5)
            ]
            control = ClassOnly([list(shape) for shape in shapes], seed=2, noise=1.0)
            sent = control(i, "validation", torch.arange(len(images)), data.validation.labels)
        else:
            sent = create_sub_network(modules[sender], -1, i)(images)
        expected = images if j == -1 else create_sub_network(modules["b"], -1, j)(images)
        stitched = {}
        for loss in ("task", "mse"):
            trial = best(folder, sender, i, j, loss)["trial"]
            stitched[loss] = load_stitch(folder / "stitches" / f"{trial}.safetensors")(sent)
    e, v, s = (x.double().numpy() for x in (expected, stitched["task"], stitched["mse"]))
    found = table(measured, "representations")
    here = (
        (found["sender"] == sender) & (found["sender_layer"] == i) & (found["receiver_layer"] == j)
    )
    row = found[here & (found["similarity_loss"] == "mse")].iloc[0]
    variance = np.mean([e[:, c].var() for c in range(e.shape[1])])
    for name, difference in {"ev": e - v, "es": e - s, "sv": s - v}.items():
        assert row[name] == pytest.approx(np.mean(difference**2), rel=1e-6)
        assert row[f"{name}_relative"] == pytest.approx(np.mean(difference**2) / variance, rel=1e-6)
    assert (row["es_raw"], row["sv_raw"], row["calibration"]) == (row["es"], row["sv"], "none")


def test_they_are_what_the_trials_measured_of_themselves(measured):
    """`val_mse` is accumulated by other code, when a trial ends."""
    results = pd.read_parquet(measured.folder.parent / "results.parquet").set_index("trial")
    for row in table(measured, "representations").to_dict("records"):
        task, other = results.loc[row["task_trial"]], results.loc[row["similarity_trial"]]
        assert (task["loss"], other["loss"]) == ("task", row["similarity_loss"])
        assert row["ev"] == pytest.approx(task["val_mse"], rel=1e-9)
        assert row["ev_relative"] == pytest.approx(task["val_relative_mse"], rel=1e-9)
        assert row["es_raw"] == pytest.approx(other["val_mse"], rel=1e-9)


def test_a_blind_loss_is_compared_behind_its_calibration(measured):
    """Correlation is blind to a scale and shift per channel: least squares on training images."""
    folder = measured.folder.parent
    data, modules, _ = networks(folder)
    trial = best(folder, "a", 3, 2, "correlation")["trial"]
    stitch = load_stitch(folder / "stitches" / f"{trial}.safetensors")
    made, wanted = {}, {}
    with torch.no_grad():
        for split in ("train", "validation"):
            images = normalised(data, split)
            made[split] = stitch(create_sub_network(modules["a"], -1, 3)(images)).double().numpy()
            wanted[split] = create_sub_network(modules["b"], -1, 2)(images).double().numpy()
    errors = []
    for c in range(made["train"].shape[1]):
        x, y = made["train"][:, c].ravel(), wanted["train"][:, c].ravel()
        slope = max(0.0, np.cov(x, y, ddof=0)[0, 1] / x.var()) if x.var() else 0.0
        shift = y.mean() - slope * x.mean()
        errors.append((wanted["validation"][:, c] - slope * made["validation"][:, c] - shift) ** 2)
    found = table(measured, "representations").set_index("similarity_trial").loc[trial]
    assert found["calibration"] == "channel_affine"
    assert found["es"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert found["es"] < found["es_raw"]


# Images


def test_pictures_are_what_stitches_make_of_test_images(measured):
    folder = measured.folder.parent
    data, modules, _ = networks(folder)
    pictures = read_pictures(measured.path("images"))
    assert sorted(pictures.labels) == list(range(8))
    assert data.test.labels[pictures.numbers].tolist() == pictures.labels
    assert torch.equal(torch.from_numpy(pictures.originals), data.test.images[pictures.numbers])
    kinds = {(p.about["loss"], p.about["kind"], p.about["calibrated"]) for p in pictures.pictures}
    assert kinds == {
        ("task", "shown", False),
        ("mse", "reconstruction", False),
        ("correlation", "reconstruction", True),
    }
    for picture in pictures.pictures:
        about = picture.about
        if about["calibrated"]:
            continue
        stitch = load_stitch(folder / "stitches" / f"{about['trial']}.safetensors")
        images = normalised(data, "test")[pictures.numbers]
        with torch.no_grad():
            made = stitch(create_sub_network(modules["a"], -1, about["sender_layer"])(images))
            predicted = modules["b"](made).argmax(1).tolist()
        values = (made.double() * data.std.view(-1, 1, 1) + data.mean.view(-1, 1, 1)).numpy()
        assert about["minimum"] == pytest.approx(values.min(), abs=1e-5)
        assert about["maximum"] == pytest.approx(values.max(), abs=1e-5)
        assert about["clipped"] == pytest.approx(((values < 0) | (values > 1)).mean(), abs=0.005)
        shown = picture.images.astype(float) / 255
        assert np.abs(shown - values.clip(0, 1)).max() <= 0.5 / 255 + 1e-5
        assert about["predicted"] == predicted
        # The trial's own predictions are those of the whole network.
        record = Ledger(folder).read(about["trial"])
        assert predictions_of(record)[pictures.numbers].tolist() == predicted


def test_a_picture_of_an_image_is_that_image(digits):
    pixels = digits.test.images[:5]
    values = (pixels.float() / 255 - digits.mean.view(-1, 1, 1)) / digits.std.view(-1, 1, 1)
    shown, about = displayable(values, digits.mean, digits.std)
    assert np.array_equal(shown, pixels.numpy())
    assert about["clipped"] == 0
    assert about["minimum"] == pytest.approx(0, abs=1e-5)
    assert about["maximum"] == pytest.approx(pixels.max().item() / 255, abs=1e-5)
    shown, about = displayable(values * math.nan, digits.mean, digits.std)
    assert about == {"minimum": None, "maximum": None, "clipped": None}


def test_images_of_every_class_are_chosen_first():
    assert choose([0, 0, 0, 1, 1, 2], count=4) == [0, 3, 5, 1]
    assert choose([1], count=4) == [0]


def test_a_file_that_holds_no_pictures_is_named(measured, tmp_path):
    damaged = tmp_path / "images.safetensors"
    damaged.write_bytes(measured.path("images").read_bytes()[:-100])
    foreign = next((measured.folder.parent / "stitches").glob("*"))
    for path in (damaged, foreign, tmp_path / "none"):
        with pytest.raises(InputError, match=path.name):
            read_pictures(path)


# Probes


def test_probes_are_logistic_regressions_on_pooled_representations(measured):
    data, modules, _ = networks(measured.folder.parent)
    found = table(measured, "probes").set_index(["network", "layer"])
    assert sorted(found.index) == [("a", 1), ("a", 3), ("r", 2)]
    row = found.loc[("a", 1)]
    assert row["features"] == 4 * 4 * 4
    x, y = {}, {}
    for split in ("train", "validation", "test"):
        with torch.no_grad():
            maps = create_sub_network(modules["a"], -1, 1)(normalised(data, split))
        x[split] = functional.avg_pool2d(maps, 4).flatten(1).numpy()  # 16 x 16 to 4 x 4
        y[split] = getattr(data, split).labels.numpy()
    scores = {}
    for strength in STRENGTHS:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
        classifier.fit(x["train"], y["train"])
        scores[strength] = [classifier.score(x[split], y[split]) for split in x]
    chosen = max(scores, key=lambda strength: (scores[strength][1], -strength))
    assert row["c"] == chosen
    assert row[["train_accuracy", "val_accuracy", "test_accuracy"]].tolist() == pytest.approx(
        scores[chosen], abs=0.01
    )


@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ((8, 16, 16), 8 * 16),
        ((256, 8, 8), 256 * 4),  # 4 x 4 places would be 4,096
        ((512, 8, 8), 512 * 4),
        ((513, 8, 8), 513),
        ((3, 3, 5), 3 * 4),
        ((3, 1, 1), 3),
        ((17,), 17),
        ((7, 5), 5),
    ],
)
def test_a_probe_sees_at_most_so_many_features(shape, features):
    constant = pooled(torch.full((2, *shape), 3.0))
    assert constant.shape == (2, features)
    assert torch.equal(constant, torch.full((2, features), 3.0))


def test_a_probe_finds_classes_that_a_line_divides_and_no_others():
    numbers = np.random.default_rng(0)

    def split(count: int, related: bool) -> Features:
        labels = np.arange(count) % 2
        values = numbers.normal(size=(count, 5))
        if related:
            values[:, 0] += 20 * labels
        # Scales and offsets are for the standardisation to undo, and a constant feature is nothing.
        values = np.column_stack([values * [1e-3, 1, 1e3, 1, 1] + 7, np.full(count, 3.0)])
        return Features(values.astype(np.float32), labels)

    found = probe(*(split(n, True) for n in (200, 100, 400)), threads=1)
    assert (found["train_accuracy"], found["test_accuracy"], found["converged"]) == (1, 1, True)
    guess = probe(*(split(n, False) for n in (200, 100, 400)), threads=1)
    assert guess["test_accuracy"] == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 400))


def test_a_probe_of_values_that_are_not_finite_says_nothing():
    bad = Features(np.full((4, 2), np.inf, dtype=np.float32), np.arange(4))
    assert probe(bad, bad, bad, threads=1)["test_accuracy"] is None


# Importances


def searched(space: dict[str, Any], samples: int = 8) -> Config:
    search = {"space": space, "samples": samples}
    return Config.model_validate({**TREE, "controls": [], "search": search})


def many_trials(
    config: Config, studies: int, score: Any, spread: float = 1.0
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Random search in so many cells; every second cell's accuracies are squeezed."""
    numbers = np.random.default_rng(0)
    rows, params = [], {}
    for study, number in itertools.product(range(studies), range(config.search.samples)):
        chosen: dict[str, Any] = {}
        for path, distribution in config.search.distributions.items():
            if any(chosen.get(parent) != value for parent, value in distribution.when.items()):
                continue
            if distribution.choices:
                chosen[path] = distribution.choices[numbers.integers(len(distribution.choices))]
            elif distribution.type == "int":
                chosen[path] = int(numbers.integers(distribution.low, distribution.high + 1))
            else:
                chosen[path] = float(numbers.uniform(distribution.low, distribution.high))
        trial = f"t{study}-{number}"
        params[trial] = chosen
        metric = score(chosen, numbers) * (1 if study % 2 else spread)
        rows.append(
            {"trial": trial, "sender": "a", "receiver": "b", "sender_layer": study,
             "receiver_layer": 0, "repeat": 0, "number": number, "metric": metric}
        )  # fmt: skip
    return pd.DataFrame(rows), params


SPACE = {
    "training.optimizer.lr": {"type": "float", "low": 0.0, "high": 1.0},
    "training.batch_size": {"type": "categorical", "choices": [32, 64, 128]},
}


def test_the_setting_that_decides_is_found_whatever_scale_a_cell_has():
    config = searched(SPACE)
    score = lambda chosen, numbers: -abs(chosen["training.optimizer.lr"] - 0.3)  # noqa: E731
    for spread in (1.0, 1e-3):
        found = importances(*many_trials(config, 20, score, spread), config)
        assert found["setting"].tolist() == list(SPACE)
        assert found["importance"].sum() == pytest.approx(1)
        assert found.loc[0, "importance"] > 0.8
        assert found.loc[0, "p_value"] == 1 / (SHUFFLES + 1)
        assert found.loc[0, ["studies", "trials", "best"]].tolist() == [20, 160, 20]


def test_a_setting_that_decides_nothing_has_no_small_p_value():
    """Importances add up to 1 even where there is nothing to see."""
    config = searched(SPACE)
    found = importances(*many_trials(config, 20, lambda _, numbers: numbers.uniform()), config)
    assert found["importance"].sum() == pytest.approx(1)
    assert (found["p_value"] > 0.05).all()


def test_a_conditional_setting_counts_where_it_applies():
    config = searched(
        {
            "stitch.name": {"type": "categorical", "choices": ["paper", "lowrank"]},
            "stitch.rank": {"type": "int", "low": 1, "high": 8, "when": {"stitch.name": "lowrank"}},
        }
    )

    def score(chosen: dict[str, Any], numbers: np.random.Generator) -> float:
        return chosen.get("stitch.rank", 4) + 0.01 * numbers.uniform()

    found = importances(*many_trials(config, 30, score), config).set_index("setting")
    assert found.loc["stitch.rank", "p_value"] == 1 / (SHUFFLES + 1)
    assert found.loc["stitch.rank", "importance"] > 0.5


def test_where_all_trials_are_equal_nothing_is_important():
    config = searched(SPACE)
    found = importances(*many_trials(config, 5, lambda *_: 0.5), config)
    assert found["importance"].isna().all()
    assert found["p_value"].isna().all()


def test_a_failed_trial_is_the_worst_of_its_study():
    metric = np.array([0.2, np.nan, 0.9, 0.9])
    assert shares_better(metric, "max").tolist() == [0.5, 0.75, 0, 0]
    assert shares_better(-metric, "min").tolist() == [0.5, 0.75, 0, 0]
    assert shares_better(np.exp(7 * metric), "max").tolist() == [0.5, 0.75, 0, 0]


# What can't be computed


def test_a_network_that_the_zoo_lacks_is_named_and_the_rest_computed(folder, tmp_path):
    _, _, folders = networks(folder)
    shutil.move(folders["r"], tmp_path / "r")
    names = ["networks", "importances", "representations", "probes"]
    found = measure(folder, only=names)
    assert len(found.notes) == 1
    assert "network r is not there" in found.notes[0]
    assert folders["r"].name in found.notes[0]
    row = table(found, "networks").set_index("network").loc["r"]
    results = pd.read_parquet(folder / "results.parquet")
    assert row["test_accuracy"] == results[results["sender"] == "r"]["sender_accuracy"].iloc[0]
    assert row["predictions"] is None
    assert row["parameters"] > 0
    assert set(table(found, "representations")["sender"]) == {"a", "c"}
    assert set(table(found, "probes")["network"]) == {"a"}
    assert measure(folder, only=names).written == [], "nothing changed"
    shutil.move(tmp_path / "r", folders["r"])
    assert measure(folder, only=names).written == ["networks", "representations", "probes"]
    assert set(table(found, "representations")["sender"]) == {"a", "c", "r"}


def test_tables_outlive_the_zoo_they_were_made_from(folder):
    names = ["networks", "representations", "images"]
    first = measure(folder, only=names)
    shutil.rmtree(folder / "zoo")
    again = measure(folder, only=names)
    assert (again.written, again.tables, again.notes) == ([], first.tables, [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_sweep_of_a_gpu_is_measured_where_there_is_none(folder, measured):
    """Which device trained them is part of what networks are called in the zoo."""
    data, _, folders = networks(folder)
    edit(folder, resources={"cpu": 1, "gpu": 1})
    config = read_config(folder / "config.resolved.yml")
    for network in config.networks:
        if network.name in folders:
            recipe = make_recipe(network, config, data)
            assert recipe.content.get("device") == "cuda"
            folders[network.name].rename(folder / "zoo" / recipe.folder)
    names = ["networks", "labels", "importances", "representations"]
    found = measure(folder, only=names)
    assert found.notes == ["computed on the CPU, the sweep on a GPU: last digits may differ"]
    for name in names:
        pd.testing.assert_frame_equal(table(found, name), table(measured, name))


def test_a_network_with_other_weights_is_not_measured(folder):
    _, _, folders = networks(folder)
    shutil.copy(folders["b"] / "weights.safetensors", folders["a"])
    found = measure(folder, only=["representations"])
    assert "network a: its weights are not those that the sweep began with" in found.notes
    assert set(table(found, "representations")["sender"]) == {"r", "c"}


@pytest.mark.parametrize("fault", ["damaged", "swapped", "foreign", "missing"])
def test_a_bad_stitch_is_named_and_the_rest_computed(folder, fault, finished):
    bad = best(folder, "a", 3, 2, "mse")["trial"]
    path = folder / "stitches" / f"{bad}.safetensors"
    if fault == "damaged":
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
    elif fault == "swapped":
        other = best(folder, "a", 1, 2, "mse")["trial"]
        shutil.copy(folder / "stitches" / f"{other}.safetensors", path)
    elif fault == "foreign":
        path.write_text("a stitch")
    else:
        path.unlink()
    found = measure(folder, only=["representations"])
    assert len(found.notes) == 1
    assert bad in found.notes[0]
    assert {"damaged": "checksum", "swapped": other if fault == "swapped" else "",
            "foreign": "no stitch", "missing": "is missing"}[fault] in found.notes[0]  # fmt: skip
    left = table(found, "representations")
    assert len(left) == 11
    assert bad not in set(left["similarity_trial"])
    shutil.copy(finished / "stitches" / path.name, path)
    assert measure(folder, only=["representations"]).tables == {"representations": 12}


def test_a_sweep_that_kept_no_stitches(folder):
    shutil.rmtree(folder / "stitches")
    edit(folder, keep_stitches="none")
    found = measure(folder, only=["networks", "representations", "images"])
    assert found.tables | {"representations": 0, "images": 0} == found.tables
    assert found.tables["networks"] == 4
    assert not found.path("representations").exists()
    assert [note for note in found.notes if "keep_stitches: none" in note] == found.notes


def test_without_the_images_what_needs_none_is_computed(folder):
    edit(folder, data={"name": "cifar10", "path": "/nowhere"})
    found = measure(folder)
    assert found.tables == {**dict.fromkeys(TABLES, 0), "importances": 9}
    assert all("the images can't be loaded" in note and "/nowhere" in note for note in found.notes)
    assert found.notes


def test_other_images_are_not_taken_for_those_of_the_sweep(folder):
    data = yaml.safe_load((folder / "config.resolved.yml").read_text())["data"]
    edit(folder, data={**data, "split_seed": 5})
    assert measure(folder, only=["labels"]).notes == ["the images are not those of the sweep"]


def test_a_configuration_that_can_not_be_read(folder):
    (folder / "config.resolved.yml").unlink()
    found = measure(folder)
    assert set(found.tables.values()) == {0}
    assert all("the configuration can't be read" in note for note in found.notes)


def test_a_half_finished_sweep(folder):
    """One trial still runs, another failed, no view was written."""
    ledger = Ledger(folder)
    task = [
        r for r in ledger.records() if r["sender"] == "r" and r["factors"]["loss"] == {"task": 1.0}
    ]
    for record, status in zip(task, ("running", "failed"), strict=True):
        path = folder / "ledger" / "trials" / f"{record['trial']}.json"
        changed = {**record, "status": status, "metric": None, "metrics": {}, "predictions": None}
        path.write_text(json.dumps(changed))
        ledger.stitch_path(record["trial"]).unlink(missing_ok=True)
    for view in ("results", "predictions", "traj"):
        (folder / f"{view}.parquet").unlink()
    found = measure(folder, only=["networks", "labels", "representations"])
    assert found.notes == [
        "representations: 1 cells, counted per repeat and factors, are left out: they have a stitch "
        "trained for another loss, but no finished one for the task"
    ]
    assert set(table(found, "representations")["sender"]) == {"a", "c"}
    assert table(found, "networks")["test_accuracy"].notna().sum() == 3


def test_a_sweep_that_went_on_is_measured_again(folder):
    first = measure(folder, only=["networks", "labels"])
    record = next(iter(Ledger(folder).records()))
    path = folder / "ledger" / "trials" / f"{record['trial']}.json"
    path.write_text(json.dumps({**record, "status": "failed", "metric": None, "metrics": {}}))
    assert measure(folder, only=["networks", "labels"]).written == first.written


def test_a_sweep_that_has_just_begun(folder):
    shutil.rmtree(folder / "ledger" / "trials")
    found = measure(folder)
    assert found.tables == {**dict.fromkeys(TABLES, 0), "networks": 4, "labels": 60}
    assert found.notes == ["no trial has ended yet"]


@pytest.mark.parametrize("content", ["", "{}", '{"tables": [1]}', '{"tables": {"labels": {}}}'])
def test_tables_whose_origin_is_not_known_are_computed_again(folder, content):
    measure(folder, only=["labels"])
    (folder / "measured" / "about.json").write_text(content)
    assert measure(folder, only=["labels"]).written == ["labels"]


def test_a_table_that_was_deleted_is_written_again(folder):
    found = measure(folder, only=["labels"])
    found.path("labels").unlink()
    assert measure(folder, only=["labels"]).written == ["labels"]


def test_a_folder_that_holds_no_sweep_is_refused(tmp_path, folder):
    with pytest.raises(InputError, match="not a folder"):
        measure(tmp_path / "none")
    with pytest.raises(InputError, match="holds no sweep"):
        measure(tmp_path)
    with pytest.raises(InputError, match="did you mean 'labels'"):
        measure(folder, only=["lables"])
    assert not (folder / "measured").exists()
