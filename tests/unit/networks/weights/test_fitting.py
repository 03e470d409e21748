"""Weights in files that do or do not fit a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.networks.external import python
from stitch_sweep.networks.weights.fitting import load_from_file
from tests.support.networks_faulty import config, made_by


@pytest.fixture
def state(folder: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(python.find(f"{folder}/net.py:Net")().state_dict())


def from_file(folder: Path, content: Any, factory: str = "Net", **keys: Any) -> nn.Module:
    torch.save(content, folder / "w.pt")
    return load_given_file(folder, "w.pt", factory, **keys)


def load_given_file(folder: Path, file: str, factory: str = "Net", **keys: Any) -> nn.Module:
    read = config(folder, made_by(factory, weights=file, **keys))
    module = load_from_file(read.networks[0], load_data(read.data))
    return module.network


def unfit(folder: Path, content: Any, factory: str = "Net", **keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        from_file(folder, content, factory, **keys)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: (w * 100).to(torch.int8), "is int8, but float32 is required"),
        (lambda w: w.long(), "is int64, but float32 is required"),
        (lambda w: w > 0, "is bool, but float32 is required"),
        (lambda w: w + 1j, "is complex64, but float32 is required"),
        (lambda w: w.to_sparse(), "is sparse, but an ordinary tensor is required"),
        (lambda w: w.to("meta"), "is on the device meta, without values, but"),
        (
            lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
            "is quantized, but an ordinary tensor is required",
        ),
        (lambda w: w.double() * 1e300, "contains NaN or infinite values"),
        (lambda w: "text", "is a str, but a tensor is required"),
    ],
)
def test_values_that_are_no_floating_point_numbers_are_refused(change, words, state, folder):
    state["b.weight"] = change(state["b.weight"])
    message = unfit(folder, state)
    assert f"doesn't fit: b.weight {words}" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_numbers_of_another_width_are_converted(dtype, state, folder):
    found = from_file(
        folder, {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    )
    for name, parameter in found.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, state[name].to(dtype).float())


def test_numbers_that_an_integer_buffer_cannot_hold_are_refused(state, folder):
    assert from_file(folder, state | {"n.num_batches_tracked": torch.tensor(3.0)})
    message = unfit(folder, state | {"n.num_batches_tracked": torch.tensor(2.5)})
    assert "n.num_batches_tracked is float32 with values that int64 can't represent" in message


def test_a_missing_count_of_batches_is_accepted(state, folder):
    del state["n.num_batches_tracked"]
    found = from_file(folder, state)
    assert all(torch.equal(found.state_dict()[name], value) for name, value in state.items())
    del state["n.running_mean"]
    message = unfit(folder, state)
    assert message.endswith("doesn't fit: lacks n.running_mean")


def test_tied_weights_that_safetensors_stores_once_are_accepted(folder):
    network = python.find(f"{folder}/net.py:Tied")()
    safetensors.torch.save_model(network, str(folder / "w.safetensors"))
    assert (
        len(safetensors.torch.load_file(folder / "w.safetensors")) == len(network.state_dict()) - 1
    )
    found = load_given_file(folder, "w.safetensors", "Tied")
    assert found.c.weight is found.b.weight
    assert torch.equal(found.c.weight, network.c.weight)
    state = dict(network.state_dict())
    state["c.weight"] = state["c.weight"] + 1
    message = unfit(folder, state, "Tied")
    assert "c.weight differs from b.weight, but in the network both are the same tensor" in message
    del state["c.weight"], state["b.weight"]
    assert "lacks b.weight; lacks c.weight" in unfit(folder, state, "Tied")


def test_a_prefix_is_suggested_beside_other_keys_and_leaves_them_out(state, folder):
    model = {f"model.{name}": value for name, value in state.items()}
    ema = {f"ema.{name}": value + 1 for name, value in state.items()}
    beside = {"epoch": 3, "loss.weight": torch.ones(2), "optimizer_state": {"lr": 0.1}}
    message = unfit(folder, model | beside)
    assert message.endswith(
        "the file has the missing names with a prefix: set weights_prefix: model."
    )
    message = unfit(folder, model | ema | beside)
    assert message.endswith("with a prefix: set weights_prefix: model. or ema.")
    found = from_file(folder, model | ema | beside, weights_prefix="ema.")
    assert torch.equal(found.b.weight, state["b.weight"] + 1)
    incomplete = {k: v for k, v in model.items() if k != "model.b.bias"}
    assert "weights_prefix" not in unfit(folder, incomplete)
    without_count = {k: v for k, v in model.items() if "tracked" not in k}
    assert unfit(folder, without_count).endswith("weights_prefix: model.")


def test_names_of_compiled_parts_are_those_of_the_parts(state, folder):
    saved = {name.replace("b.", "b._orig_mod."): value for name, value in state.items()}
    assert torch.equal(from_file(folder, saved).b.weight, state["b.weight"])
    saved = {f"_orig_mod.{name}": value for name, value in state.items()}
    assert torch.equal(from_file(folder, saved).b.weight, state["b.weight"])


@pytest.mark.parametrize("name", ["w.pt", "w.ckpt"])
def test_a_truncated_file_is_called_truncated(subtests, name, state, folder):
    for legacy in (False, True):
        for share in (0.1, 0.5, 0.99):
            with subtests.test(f"{legacy}, {share}"):
                torch.save(state, folder / name, _use_new_zipfile_serialization=not legacy)
                data = (folder / name).read_bytes()
                (folder / name).write_bytes(data[: int(len(data) * share)])
                with pytest.raises(InputError, match=r": is truncated.*copy or download it again$"):
                    load_given_file(folder, name)


def test_other_archives_are_called_what_they_are(state, folder):
    import zipfile

    torch.jit.script(python.find(f"{folder}/net.py:Net")()).save(str(folder / "w.pt"))
    with pytest.raises(
        InputError, match=r"w\.pt: is a TorchScript archive, which contains code; store"
    ):
        load_given_file(folder, "w.pt")
    with zipfile.ZipFile(folder / "w.pt", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(InputError, match=r"is a zip archive that torch\.save didn't write"):
        load_given_file(folder, "w.pt")
