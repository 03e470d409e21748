"""Permissions: a folder of a stranger can read, contact and create nothing elsewhere."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from stitch_sweep.config.networks import NetworkConfig
from stitch_sweep.config.places import MARKER
from stitch_sweep.core.errors import InputError
from stitch_sweep.measuring.permissions import Permissions
from stitch_sweep.measuring.tables import measure
from tests.support.extensions import forgetting_plugins
from tests.support.foreign_folders import rewrite, small_sweep

# What may be read


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sweep").mkdir()
    return tmp_path / "sweep"


def permitted(folder: Path, name: str, **options: Any) -> Path:
    return Permissions(folder, **options).find(name)


@pytest.mark.parametrize(
    "name", ["/etc", "../other", "data/../../other", "~/pictures", "/etc/*.conf", "../*", "/", "\0"]
)
def test_a_path_out_of_the_folder_is_refused(folder, tmp_path, monkeypatch, name):
    (tmp_path / "other").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="--allow FOLDER"):
        permitted(folder, name)


@pytest.mark.parametrize("name", ["link", "link/x", "data"])
def test_a_link_out_of_the_folder_is_refused(folder, tmp_path, name):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "x").touch()
    (folder / "link").symlink_to(secret)
    (folder / "data").mkdir()
    (folder / "data" / "image.png").symlink_to(secret / "x")
    with pytest.raises(InputError, match=r"link|--allow"):
        permitted(folder, name)


@pytest.mark.parametrize("kind", ["loop", "pipe"])
def test_a_loop_of_links_and_a_pipe_are_refused(folder, kind):
    data = folder / "data"
    data.mkdir()
    if kind == "loop":
        (data / "again").symlink_to(data)
    else:
        os.mkfifo(data / "train.parquet")
    with pytest.raises(InputError, match="link to another place, or no regular file"):
        permitted(folder, "data")


def test_what_lies_below_the_folder_or_is_allowed_is_found(folder, tmp_path, monkeypatch):
    (tmp_path / MARKER).touch()
    monkeypatch.chdir(tmp_path)
    data, mine = folder / "data", tmp_path / "mine"
    for place in (data, mine):
        place.mkdir()
        (place / "train.parquet").touch()
    assert permitted(folder, "data") == data
    assert permitted(folder, str(data)) == data
    assert permitted(folder, "data/*.parquet") == data / "*.parquet"
    assert permitted(folder, "mine", allow=[mine]) == mine
    assert permitted(folder, str(mine), allow=[Path("mine")]) == mine
    with pytest.raises(InputError, match="--allow none: is not a folder"):
        Permissions(folder, allow=[Path("none")])
    with pytest.raises(InputError, match="--download tim"):
        Permissions(folder, download=["tim"])


@pytest.mark.parametrize(
    ("network", "flag"),
    [
        ({"source": "timm", "model": "resnet18", "weights": "a1_in1k"}, "--download timm"),
        ({"source": "torchvision", "model": "alexnet", "weights": "DEFAULT"}, "torchvision"),
        ({"source": "python", "factory": "./mine.py:make", "weights": "factory"}, "--run-code"),
        ({"family": "resnet1111", "weights": "/home/me/net.safetensors"}, "--allow"),
    ],
)
def test_a_network_that_needs_more_than_the_folder_names_the_flag(folder, network, flag):
    chosen = NetworkConfig.model_validate({"name": "n", **network})
    with pytest.raises(InputError, match=flag):
        Permissions(folder).check_network(chosen)


def test_a_plugin_of_the_folder_runs_only_with_permission_and_as_it_was(folder, tmp_path):
    sprung = tmp_path / "sprung"
    file = folder / "mine.py"
    file.write_text(f"open({str(sprung)!r}, 'w').close()")
    tree = {"plugins": ["mine.py", "some_module"]}
    with pytest.raises(InputError, match=r"mine\.py, some_module.*only with --run-code"):
        Permissions(folder).load_plugins(tree, {})
    tree, permitted = {"plugins": ["mine.py"]}, Permissions(folder, run_code=True)
    with pytest.raises(InputError, match="content is not that of the sweep"):
        permitted.load_plugins(tree, {"decides": {"plugins": {"mine.py": "another"}}})
    assert not sprung.exists()
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    with forgetting_plugins():
        permitted.load_plugins(tree, {"decides": {"plugins": {"mine.py": sha256}}})
        assert sprung.exists()
        # What this process has run already needs no further permission.
        Permissions(folder).load_plugins({"plugins": [str(file)]}, {})


@pytest.fixture
def sweep(tmp_path):
    return small_sweep(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        {"name": "cifar10", "path": "{}/elsewhere", "download": True},
        {"name": "cifar10", "path": "data", "download": True},
        {"name": "mnist", "path": "~/data", "download": True},
        {"name": "digits", "loader": "ffcv", "beton_folder": "{}/elsewhere"},
    ],
)
def test_measuring_downloads_nothing_and_makes_nothing_elsewhere(
    sweep, tmp_path, monkeypatch, data
):
    def refuse(*arguments, **options):
        raise AssertionError("asked for a download")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    rewrite(sweep, data={k: v.format(tmp_path) if k in ("path", "beton_folder") else v
                         for k, v in data.items()})  # fmt: skip
    result = measure(sweep, only=["labels"])
    assert data["name"] == "digits" or "the images can't be loaded" in result.notes[0]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]
    assert not (sweep / "data").exists()
