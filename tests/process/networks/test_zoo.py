"""The zoo with several processes, and after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.weights.reading import load_weights
from stitch_sweep.networks.zoo import Zoo, load
from tests.support.networks_zoo import recipe, train, weights
from tests.support.paths import ROOT

WORK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.support import networks_zoo
networks_zoo.work(Path(sys.argv[2]))
"""


def worker(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(ROOT), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(digits, tmp_path):
    killed = worker(tmp_path)
    killed.stdin.write("\n")
    killed.stdin.flush()
    while killed.stdout.readline() != "epoch 2\n":
        assert killed.poll() is None
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    zoo, network_recipe = Zoo(tmp_path), recipe(digits)
    assert zoo.find(network_recipe) is None
    assert zoo.entries() == []
    out, _ = worker(tmp_path).communicate("\n")
    assert out.splitlines()[1:-1] == ["training on", "epoch 3"]
    found = load_weights(zoo.find(network_recipe).folder / "weights.safetensors")
    whole = weights(train(network_recipe, digits)[-1])
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[k], whole[k]) for k in whole)


def test_two_processes_that_ask_at_once_train_once(tmp_path):
    both = [worker(tmp_path) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [process.communicate()[0].splitlines() for process in both]
    assert sorted(line for out in lines for line in out if line.startswith("training")) == [
        "training anew"
    ]
    assert lines[0][-1] == lines[1][-1]
    assert lines[0][-1].startswith("folder ")


def test_a_network_loads_in_one_line_in_a_fresh_process(stored):
    command = (
        f"from stitch_sweep.networks.zoo import load; print(load({str(stored)!r}).fc.bias.tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout) == load(stored).fc.bias.tolist()
    with pytest.raises(InputError, match="no finished network"):
        load(stored.parent)
