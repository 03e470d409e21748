"""The tables of `measured/`: which are written, which are current, and which cannot be computed."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch
import yaml

from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.measuring.tables import TABLES, measure
from stitch_sweep.networks.recipes import make_recipe
from stitch_sweep.storage.ledger import Ledger
from tests.support.measured_sweep import (
    best,
    edit,
    networks,
    normalised,
    table,
)

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
        monkeypatch.setattr(f"stitch_sweep.measuring.source.{name}", None)
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
    result = table(measured, "networks").set_index("network")
    with torch.no_grad():
        predicted = {n: m(normalised(data, "test")).argmax(1) for n, m in modules.items()}
    for name, module in modules.items():
        row = result.loc[name]
        assert row["predictions"].tolist() == predicted[name].tolist()
        assert row["test_accuracy"] == (predicted[name].numpy() == labels).mean()
        assert row["parameters"] == sum(p.numel() for p in module.parameters())
        assert row["layers"].tolist() == ["relu", "layer1.0", "layer2.0", "layer3.0", "layer4.0"]
        assert (row["depth"], row["width"], row["classes"]) == (4, 4, 10)
        assert json.loads(row["options"]) == {"blocks": [1, 1, 1, 1], "width": 4}
    assert result["weights"].to_dict() == {
        "a": "trained", "b": "trained", "r": "random", "c": "class_only",
    }  # fmt: skip
    assert pd.isna(result.loc["c", "test_accuracy"])
    assert result.loc["c", "predictions"] is None


# What can't be computed


def test_a_network_that_the_zoo_lacks_is_named_and_the_rest_computed(folder, tmp_path):
    _, _, folders = networks(folder)
    shutil.move(folders["r"], tmp_path / "r")
    names = ["networks", "importances", "representations", "probes"]
    result = measure(folder, only=names)
    assert len(result.notes) == 1
    assert "network r is not available" in result.notes[0]
    assert folders["r"].name in result.notes[0]
    row = table(result, "networks").set_index("network").loc["r"]
    results = pd.read_parquet(folder / "results.parquet")
    assert row["test_accuracy"] == results[results["sender"] == "r"]["sender_accuracy"].iloc[0]
    assert row["predictions"] is None
    assert row["parameters"] > 0
    assert set(table(result, "representations")["sender"]) == {"a", "c"}
    assert set(table(result, "probes")["network"]) == {"a"}
    assert measure(folder, only=names).written == [], "nothing changed"
    shutil.move(tmp_path / "r", folders["r"])
    assert measure(folder, only=names).written == ["networks", "representations", "probes"]
    assert set(table(result, "representations")["sender"]) == {"a", "c", "r"}


def test_tables_outlive_the_zoo_they_were_made_from(folder):
    names = ["networks", "representations", "images"]
    first = measure(folder, only=names)
    shutil.rmtree(folder / "zoo")
    again = measure(folder, only=names)
    assert (again.written, again.tables, again.notes) == ([], first.tables, [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_sweep_of_a_gpu_is_measured_where_there_is_none(folder, measured):
    """The zoo's folder names include the device of the training."""
    data, _, folders = networks(folder)
    edit(folder, resources={"cpu": 1, "gpu": 1})
    config = read_config(folder / "config.resolved.yml")
    for network in config.networks:
        if network.name in folders:
            recipe = make_recipe(network, config, data)
            assert recipe.content.get("device") == "cuda"
            folders[network.name].rename(folder / "zoo" / recipe.folder)
    names = ["networks", "labels", "importances", "representations"]
    result = measure(folder, only=names)
    assert result.notes == ["computed on the CPU, the sweep on a GPU: last digits may differ"]
    for name in names:
        pd.testing.assert_frame_equal(table(result, name), table(measured, name))


def test_a_network_with_other_weights_is_not_measured(folder):
    _, _, folders = networks(folder)
    shutil.copy(folders["b"] / "weights.safetensors", folders["a"])
    result = measure(folder, only=["representations"])
    assert "network a: its weights are not those that the sweep began with" in result.notes
    assert set(table(result, "representations")["sender"]) == {"r", "c"}


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
    result = measure(folder, only=["representations"])
    assert len(result.notes) == 1
    assert bad in result.notes[0]
    assert {"damaged": "checksum", "swapped": other if fault == "swapped" else "",
            "foreign": "is not a stitch", "missing": "is missing"}[fault] in result.notes[0]  # fmt: skip
    remaining = table(result, "representations")
    assert len(remaining) == 11
    assert bad not in set(remaining["similarity_trial"])
    shutil.copy(finished / "stitches" / path.name, path)
    assert measure(folder, only=["representations"]).tables == {"representations": 12}


def test_a_sweep_that_kept_no_stitches(folder):
    shutil.rmtree(folder / "stitches")
    edit(folder, keep_stitches="none")
    result = measure(folder, only=["networks", "representations", "images"])
    assert result.tables | {"representations": 0, "images": 0} == result.tables
    assert result.tables["networks"] == 4
    assert not result.path("representations").exists()
    assert [note for note in result.notes if "keep_stitches: none" in note] == result.notes


def test_without_the_images_what_needs_none_is_computed(folder):
    edit(folder, data={"name": "cifar10", "path": "/nowhere"})
    result = measure(folder)
    assert result.tables == {**dict.fromkeys(TABLES, 0), "importances": 9}
    assert all("the images can't be loaded" in note and "/nowhere" in note for note in result.notes)
    assert result.notes


def test_other_images_are_not_taken_for_those_of_the_sweep(folder):
    data = yaml.safe_load((folder / "config.resolved.yml").read_text())["data"]
    edit(folder, data={**data, "split_seed": 5})
    assert measure(folder, only=["labels"]).notes == ["the images are not those of the sweep"]


def test_a_configuration_that_can_not_be_read(folder):
    (folder / "config.resolved.yml").unlink()
    result = measure(folder)
    assert set(result.tables.values()) == {0}
    assert all("the configuration can't be read" in note for note in result.notes)


def test_a_half_finished_sweep(folder):
    """One trial is still running, another failed, and no view was written."""
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
    result = measure(folder, only=["networks", "labels", "representations"])
    assert result.notes == [
        "representations: 1 cells, counted per repeat and factors, are left out: they have a stitch "
        "trained for another loss, but no finished one for the task"
    ]
    assert set(table(result, "representations")["sender"]) == {"a", "c"}
    assert table(result, "networks")["test_accuracy"].notna().sum() == 3


def test_a_sweep_that_went_on_is_measured_again(folder):
    first = measure(folder, only=["networks", "labels"])
    record = next(iter(Ledger(folder).records()))
    path = folder / "ledger" / "trials" / f"{record['trial']}.json"
    path.write_text(json.dumps({**record, "status": "failed", "metric": None, "metrics": {}}))
    assert measure(folder, only=["networks", "labels"]).written == first.written


def test_a_sweep_that_has_just_begun(folder):
    shutil.rmtree(folder / "ledger" / "trials")
    result = measure(folder)
    assert result.tables == {**dict.fromkeys(TABLES, 0), "networks": 4, "labels": 60}
    assert result.notes == ["no trial has ended yet"]


@pytest.mark.parametrize("content", ["", "{}", '{"tables": [1]}', '{"tables": {"labels": {}}}'])
def test_tables_whose_origin_is_not_known_are_computed_again(folder, content):
    measure(folder, only=["labels"])
    (folder / "measured" / "about.json").write_text(content)
    assert measure(folder, only=["labels"]).written == ["labels"]


def test_a_table_that_was_deleted_is_written_again(folder):
    result = measure(folder, only=["labels"])
    result.path("labels").unlink()
    assert measure(folder, only=["labels"]).written == ["labels"]


def test_a_folder_that_holds_no_sweep_is_refused(tmp_path, folder):
    with pytest.raises(InputError, match="is not a folder"):
        measure(tmp_path / "none")
    with pytest.raises(InputError, match="contains no sweep"):
        measure(tmp_path)
    with pytest.raises(InputError, match="did you mean 'labels'"):
        measure(folder, only=["lables"])
    assert not (folder / "measured").exists()
