"""The shipped search spaces fit every shipped configuration."""

from __future__ import annotations

import pytest
import yaml

from stitch_sweep.config.reading import read_config
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.plan.samplers import check_sampler
from tests.support.paths import ROOT

SHIPPED = sorted((ROOT / "experiments").glob("*/*/config.yml"))
QUICKSTART = ROOT / "experiments/quickstart/digits/config.yml"
SPACES = sorted((ROOT / "search_spaces").glob("*.yml"))


class TestShippedSpaces:
    CROSSED = ({}, {"loss": [{"task": 1.0}, {"mse": 1.0}]}, {"stitch.name": ["paper", "conv1x1"]})

    @pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
    @pytest.mark.parametrize("config", SHIPPED, ids=lambda file: file.parent.name)
    @pytest.mark.parametrize("cross", CROSSED, ids=["searched", "loss crossed", "stitch crossed"])
    def test_fit_every_shipped_configuration(self, file, config, cross):
        if cross and (
            file.stem == "full" or (file.stem == "similarity" and "stitch.name" in cross)
        ):
            pytest.skip("its conditions name what is then not searched, which is refused")
        space = yaml.safe_load(file.read_text())
        space = {path: distribution for path, distribution in space.items() if path not in cross}
        read = read_config(
            config, {"search.space": space, "search.cross": cross, "search.samples": 5}
        )
        check_sampler(read)

    @pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
    def test_fit_every_cell_of_the_quickstart(self, file):
        overrides = {"search.space": str(file), "search.cross": {}, "search.samples": 2}
        assert len(prepare(read_config(QUICKSTART, overrides)).studies) == 25
