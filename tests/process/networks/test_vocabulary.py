"""Every registered stitch, start and loss in sweeps on real images."""

from __future__ import annotations

import itertools
import json
from typing import Any, get_args

import pandas as pd
import pytest

from stitch_sweep.config.reading import read_config
from stitch_sweep.config.stitch import DATA_STARTS, STARTS, StitchConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import LOSSES, STITCHES
from stitch_sweep.networks.families.building import build
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.stitches.building import misfit
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.training.workbench import Workbench
from tests.support.networks_training import finish_training, start_training
from tests.support.paths import ROOT
from tests.support.sweeps import run, write_config

QUICKSTART = ROOT / "experiments/quickstart/digits/config.yml"


@pytest.mark.parametrize("name", STITCHES.names())
def test_every_stitch_trains_from_every_start_it_takes(subtests, name, a, b, digits):
    for start_name in STARTS:
        with subtests.test(str(start_name)):
            ran = 0
            for i, j in ((2, 2), (1, 3), (3, 1), (-1, 2)):
                try:
                    training = start_training(
                        a, b, i, j, digits, stitch={"name": name, "start": start_name}
                    )
                except InputError:
                    continue
                result = finish_training(training)
                assert result.status == "finished"
                assert result.metrics["stitch_multiply_adds"] >= 0
                ran += 1
            # tests/unit/stitches/test_starts.py checks the reasons of refusals.
            assert ran or start_name != "random"


@pytest.mark.long
def test_networks_trained_onto_themselves_at_the_defaults_reach_their_own_accuracy(tmp_path):
    """Uses the networks of the quickstart, at every layer."""
    config = read_config(QUICKSTART, {"zoo": str(tmp_path)})
    prepared = prepare(config)
    bench = Workbench(config, prepared.data, provide_networks(prepared))
    settings = TrialSettings.model_validate({"loss": {"mse": 1.0}})
    for name, layer in itertools.product("ab", range(5)):
        metrics = finish_training(bench.training(name, layer, name, layer, settings)).metrics
        assert abs(metrics["penalty"]) <= 0.01, (name, layer)


@pytest.mark.long
def test_all_of_it_in_one_sweep(tmp_path):
    stitches = [{"name": name} for name in STITCHES.names()]
    stitches += [{"name": "paper", "start": name} for name in DATA_STARTS]
    config = write_config(
        tmp_path,
        tmp_path / "zoo",
        pairs=[{"sender": "a", "receiver": "b", "sender_layers": [2], "receiver_layers": [2]}],
        search={"cross": {"stitch": stitches, "loss": [{name: 1.0} for name in LOSSES.names()]}},
        training={"epochs": 1, "batch_size": 64},
        keep_stitches="none",
        tracking={"enabled": False},
    )
    status, output = run("sweep", config, "--workers", 2)
    assert status == 0, output
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert len(results) == len(stitches) * len(LOSSES.names())
    assert set(results["status"]) == {"finished"}
    assert json.loads((tmp_path / "summary.json").read_text())
    assert results[["val_cka", "accuracy_calibrated", "stitch_multiply_adds"]].notna().all().all()


def variants(sender: Shape, receiver: Shape) -> list[dict[str, Any]]:
    """List every registered stitch with every spatial rule and start that fit two shapes."""
    found = []
    for name in STITCHES.names():
        fields = STITCHES.get(name).options.model_fields
        rules = {key: get_args(fields[key].annotation) for key in ("down", "up") if key in fields}
        for values in itertools.product(*rules.values()):
            for start_name in STARTS:
                tree = {"name": name, "start": start_name, **dict(zip(rules, values, strict=True))}
                if misfit(StitchConfig.model_validate(tree), sender, receiver) is None:
                    found.append(tree)
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("cell", "sizes"),
    [((3, 3), (7, 7)), ((3, 4), (7, 4)), ((4, 3), (4, 7))],
    ids=["equal", "down", "up"],
)
def test_every_stitch_under_every_spatial_rule_and_start_in_a_sweep(cell, sizes, tmp_path):
    """Uses real images and an odd ratio of sizes."""
    network = FrozenNetwork(build("resnet", 1, 10, {"blocks": [1, 1, 1, 1], "width": 4}))
    sender, receiver = (network.shape(layer, (1, 28, 28)) for layer in cell)
    assert (sender[-1], receiver[-1]) == sizes
    crossed = variants(sender, receiver)
    names = {tree["name"] for tree in crossed}
    # These keep the channels or need whole ratios, so they don't fit maps of different sizes.
    unlike = {"affine", "identity", "paper"} if sizes[0] != sizes[1] else set()
    assert set(STITCHES.names()) - names == unlike
    config = write_config(
        tmp_path,
        tmp_path / "zoo",
        data={"name": "digits", "image_size": 28, "train_images": 300, "test_images": 100},
        pairs=[
            {
                "sender": "a",
                "receiver": "b",
                "sender_layers": [cell[0]],
                "receiver_layers": [cell[1]],
            }
        ],
        search={"cross": {"stitch": crossed}},
        training={"epochs": 1, "batch_size": 64},
        keep_stitches="none",
        tracking={"enabled": False},
    )
    status, output = run("sweep", config, "--workers", 2)
    assert status == 0, output
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert len(results) == len(crossed)
    assert set(results["status"]) == {"finished"}
    assert set(results["stitch"]) == names
