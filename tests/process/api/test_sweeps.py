"""Sweeps of networks and images that are given as objects, on local Ray workers."""

from __future__ import annotations

import importlib.util
import signal
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import stitch_sweep as ss
from tests.support.api import Net, make_images, train
from tests.support.sweeps import run

TRAINING = {"training": {"epochs": 1, "batch_size": 32}}
CONFIG = {
    "pairs": [
        {"sender": "a", "receiver": "b", "sender_layers": [0, 1], "receiver_layers": [1]},
    ],
    **TRAINING,
    "tracking": {"enabled": False},
    "keep_stitches": "all",
}


@pytest.fixture
def foreign(tmp_path):
    """A module with a network and a helper, in a file that no other process can import by name."""
    (tmp_path / "foreign_network.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def squash(x):\n"
        "    return torch.tanh(x)\n"
        "class Foreign(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.stem = nn.Conv2d(1, 4, 3, padding=1)\n"
        "        self.block = nn.Conv2d(4, 4, 3, padding=1)\n"
        "        self.head = nn.Linear(4, 4)\n"
        "    def forward(self, x):\n"
        "        x = squash(self.block(squash(self.stem(x))))\n"
        "        return self.head(x.mean((2, 3)))\n"
    )
    spec = importlib.util.spec_from_file_location(
        "foreign_network", tmp_path / "foreign_network.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["foreign_network"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["foreign_network"]


def test_a_sweep_of_given_networks_equals_single_stitches_and_refuses_others(tmp_path, foreign):
    torch.manual_seed(0)
    nets = {"a": foreign.Foreign(), "b": Net()}
    images, labels = make_images()
    loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)
    folder = tmp_path / "sweep"
    experiment = ss.sweep(CONFIG, networks=nets, data=loader, folder=folder, workers=2)
    results = experiment.results.set_index("sender_layer")
    assert list(results["status"]) == ["finished", "finished"]
    for layer in (0, 1):
        alone = ss.stitch(nets["a"], nets["b"], layer, 1, data=(images, labels), **TRAINING)
        assert results.loc[layer, "test_loss"] == alone.metrics["test_loss"]
    assert set(experiment.stitches) == set(experiment.results["trial"])
    verdict = experiment.verdict()
    assert list(verdict["chance"]) == [0.25]

    # The same objects resume it, others don't.
    again = ss.sweep(CONFIG, networks=nets, data=loader, folder=folder, resume=True)
    assert again.results.equals(experiment.results)
    others = {**nets, "b": Net()}
    with pytest.raises(ss.InputError, match="network 'b' is another module than the one"):
        ss.sweep(CONFIG, networks=others, data=loader, folder=folder, resume=True)
    data = (images.flip(0), labels.flip(0))
    with pytest.raises(ss.InputError, match="images or labels differ"):
        ss.sweep(CONFIG, networks=nets, data=data, folder=folder, resume=True)


def test_a_matrix_has_a_table_per_loss_and_a_verdict_with_intervals():
    torch.manual_seed(0)
    images, labels = make_images(400)
    a, b = (train(Net(width), images, labels) for width in (4, 5))
    handler = signal.getsignal(signal.SIGINT)
    result = ss.matrix(
        a,
        b,
        data=(images, labels),
        layers=["stem", "middle", "last"],
        losses=["task", "mse"],
        workers=2,
        **TRAINING,
    )
    assert signal.getsignal(signal.SIGINT) is handler, "Ctrl-C stops the script as before"
    assert [table.shape for table in result.matrices.values()] == [(3, 3), (3, 3)]
    verdict = result.verdict()
    assert list(verdict.index) == list(result.matrices)
    assert (verdict["best_accuracy"] > 0.5).all()
    for index in ("triangle", "diagonal"):
        assert (verdict[f"{index}_low"] <= verdict[index]).all()
        assert (verdict[index] <= verdict[f"{index}_high"]).all()
    assert result.plot()._repr_png_().startswith(b"\x89PNG")
    folder = result.folder
    assert folder.is_dir()
    del result
    assert not folder.exists()


def test_the_command_line_explains_what_only_python_can_resume(tmp_path):
    images, labels = make_images()
    folder = tmp_path / "sweep"
    config = {**CONFIG, "pairs": [{"sender": "a", "receiver": "a", "sender_layers": [0]}]}
    config["pairs"][0]["receiver_layers"] = [0]
    ss.sweep(config, networks={"a": Net()}, data=(images, labels), folder=folder, workers=1)
    # Another process has neither the images nor the network.
    status, output = run("sweep", folder / "config.resolved.yml", "--resume")
    assert status == 2
    assert "were given in Python, and no file contains them" in output
