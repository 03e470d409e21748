"""External networks that can't be used as they are: each refusal gives the reason."""

from __future__ import annotations

import pytest
import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.networks import construction
from stitch_sweep.networks.external import python
from stitch_sweep.networks.recipes import make_recipe
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.storage.digests import fingerprint
from stitch_sweep.sweep.single import run_pair
from stitch_sweep.training.assembly import outline
from tests.support.networks_faulty import config, made_by, ready, refused


def test_a_network_that_cannot_be_used_says_why(subtests, folder):
    for factory, message in (
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
        ("DoubleLogits", "returns logits in float64, but float32 is required"),
    ):
        with subtests.test(f"{factory}, {message}"):
            found = refused(folder, ready(factory))
            assert found.startswith("networks[0]: ")
            assert message in found
            assert "image_size" not in found


def test_wrappers_for_speed_are_taken_off(subtests, folder, digits):
    for factory in ("compiled", "compiled_in_place", "compiled_inside", "parallel"):
        with subtests.test(str(factory)):
            prepared = prepare(config(folder, ready(factory)))
            assert prepared.outlines["n"].layers == [(4, 8, 8)] * 2
            module = construction.load(prepared.config.networks[0], prepared.data)
            assert list(module.network.state_dict()) == list(
                python.find(f"{folder}/net.py:Net")().state_dict()
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


def test_layers_that_no_gradient_reaches_can_not_receive(subtests, folder):
    for factory, layers, place in BLOCKED:
        with subtests.test(f"{factory}, {layers}, {place}"):
            pairs = [
                {
                    "sender": "n",
                    "receiver": "n",
                    "sender_layers": [0],
                    "receiver_layers": [-1, 0, 1],
                }
            ]
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
    assert any("the gradients of its logits are 0 at layer 0" in note for note in notes)
    assert not prepare(config(folder, ready("Net"))).outlines["n"].notes


def test_outputs_that_are_probabilities_are_noted(subtests, folder):
    for factory, words in (
        ("Softmax", "they sum to 1 for each image, as after a softmax"),
        ("Sigmoid", "they don't sum to 1 for each image, as after a sigmoid"),
        ("LogSoftmax", None),  # logarithms of probabilities are logits
        ("Net", None),
    ):
        with subtests.test(f"{factory}, {words}"):
            prepared = prepare(config(folder, ready(factory, layers=["relu", "relu_1"])))
            notes = [note for note in prepared.notes if "logits" in note]
            if words is None:
                assert not notes
            else:
                assert len(notes) == 1
                assert notes[0].startswith("network 'n': every output lies between 0 and 1")
                assert words in notes[0]


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
