"""`init` writes a configuration that a sweep can start with, and replaces nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stitch_sweep import __version__
from stitch_sweep.config.reading import read_config
from stitch_sweep.plan.prepare import prepare
from tests.support.extensions import forgetting_plugins, write_tutorial


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--sender", "resnet18", "--receiver", "vgg11", "--width", "4", "--loss", "mse"),
        ("--sender", "torchvision:resnet18", "--stitch", "lowrank", "--image-size", "32"),
        ("--samples", "8"),
    ],
)
def test_a_sweep_can_start_with_the_file(options, run, tmp_path):
    ended = run("init", "new.yml", *options)
    assert (ended.status, ended.err) == (0, "")
    config = read_config(tmp_path / "new.yml")
    assert [network.name for network in config.networks] == ["a", "b"]
    assert len(prepare(config).studies) > 0
    text = (tmp_path / "new.yml").read_text()
    assert text.count("#") > 10
    # The settings in comments are valid, too.
    uncommented = text.replace("  # space:", "  space:").replace("  #   training", "    training")
    uncommented = uncommented.replace("  # samples", "  samples").replace("# controls", "controls")
    (tmp_path / "all.yml").write_text(uncommented)
    assert yaml.safe_load(uncommented)["search"]["samples"] == 8
    assert read_config(tmp_path / "all.yml").controls


def test_a_plugin_is_named_relative_to_the_file(run, tmp_path):
    write_tutorial(tmp_path)
    (tmp_path / "study").mkdir()
    options = (
        "--plugin",
        "mine.py",
        "--data",
        "stripes",
        "--loss",
        "channel_means",
        "--width",
        "4",
    )
    with forgetting_plugins():
        ended = run("init", "study/new.yml", *options, "--sender", "tower")
        assert (ended.status, ended.err) == (0, "")
        tree = yaml.safe_load((tmp_path / "study/new.yml").read_text())
        assert tree["plugins"] == ["../mine.py"]
        losses = read_config(tmp_path / "study/new.yml").search.cross["loss"]
        assert losses == [{"channel_means": 1.0}]


def test_an_existing_file_is_kept(refused, tmp_path):
    (tmp_path / "config.yml").write_text("mine")
    (error,) = refused("init")
    assert "config.yml: exists already" in error
    (tmp_path / "link.yml").symlink_to(tmp_path / "nowhere")
    refused("init", "link.yml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sender", "resnett18"), "resnet"),
        (("--data", "digit"), "did you mean 'digits'?"),
        (("--data", "cifar10", "--path", "nowhere"), "nowhere"),
        (("new/config.yml", "--loss", "msee"), "did you mean 'mse'?"),
        (("no/such/folder.yml",), "there is no folder no"),
    ],
)
def test_wrong_flags_leave_nothing(options, message, refused):
    assert message in "\n".join(refused("init", *options))


def test_the_version_is_printed(run):
    assert run("--version").out == f"stitch-sweep {__version__}\n"


def test_the_zoo_and_the_status_name_their_folder(run, tmp_path):
    (tmp_path / "stitch-sweep.yml").touch()
    (tmp_path / "zoo").mkdir()
    assert str(Path(tmp_path) / "zoo") in run("zoo", "list").out
