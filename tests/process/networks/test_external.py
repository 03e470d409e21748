"""A network of a user's file in other processes and in a sweep."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest
import ray.cloudpickle
import torch

from stitch_sweep.networks.external import python as python_factories
from stitch_sweep.networks.recipes import make_recipe
from stitch_sweep.plan.prepare import prepare, provide_networks
from tests.support.networks_external import MINE, config, python
from tests.support.sweeps import run


def test_a_network_of_a_file_travels_to_a_process_that_lacks_the_file(mine, tmp_path):
    chosen = config(tmp_path, python(f"{mine}:make"), resources={"cpu": 1})
    prepared = prepare(chosen)
    module = provide_networks(prepared)["n"]
    for loaded in python_factories.local_modules():
        ray.cloudpickle.register_pickle_by_value(loaded)
    recipe = make_recipe(chosen.networks[0], chosen, prepared.data)
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        expected = module(x)
    (tmp_path / "sent").write_bytes(ray.cloudpickle.dumps((module, recipe, x, expected)))
    mine.unlink()
    code = (
        "import sys, pickle, torch\n"
        "module, recipe, x, expected = pickle.load(open(sys.argv[1], 'rb'))\n"
        "with torch.no_grad(): assert torch.equal(module(x), expected)\n"
        "assert type(recipe.architecture().network).__name__ == 'Mine'\n"
        "from stitch_sweep.networks.frozen import FrozenNetwork\n"
        "assert FrozenNetwork(module).layer_names == ['relu', 'blocks.0', 'blocks.1']\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sent")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_sweep_trains_and_stitches_a_network_of_a_file_and_analyze_runs_it_only_if_asked(
    mine, tmp_path
):
    trained = python(f"{mine}:make", layers=["blocks.0"]) | {"weights": "trained"}
    branching = python(f"{mine}:branches", layers=["blocks.1"]) | {"name": "b"}
    config(tmp_path, trained, branching)
    status, output = run("sweep", tmp_path / "config.yml")
    assert status == 0, output
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert results[["sender_kind", "receiver_kind"]].values.tolist() == [["trained", "factory"]]
    assert results["status"].tolist() == ["finished"]
    # A results folder from somebody else may name any code.
    mine.write_text(MINE + f"\nopen({str(tmp_path / 'sprung')!r}, 'w').close()\n")
    status, output = run("analyze", tmp_path)
    assert status == 0, output
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "measured/networks.parquet").exists()
    mine.write_text(MINE)
    status, output = run("analyze", tmp_path, "--run-code")
    assert status == 0, output
    table = pd.read_parquet(tmp_path / "measured/networks.parquet").set_index("network")
    assert table.loc["n", "family"] == "python:make"
    assert table.loc["b", "test_accuracy"] == results["receiver_accuracy"].item()
