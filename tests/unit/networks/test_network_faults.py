"""External networks and weights files that can't be used as they are, and what a library may not load."""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from torch import nn
from torchvision import datasets, models

from stitch_sweep.config.models import Config
from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.networks import construction as sources
from stitch_sweep.networks.external.building import call, nothing_loaded
from stitch_sweep.networks.external.naming import by_name
from stitch_sweep.networks.zoo import load, load_from_file, make_recipe
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.plan.search import _PLAIN, _SAMPLERS
from stitch_sweep.storage.checkpoints import fingerprint, pack
from stitch_sweep.sweep.single import run_pair
from stitch_sweep.training.assembly import outline

NET = '''
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.n = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def middle(self, x):
        return torch.relu(self.b(x))

    def forward(self, x):
        return self.head(self.middle(torch.relu(self.n(self.a(x)))).mean((2, 3)))


class Branches(Net):
    """torch.fx can't follow it: it is cut with hooks."""

    def forward(self, x):
        if x.sum() > 1e9:
            return self.head(x.mean((2, 3)).expand(-1, 4))
        return super().forward(x)


class Detached(Net):
    def middle(self, x):
        return super().middle(x.detach())


class Data(Net):
    def middle(self, x):
        return super().middle(x.data)


class DetachedBranches(Branches, Detached):
    pass


class NoGrad(Branches):
    def middle(self, x):
        with torch.no_grad():
            return super().middle(x)


class Inference(Branches):
    def middle(self, x):
        with torch.inference_mode():
            return super().middle(x)


class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("no derivative was written")


class NoDerivative(Branches):
    def middle(self, x):
        return super().middle(Function.apply(x))


class Rounds(Net):
    def middle(self, x):
        return super().middle(torch.round(x))


class Softmax(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


class LogSoftmax(Net):
    def forward(self, x):
        return super().forward(x).log_softmax(1)


class Sigmoid(Net):
    def forward(self, x):
        return super().forward(x).sigmoid()


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(4, 4, 3, padding=1)
        self.c.weight = self.b.weight

    def middle(self, x):
        return torch.relu(self.c(super().middle(x)))


class HalfInside(Net):
    def middle(self, x):
        return super().middle(x.half().float())


class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.b = nn.LazyConv2d(4, 3, padding=1)


class DoubleLogits(Net):
    def forward(self, x):
        return super().forward(x).double()


def scripted():
    return torch.jit.script(Net())


def traced():
    return torch.jit.trace(Net().eval(), torch.zeros(1, 1, 8, 8))


def scripted_inside():
    made = Net()
    made.b = torch.jit.script(made.b)
    return made


def compiled():
    return torch.compile(Net())


def compiled_in_place():
    made = Net()
    made.compile()
    return made


def compiled_inside():
    made = Net()
    made.b = torch.compile(made.b)
    return made


def parallel():
    return nn.DataParallel(Net())


def half():
    return Net().half()


def double():
    return Net().double()


def half_inside():
    made = Net()
    made.b.bfloat16()
    return made


def meta():
    with torch.device("meta"):
        return Net()
'''
DATA = {"name": "digits", "image_size": 8, "train_images": 100, "test_images": 50}


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def config(folder: Path, *networks: dict[str, Any], **sections: Any) -> Config:
    content = {
        "data": DATA,
        "networks": list(networks),
        "pairs": [{"sender": networks[0]["name"], "receiver": networks[-1]["name"]}],
        "training": {"epochs": 1, "batch_size": 32},
        "tracking": {"enabled": False},
        "resources": {"cache_gb": 0.1},
        "zoo": str(folder / "zoo"),
        **sections,
    }
    (folder / "config.yml").write_text(yaml.safe_dump(content))
    return read_config(folder / "config.yml")


def made_by(factory: str, **keys: Any) -> dict[str, Any]:
    return {"name": "n", "source": "python", "factory": f"./net.py:{factory}", **keys}


def ready(factory: str, **keys: Any) -> dict[str, Any]:
    return made_by(factory, weights="factory", **keys)


def refused(folder: Path, *networks: dict[str, Any], **sections: Any) -> str:
    with pytest.raises(InputError) as caught:
        prepare(config(folder, *networks, **sections))
    return str(caught.value)


def library(source: str, arguments: dict[str, Any], weights: str = "random_raw") -> dict[str, Any]:
    model = {"timm": "resnet10t", "torchvision": "resnet18"}[source]
    return {
        "name": "n",
        "source": source,
        "model": model,
        "weights": weights,
        "arguments": arguments,
        "image_size": 32,
    }


# What a library may not load

LOADING = [
    ("timm", {"checkpoint_path": "FILE"}, "checkpoint_path"),
    ("timm", {"pretrained": True}, "pretrained"),
    ("timm", {"pretrained_cfg": {"file": "FILE"}}, "pretrained_cfg.file"),
    ("timm", {"pretrained_cfg_overlay": {"url": "http://a/b"}}, "pretrained_cfg_overlay.url"),
    ("timm", {"pretrained_cfg_overlay": {}}, "pretrained_cfg_overlay"),
    ("timm", {"pretrained_strict": False}, "pretrained_strict"),
    ("timm", {"cache_dir": "FILE"}, "cache_dir"),
    ("timm", {"model_name": "local-dir:FILE"}, "model_name"),
    ("timm", {"scriptable": True}, "scriptable"),
    ("timm", {"block_args": {"weights_file": "w"}}, "block_args.weights_file"),
    ("timm", {"act_layer": "/tmp/x.pt"}, "act_layer"),
    ("timm", {"act_layer": ["relu", "hf-hub:a/b"]}, r"act_layer\[1\]"),
    ("torchvision", {"weights": "DEFAULT"}, "weights"),
    ("torchvision", {"weights_backbone": "DEFAULT"}, "weights_backbone"),
    ("torchvision", {"pretrained": True}, "pretrained"),
    ("torchvision", {"progress": True}, "progress"),
    ("torchvision", {"norm_layer": "./mine.pt"}, "norm_layer"),
]


@pytest.mark.parametrize(("source", "arguments", "place"), LOADING)
def test_arguments_by_which_a_library_loads_are_refused(source, arguments, place, folder):
    if source == "timm":
        pytest.importorskip("timm")
    sprung = folder / "sprung"
    file = folder / "w.pt"
    file.write_bytes(pickle.dumps(Trap(sprung)))
    arguments = json.loads(json.dumps(arguments).replace("FILE", str(file)))
    module = sources.timm if source == "timm" else sources.torchvision
    network = library(source, arguments)
    with pytest.raises(InputError, match=rf"^arguments\.{place}: is "):
        module.build(network["model"], arguments)
    with pytest.raises(InputError, match=rf"^arguments\.{place}: is "):
        module.load(network["model"], "DEFAULT", arguments)
    with pytest.raises(InputError, match=rf"^arguments\.{place}: is "):
        by_name(f"{source}:{network['model']}", 1, 10, arguments)
    assert not sprung.exists()


def test_a_configuration_and_a_recipe_with_such_an_argument_run_nothing(folder):
    sprung = folder / "sprung"
    (folder / "w.pt").write_bytes(pickle.dumps(Trap(sprung)))
    arguments = {"checkpoint_path": str(folder / "w.pt")}
    pytest.importorskip("timm")
    message = refused(folder, library("timm", arguments))
    assert message.startswith("networks[0]: arguments.checkpoint_path: is not allowed")
    plan = {
        "source": "timm",
        "model": "resnet10t",
        "arguments": arguments,
        "image": [1, 8, 8],
        "preprocessing": None,
    }
    entry = folder / "zoo/entry"
    entry.mkdir(parents=True)
    recipe = {"network": plan, "seed": 0, "weights": "trained", "data": {"name": "digits"}}
    accuracy = {"train": 1.0, "validation": 1.0, "test": 1.0}
    content = {"recipe": recipe, "accuracy": accuracy, "seconds": 0.0, "versions": {}}
    (entry / "recipe.json").write_text(json.dumps(content))
    (entry / "weights.safetensors").write_bytes(pack({"model": {}}))
    with pytest.raises(InputError, match=r"arguments\.checkpoint_path: is not allowed"):
        load(entry)
    assert not sprung.exists()


def test_arguments_that_describe_a_network_are_taken():
    pytest.importorskip("timm")
    arguments = {"num_classes": 3, "in_chans": 1, "drop_path_rate": 0.1, "act_layer": "gelu"}
    assert sources.timm.build("resnet10t", arguments).num_classes == 3
    made = sources.torchvision.build("googlenet", {"aux_logits": False, "init_weights": False})
    assert made.aux1 is None


@pytest.mark.parametrize("value", ["three", 0, True, 1.5])
def test_a_number_of_channels_that_is_none_is_said(value):
    with pytest.raises(InputError, match=r"arguments\.in_chans: is .*, a whole number above 0"):
        sources.timm.channels({"in_chans": value})


def _connect() -> None:
    socket.create_connection(("127.0.0.1", 9), timeout=1)


@pytest.mark.parametrize(
    ("load_something", "what"),
    [
        (lambda file: torch.load(file, weights_only=False), "a file"),
        (lambda file: torch.load(file, weights_only=True), "a file"),
        (lambda file: torch.jit.load(file), "a file"),
        (lambda file: torch.hub.load_state_dict_from_url(file.as_uri()), "a file"),
        (lambda file: torch.hub.download_url_to_file(file.as_uri(), str(file)), "a file"),
        (lambda file: pickle.loads(file.read_bytes()), "code in a file"),
        (lambda file: pickle.Unpickler(file.open("rb")).load(), "code in a file"),
        (lambda file: _connect(), "something from a network address"),
    ],
)
@pytest.mark.parametrize("hides", [False, True], ids=["raises", "goes on"])
def test_a_library_that_loads_while_it_builds_is_stopped(
    load_something, what, hides, tmp_path, monkeypatch
):
    sprung = tmp_path / "sprung"
    file = tmp_path / "w.pt"
    file.write_bytes(pickle.dumps(Trap(sprung)))

    def builder(**_: Any) -> nn.Module:
        try:
            load_something(file)
        except Exception:
            if not hides:
                raise
        return nn.Linear(1, 1)

    monkeypatch.setattr(models, "get_model_builder", lambda name: builder)
    with pytest.raises(InputError, match=f"torchvision's resnet18 would load {what} while it is"):
        sources.torchvision.build("resnet18", {})
    assert not sprung.exists()
    # Afterwards, and in a factory of the user's own, everything loads as before.
    assert torch.load.__module__ == "torch.serialization"
    pickle.loads(pickle.dumps(Path("a")))
    assert isinstance(call(lambda: pickle.loads(pickle.dumps(nn.ReLU())), {}, "mine"), nn.ReLU)


def test_another_thread_may_load_meanwhile(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    with ThreadPoolExecutor(1) as pool, nothing_loaded("a network"):
        assert pool.submit(torch.load, tmp_path / "w.pt").result(timeout=60)["a"] == 1


def test_forced_loading_of_weights_only_wins_over_the_opposite_variable(monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    import os

    with sources.building.weights_only("w"):
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
        assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_samplers_take_numbers_switches_and_names_but_nothing_to_load():
    import inspect

    taken = {
        name
        for cls in _SAMPLERS.values()
        for name, parameter in inspect.signature(cls).parameters.items()
        if _PLAIN.fullmatch(str(parameter.annotation))
    }
    words = ("path", "file", "url", "storage", "source", "dir", "trials_from", "load")
    assert not [name for name in taken if any(word in name for word in words)]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_file_of_cifar_that_is_not_the_original_is_not_unpickled(name, tmp_path):
    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    sprung = tmp_path / "sprung"
    files = [file for file, _ in dataset.train_list + dataset.test_list]
    (tmp_path / dataset.base_folder).mkdir()
    for file in [*files, dataset.meta["filename"]]:
        (tmp_path / dataset.base_folder / file).write_bytes(pickle.dumps(Trap(sprung)))
    content = {"data": {"name": name, "path": str(tmp_path)}}
    read = config(tmp_path, {"name": "n", "family": "resnet1111"}, **content)
    with pytest.raises(InputError, match="no usable data"):
        load_data(read.data)
    assert not sprung.exists()


# Networks that can't be used as they are


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("scripted", "returned a TorchScript module, which can't be cut"),
        ("traced", "returned a TorchScript module, which can't be cut"),
        ("scripted_inside", "has the TorchScript part b, which can't be cut"),
        (
            "half",
            "has a.weight, a.bias, n.weight, ... in float16; Stitch Sweep computes in float32",
        ),
        ("double", "has a.weight, a.bias, n.weight, ... in float64"),
        ("half_inside", "has b.weight, b.bias in bfloat16"),
        ("meta", "they are on the device meta; make the network on the CPU"),
        ("DoubleLogits", "returns logits in float64, where float32 is wanted"),
    ],
)
def test_a_network_that_cannot_be_used_says_why(factory, message, folder):
    found = refused(folder, ready(factory))
    assert found.startswith("networks[0]: ")
    assert message in found
    assert "image_size" not in found


@pytest.mark.parametrize(
    "factory", ["compiled", "compiled_in_place", "compiled_inside", "parallel"]
)
def test_wrappers_for_speed_are_taken_off(factory, folder, digits):
    prepared = prepare(config(folder, ready(factory)))
    assert prepared.outlines["n"].layers == [(4, 8, 8)] * 2
    module = sources.load(prepared.config.networks[0], prepared.data)
    assert list(module.network.state_dict()) == list(
        sources.python.find(f"{folder}/net.py:Net")().state_dict()
    )


def test_a_value_that_is_not_in_float32_is_no_layer(folder):
    message = refused(folder, ready("HalfInside", layers=["half"]))
    assert "it is a tensor of float16, and stitches compute in float32" in message
    assert len(prepare(config(folder, ready("HalfInside"))).outlines["n"].layers) == 2


BLOCKED = [
    ("Detached", [-1, 0], "between layer 0 (relu) and layer 1 (relu_1)"),
    ("Data", [-1, 0], "between layer 0 (relu) and"),
    ("DetachedBranches", [-1, 0], "between layer 0 (n) and layer 1 (b)"),
    ("NoGrad", [-1, 0, 1], "between layer 1 (b) and the logits"),
    ("Inference", [-1, 0, 1], "between layer 1 (b) and the logits"),
    ("NoDerivative", [-1, 0], "NotImplementedError: no derivative was written"),
]


@pytest.mark.parametrize(("factory", "layers", "place"), BLOCKED)
def test_layers_that_no_gradient_reaches_can_not_receive(factory, layers, place, folder):
    pairs = [{"sender": "n", "receiver": "n", "sender_layers": [0], "receiver_layers": [-1, 0, 1]}]
    message = refused(folder, ready(factory), pairs=pairs)
    assert f"'n' can't receive at layer {', '.join(map(str, layers))}: " in message
    assert place in message


def test_such_a_network_may_do_what_needs_no_gradient(folder):
    network = ready("Detached")
    every = {"sender": "n", "receiver": "n", "sender_layers": [0], "receiver_layers": [-1, 0, 1]}
    prepare(config(folder, network, pairs=[every], loss={"mse": 1}))
    prepare(config(folder, network, pairs=[every | {"receiver_layers": [1]}]))
    either = {"cross": {"loss": [{"mse": 1}, {"task": 1}]}}
    assert "'n' can't receive at layer -1, 0: " in refused(
        folder, network, pairs=[every], search=either
    )
    knock_out = [{"network": "n", "first": [0], "removed": [1]}]
    message = refused(folder, network, pairs=[], knock_out=knock_out)
    assert "'n' can't receive at layer 0: " in message
    with pytest.raises(InputError, match="--pair n:0,n:0: 'n' can't receive at layer 0"):
        run_pair(config(folder, network), "n:0,n:0")


def test_an_assembly_trains_nothing_before_such_a_place(folder):
    parts = [
        {"network": "n", "end": 0},
        {"stitch": {"name": "linear"}},
        {"network": "n", "start": 0},
    ]
    chosen = config(folder, ready("Detached"), pairs=[], parts=parts)
    prepared = prepare(chosen, cells=False)
    networks, image = prepared.untrained(), prepared.data.image_shape
    with pytest.raises(
        InputError, match=r"parts\[2\]: n passes no gradient back between its places 0"
    ):
        outline(chosen.parts, networks, image)
    behind = [chosen.parts[0].model_copy(update={"end": 1}), chosen.parts[1]]
    behind.append(chosen.parts[2].model_copy(update={"start": 1}))
    assert len(outline(behind, networks, image)) == 3


def test_a_network_with_lazy_modules_is_complete_when_it_is_made(folder):
    chosen = config(folder, made_by("Lazy", weights="random"))
    recipe = make_recipe(chosen.networks[0], chosen, load_data(chosen.data))
    torch.manual_seed(0)
    module = recipe.architecture()
    assert module.network.b.weight.shape == (4, 4, 3, 3)
    torch.manual_seed(0)
    assert fingerprint(recipe.architecture()) == fingerprint(module)


def test_what_is_computed_in_inference_mode_can_send(folder):
    networks = (ready("Inference"), {"name": "b", "family": "resnet1111", "width": 4})
    read = config(folder, *networks, pretraining={"epochs": 1, "batch_size": 50})
    assert run_pair(read, "n:0,b:1")["status"] == "finished"


def test_an_operation_whose_derivative_is_zero_is_noted(folder):
    notes = prepare(config(folder, ready("Rounds"))).notes
    assert any("only gradients of 0 come back from its logits to layer 0" in note for note in notes)
    assert not prepare(config(folder, ready("Net"))).outlines["n"].notes


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("Softmax", "they sum to 1 for each image, as after a softmax"),
        ("Sigmoid", "they don't sum to 1 for each image, as after a sigmoid"),
        ("LogSoftmax", None),  # logarithms of probabilities are logits
        ("Net", None),
    ],
)
def test_outputs_that_are_probabilities_are_noted(factory, words, folder):
    prepared = prepare(config(folder, ready(factory, layers=["relu", "relu_1"])))
    notes = [note for note in prepared.notes if "logits" in note]
    if words is None:
        assert not notes
    else:
        assert len(notes) == 1
        assert notes[0].startswith("network 'n': every output lies between 0 and 1")
        assert words in notes[0]


# Weights in a file


@pytest.fixture
def state(folder: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(sources.python.find(f"{folder}/net.py:Net")().state_dict())


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
        (lambda w: (w * 100).to(torch.int8), "is int8, where float32 is wanted"),
        (lambda w: w.long(), "is int64, where float32 is wanted"),
        (lambda w: w > 0, "is bool, where float32 is wanted"),
        (lambda w: w + 1j, "is complex64, where float32 is wanted"),
        (lambda w: w.to_sparse(), "is sparse, where an ordinary tensor is wanted"),
        (lambda w: w.to("meta"), "is on the device meta, without values, where"),
        (
            lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
            "is quantized, where an ordinary tensor is wanted",
        ),
        (lambda w: w.double() * 1e300, "holds NaN or infinite values"),
        (lambda w: "text", "is a str, where a tensor is wanted"),
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
    assert "n.num_batches_tracked is float32 with values that int64 can't hold" in message


def test_a_missing_count_of_batches_is_accepted(state, folder):
    del state["n.num_batches_tracked"]
    found = from_file(folder, state)
    assert all(torch.equal(found.state_dict()[name], value) for name, value in state.items())
    del state["n.running_mean"]
    message = unfit(folder, state)
    assert message.endswith("doesn't fit: lacks n.running_mean")


def test_tied_weights_that_safetensors_stores_once_are_accepted(folder):
    network = sources.python.find(f"{folder}/net.py:Tied")()
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
    assert "c.weight differs from b.weight, and in the network both are one tensor" in message
    del state["c.weight"], state["b.weight"]
    assert "lacks b.weight; lacks c.weight" in unfit(folder, state, "Tied")


def test_a_prefix_is_suggested_beside_other_keys_and_leaves_them_out(state, folder):
    model = {f"model.{name}": value for name, value in state.items()}
    ema = {f"ema.{name}": value + 1 for name, value in state.items()}
    beside = {"epoch": 3, "loss.weight": torch.ones(2), "optimizer_state": {"lr": 0.1}}
    message = unfit(folder, model | beside)
    assert message.endswith("all that is wanted is there behind weights_prefix: model.")
    message = unfit(folder, model | ema | beside)
    assert message.endswith("behind weights_prefix: model. or ema.")
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
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_called_truncated(name, legacy, share, state, folder):
    torch.save(state, folder / name, _use_new_zipfile_serialization=not legacy)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r": is truncated.*copy or download it again$"):
        load_given_file(folder, name)


def test_other_archives_are_called_what_they_are(state, folder):
    import zipfile

    torch.jit.script(sources.python.find(f"{folder}/net.py:Net")()).save(str(folder / "w.pt"))
    with pytest.raises(
        InputError, match=r"w\.pt: is a TorchScript archive, which holds code; store"
    ):
        load_given_file(folder, "w.pt")
    with zipfile.ZipFile(folder / "w.pt", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(InputError, match=r"is a zip archive that torch\.save didn't write"):
        load_given_file(folder, "w.pt")


# One cell


def test_a_cell_is_trained_though_others_are_impossible(folder):
    ours = {"name": "a", "family": "resnet1111", "width": 4, "weights": "random"}
    broken = ready("half") | {"name": "broken"}
    untrained = {"name": "later", "family": "resnet1111", "width": 4}
    pairs = [
        {"sender": "a", "receiver": "n"},  # n can't receive at layer 0
        {"sender": "broken", "receiver": "a"},
        {"sender": "a", "receiver": "later", "sender_layers": [99]},
    ]
    read = config(folder, ours, ready("Detached"), broken, untrained, pairs=pairs)
    with pytest.raises(InputError):
        prepare(read)
    assert run_pair(read, "a:0,n:1")["status"] == "finished"
    assert len(list((folder / "zoo").glob("*/recipe.json"))) == 1  # `later` was not trained
    with pytest.raises(InputError, match=r"networks\[2\]: python:half: has a\.weight"):
        run_pair(read, "broken:0,a:1")
    teaching = config(
        folder,
        ours,
        ready("Net") | {"name": "c", "weights": "class_only"},
        loss={"soft_task": {"teacher": "sender"}},
        pairs=[{"sender": "a", "receiver": "a"}],
    )
    with pytest.raises(InputError, match=r"--pair c:0,a:0: .*teacher"):
        run_pair(teaching, "c:0,a:0")
