"""All sanity checks on whole configurations; each test takes several seconds or more."""

from __future__ import annotations

import json

import pytest

from stitch_sweep.checks.sanity.catalog import CHECKS, TINY
from stitch_sweep.checks.sanity.suite import run_sanity
from stitch_sweep.config.root import Config
from tests.support.paths import ROOT, SHARED
from tests.support.sweeps import SMALL, run


class TestSuite:
    @pytest.fixture
    def config(self, tmp_path) -> Config:
        return Config.model_validate({**SMALL, "zoo": str(tmp_path / "zoo")})

    def test_all_checks_run_on_the_networks_and_on_little_ones(self, config, tmp_path):
        output = tmp_path / "sanity.json"
        result = run_sanity(config, images=100, output=output)
        assert result.passed
        written = json.loads(output.read_text())
        names = [entry["name"] for entry in written["checks"]]
        # FFCV is no part of this configuration.
        run = [name for name in CHECKS if name != "loaders"]
        assert names == [*run, *(TINY + name for name in run)]
        assert {entry["verdict"] for entry in written["checks"]} <= {"pass", "skip", "warn"}
        assert all("difference" in entry for entry in written["checks"])
        assert written["pair"] == "a:3,b:3"

    @pytest.mark.parametrize(
        "changes",
        [
            # The crossed stitch fits; the configuration's own fits no cell.
            {
                "networks": [
                    {"name": n, "family": "resnet1111", "width": 4, "seed": k, "weights": "random_raw",
                     "layers": ["relu", "layer2", "avgpool", "flatten"]}
                    for k, n in enumerate("ab")
                ],
                "pairs": [{"sender": "a", "receiver": "b", "sender_layers": [1, 3],
                           "receiver_layers": [3]}],
                "search": {"cross": {"stitch": [{"name": "linear"}]}},
            },
            {"training": {"epochs": 0, "batch_size": 5000}, "pairs": [{"sender": "a", "receiver": "a"}]},
            {
                "data": {"name": "digits", "image_size": 12, "train_images": 30, "test_images": 20},
                "pairs": [{"sender": "a", "receiver": "b", "sender_layers": [-1],
                           "receiver_layers": [-1]}],
            },
        ],
        ids=["crossed stitch, vectors, named layers", "epochs: 0, self-pair", "into the image"],
    )  # fmt: skip
    def test_no_false_alarm(self, changes, tmp_path):
        config = Config.model_validate({**SMALL, "zoo": str(tmp_path / "zoo"), **changes})
        result = run_sanity(config, images=50, only=list(CHECKS))
        assert [f for f in result.findings if f.verdict == "fail"] == []

    def test_on_real_images_of_cifar10(self, tmp_path):
        images = SHARED / "data" / "cifar10"
        if not images.is_dir():
            pytest.skip(f"there are no images in {images}")
        config = Config.model_validate(
            {
                **SMALL,
                "zoo": str(tmp_path / "zoo"),
                "data": {"name": "parquet", "path": str(images), "image_size": 32,
                         "train_images": 500, "test_images": 300},
                "pretraining": {"epochs": 1},
                "search": {},
            }
        )  # fmt: skip
        result = run_sanity(config, images=200, only=list(CHECKS))
        assert [f for f in result.findings if f.verdict == "fail"] == []

    @pytest.mark.long
    def test_on_the_quickstart(self, tmp_path, monkeypatch):
        config = ROOT / "experiments" / "quickstart" / "digits" / "config.yml"
        output = tmp_path / "sanity.json"
        status, text = run("sanity", config, "--set", f"zoo={tmp_path / 'zoo'}", "--output", output)
        assert status == 0, text
        assert {c["verdict"] for c in json.loads(output.read_text())["checks"]} <= {"pass", "skip"}
