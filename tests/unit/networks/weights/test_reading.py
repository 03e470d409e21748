"""Weights files of every format, and files that have no weights."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.weights.fitting import load_from_file
from stitch_sweep.networks.weights.reading import load_weights
from stitch_sweep.networks.zoo import load
from stitch_sweep.storage.checkpoints import pack
from tests.support.networks_external import Trap
from tests.support.networks_zoo import network_config


def test_weights_of_every_format_are_read(stored, digits, tmp_path):
    expected = load(stored).state_dict()
    save_file(expected, tmp_path / "plain.safetensors")
    torch.save(expected, tmp_path / "state.pt")
    torch.save({"state_dict": expected, "epoch": 3}, tmp_path / "lightning.ckpt")
    paths = [stored / "weights.safetensors", *sorted(tmp_path.iterdir())]
    assert len(paths) == 4
    for path in paths:
        module = load_from_file(network_config(path), digits)
        assert not module.training
        found = module.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_code_in_a_weights_file_is_refused_and_not_run(tmp_path):
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": Trap(sprung)}, tmp_path / "torch.pt")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    (tmp_path / "named.safetensors").write_bytes(pickle.dumps(Trap(sprung)))
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=path.name) as caught:
            load_weights(path)
        assert "can still be loaded" not in str(caught.value), "no way to run it is recommended"
        if path.suffix != ".safetensors":
            assert "contains code or a whole module" in str(caught.value)
            assert "store its state_dict() alone" in str(caught.value)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w"])
def test_what_is_no_weights_file_is_refused_with_its_path(subtests, tmp_path, name):
    for content in (b"", b"not weights at all", b"\x00\xff" * 500, b"{}"):
        with subtests.test(str(content)):
            path = tmp_path / name
            path.write_bytes(content)
            with pytest.raises(InputError, match=f"{path}: ") as caught:
                load_weights(path)
            assert ("is empty" in str(caught.value)) == (not content)
            assert "contains code" not in str(caught.value)
            with pytest.raises(InputError, match="no such weights file"):
                load_weights(tmp_path / "missing.pt")
            with pytest.raises(InputError, match="no such weights file"):
                load_weights(tmp_path)


def test_a_pytorch_file_without_a_state_dict_is_refused(subtests, tmp_path):
    for state in ([1, 2], {"a": 3}, torch.ones(2), {"state_dict": [1]}):
        with subtests.test(str(state)):
            torch.save(state, tmp_path / "w.pt")
            with pytest.raises(InputError, match="contains no state dict"):
                load_weights(tmp_path / "w.pt")


def test_weights_of_another_network_are_refused_with_the_differences(stored, digits, tmp_path):
    state = dict(load(stored).state_dict())
    del state["fc.bias"]
    state["extra"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(2, 3, 3, 3)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError) as refused:
        load_from_file(network_config(tmp_path / "w.pt"), digits)
    message = str(refused.value)
    for part in (
        "network 'n'",
        "w.pt",
        "lacks fc.bias",
        "has an unknown extra",
        "conv1.weight is [2, 3, 3, 3], not [2, 1, 3, 3]",
    ):
        assert part in message
    with pytest.raises(InputError, match=r"and \d+ more"):
        load_from_file(network_config(stored / "weights.safetensors", width=4), digits)


@pytest.mark.parametrize(("name", "value"), [("fc.bias", math.inf), ("bn1.running_var", math.nan)])
def test_weights_that_are_no_numbers_are_refused(stored, digits, tmp_path, name, value):
    state = dict(load(stored).state_dict())
    state[name] = state[name].clone()
    state[name][0] = value
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=f"doesn't fit: {name} contains NaN or infinite values$"):
        load_from_file(network_config(tmp_path / "w.pt"), digits)


def test_a_file_of_ours_that_is_no_network_or_damaged_is_refused(stored, tmp_path):
    (tmp_path / "stitch.safetensors").write_bytes(pack({"stitch": {}}))
    with pytest.raises(InputError, match="contains no network"):
        load_weights(tmp_path / "stitch.safetensors")
    data = (stored / "weights.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="bytes changed"):
        load_weights(tmp_path / "w.safetensors")
