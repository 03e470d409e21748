"""Files lie relative to the configuration or its project's root; includes; environment variables."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from stitch_sweep.config.places import MARKER, Places, find_root
from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.core.errors import InputError

BASE: dict[str, Any] = {
    "data": "digits",
    "networks": [
        {"name": "a", "family": "resnet1111", "width": 8},
        {"name": "b", "family": "resnet1111", "width": 8, "seed": 1},
    ],
    "pairs": [{"sender": "a", "receiver": "b"}],
}


def write(file: Path, tree: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(tree))
    return file


def problems(file: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_config(file)
    return caught.value.problems


# The root


def test_the_root_is_the_nearest_folder_with_a_marker(tmp_path):
    inner = tmp_path / "project" / "inner" / "sweep"
    inner.mkdir(parents=True)
    assert find_root(inner) == inner, "without a marker"
    (tmp_path / "project" / MARKER).touch()
    assert find_root(inner) == tmp_path / "project"
    (tmp_path / "project" / "inner" / MARKER).touch()
    assert find_root(inner) == tmp_path / "project" / "inner"


def test_a_marker_where_everyone_may_write_does_not_count(tmp_path):
    shared = tmp_path / "shared"
    (shared / "mine").mkdir(parents=True)
    (shared / MARKER).touch()
    assert find_root(shared / "mine") == shared
    shared.chmod(0o1777)
    assert find_root(shared / "mine") == shared / "mine"


def test_the_zoo_does_not_depend_on_the_current_folder(tmp_path, monkeypatch):
    file = write(tmp_path / "project" / "sweep" / "config.yml", BASE)
    (tmp_path / "elsewhere" / "zoo").mkdir(parents=True)
    for folder in (tmp_path / "elsewhere", tmp_path):
        monkeypatch.chdir(folder)
        assert read_config(file).zoo == str(file.parent / "zoo")
    (tmp_path / "project" / MARKER).touch()
    assert read_config(file).zoo == str(tmp_path / "project" / "zoo")
    monkeypatch.chdir(file.parent)
    assert read_config(Path("config.yml")).zoo == str(tmp_path / "project" / "zoo")
    (file.parent / "zoo").mkdir()
    assert read_config(file).zoo == str(file.parent / "zoo"), "a zoo beside the configuration"


def test_files_of_ffcv_lie_in_the_root(tmp_path):
    file = write(tmp_path / "sweep" / "config.yml", BASE)
    (tmp_path / MARKER).touch()
    config = read_config(file, {"data.loader": "ffcv"})
    assert config.data.beton_folder == str(tmp_path / "beton")


def test_a_path_with_a_dot_is_beside_the_file_and_nowhere_else(tmp_path):
    (tmp_path / MARKER).touch()
    file = write(tmp_path / "sweep" / "config.yml", {**BASE, "zoo": "./zoo"})
    assert read_config(file).zoo == str(tmp_path / "sweep" / "zoo")
    assert read_config(file, {"zoo": "../../zoo"}).zoo == str(tmp_path.parent / "zoo")


def test_a_copied_project_names_nothing_of_the_original(tmp_path):
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / MARKER).touch()
    data = {"name": "parquet", "path": "data"}
    tracking = {"uri": "sqlite:///runs.db"}
    file = write(project / "sweep" / "config.yml", {**BASE, "data": data, "tracking": tracking})
    for folder in (file.parent, project / "other" / "deep"):
        folder.mkdir(parents=True, exist_ok=True)
        text = to_yaml(read_config(file), folder)
        assert str(tmp_path) not in text
        (folder / "config.resolved.yml").write_text(text)
        again = read_config(folder / "config.resolved.yml")
        assert (again.zoo, again.data) == (read_config(file).zoo, read_config(file).data)
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    for folder in (copy / "sweep", copy / "other" / "deep"):
        config = read_config(folder / "config.resolved.yml")
        assert config.zoo == str(copy / "zoo")
        assert config.data.options["path"] == str(copy / "data")
        uri = config.places.locate_database(config.tracking.uri or "")
        assert uri == f"sqlite:///{copy / 'runs.db'}"


def test_a_dump_outside_of_the_project_has_absolute_paths(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / MARKER).touch()
    file = write(tmp_path / "project" / "sweep" / "config.yml", BASE)
    tree = yaml.safe_load(to_yaml(read_config(file), tmp_path / "outside"))
    assert tree["zoo"] == str(tmp_path / "project" / "zoo")


# Includes


def test_later_keys_win_mappings_are_merged_and_lists_replaced(tmp_path):
    base = {
        **BASE,
        "loss": {"task": 1.0, "mse": 0.5},
        "training": {"epochs": 3, "batch_size": 8, "optimizer": {"name": "sgd", "momentum": 0.9}},
        "stitch": {"name": "mlp", "hidden": 8, "start": "auto"},
    }
    write(tmp_path / "common" / "base.yml", base)
    write(tmp_path / "middle.yml", {"include": "common/base.yml", "training": {"epochs": 2}})
    changes = {
        "include": ["middle.yml"],
        "loss": "mse",
        "training": {"batch_size": 16, "optimizer": {"name": "adam"}},
        "stitch": "conv1x1",
        "pairs": [{"sender": "b", "receiver": "a"}],
    }
    config = read_config(write(tmp_path / "config.yml", changes))
    assert (config.training.epochs, config.training.batch_size) == (2, 16)
    assert config.loss.label == "mse", "losses are terms of one sum"
    assert config.training.optimizer.options == {}, "arguments of another optimizer are dropped"
    assert (config.stitch.name, config.stitch.start) == ("conv1x1", "random")
    assert [pair.sender for pair in config.pairs] == ["b"]
    whole = {key: value for key, value in changes.items() if key != "include"}
    whole = {**base, **whole, "training": {**base["training"], "epochs": 2, **whole["training"]}}
    assert to_yaml(config) == to_yaml(read_config(write(tmp_path / "whole.yml", whole)))


def test_paths_of_an_included_file_are_relative_to_it(tmp_path):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "w.safetensors").touch()
    networks = [{**BASE["networks"][0], "weights": "w.safetensors"}, BASE["networks"][1]]
    write(tmp_path / "common" / "base.yml", {**BASE, "networks": networks, "zoo": "./mine"})
    config = read_config(write(tmp_path / "sweep" / "c.yml", {"include": "../common/base.yml"}))
    assert config.networks[0].weights_file == tmp_path / "common" / "w.safetensors"
    assert config.zoo == str(tmp_path / "common" / "mine")
    # The configuration can't name them as the included file does.
    tree = yaml.safe_load(to_yaml(config, tmp_path / "sweep"))
    assert read_config(write(tmp_path / "sweep" / "again.yml", tree)) == config


def test_a_file_that_includes_itself_is_refused(tmp_path):
    write(tmp_path / "b.yml", {"include": "a.yml"})
    (problem,) = problems(write(tmp_path / "a.yml", {"include": "b.yml"}))
    assert problem.endswith("include: a.yml includes itself (a.yml -> b.yml -> a.yml)")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "include: expected the path of a file, or a list of paths, got 3"),
        (None, "include: expected the path of a file"),
        ("nope.yml", "nope.yml: there is no such file"),
        (".", "is a folder, expected a YAML file"),
        ("${env:STITCH_SWEEP_TEST_UNSET}/x.yml", "include: the environment variable STITCH"),
    ],
)
def test_a_wrong_include(value, message, tmp_path):
    (problem,) = problems(write(tmp_path / "config.yml", {**BASE, "include": value}))
    assert message in problem


def test_files_that_double_at_each_level_are_refused(tmp_path):
    write(tmp_path / "0.yml", BASE)
    for level in range(1, 12):
        write(tmp_path / f"{level}.yml", {"include": [f"{level - 1}.yml"] * 2})
    (problem,) = problems(tmp_path / "11.yml")
    assert "more than 50 files are included" in problem


# Environment variables


def test_variables_stand_in_paths_and_stay_in_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("STITCH_SWEEP_TEST_FOLDER", str(tmp_path / "scratch"))
    tree = {**BASE, "zoo": "${env:STITCH_SWEEP_TEST_FOLDER}/zoo"}
    config = read_config(write(tmp_path / "config.yml", tree))
    assert config.zoo == str(tmp_path / "scratch" / "zoo")
    for folder in (tmp_path, tmp_path / "elsewhere"):
        assert yaml.safe_load(to_yaml(config, folder))["zoo"] == tree["zoo"]


def test_a_variable_in_an_included_path_stays_in_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("STITCH_SWEEP_TEST_FOLDER", str(tmp_path / "scratch"))
    write(tmp_path / "base.yml", {**BASE, "zoo": "${env:STITCH_SWEEP_TEST_FOLDER}/zoo"})
    config = read_config(write(tmp_path / "config.yml", {"include": "base.yml"}))
    assert config.zoo == str(tmp_path / "scratch" / "zoo")
    assert str(tmp_path) not in to_yaml(config, tmp_path)


def test_the_value_of_a_variable_in_an_address_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("STITCH_SWEEP_TEST_TOKEN", "hunter2")
    uri = "https://host/${env:STITCH_SWEEP_TEST_TOKEN}/x"
    config = read_config(write(tmp_path / "config.yml", {**BASE, "tracking": {"uri": uri}}))
    assert config.tracking.uri == uri
    assert "hunter2" not in to_yaml(config, tmp_path)
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named_with_its_key(value, tmp_path, monkeypatch):
    monkeypatch.delenv("STITCH_SWEEP_TEST_FOLDER", raising=False)
    if value is not None:
        monkeypatch.setenv("STITCH_SWEEP_TEST_FOLDER", value)
    for key in ("zoo", "data.path", "tracking.uri", "search.space"):
        tree = {**BASE, "data": {"name": "cifar10", "path": "x"}}
        section, _, last = key.rpartition(".")
        node = tree.setdefault(section, {}) if section else tree
        node[last] = "${env:STITCH_SWEEP_TEST_FOLDER}/x"
        found = problems(write(tmp_path / "config.yml", tree))
        expected = (
            f"{key}: the environment variable STITCH_SWEEP_TEST_FOLDER is not set, or is empty"
        )
        assert [problem.endswith(expected) for problem in found] == [True], found


def test_a_value_that_decides_results_can_not_depend_on_the_environment(tmp_path):
    tree = {**BASE, "seed": "${env:SEED}", "data": {"name": "${env:SET}"}}
    found = "\n".join(problems(write(tmp_path / "config.yml", tree)))
    assert "seed: ${env:...} is only allowed in zoo, data.path" in found
    assert "data.name: ${env:...} is only allowed" in found


def test_places_are_no_part_of_a_configuration(tmp_path):
    assert Places() == Places.of_folder(tmp_path)
