"""Frozen networks: every change is noticed, and parts compose to the network."""

from __future__ import annotations

import copy

import pytest
import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.evaluation import evaluate
from stitch_sweep.networks.frozen import FrozenError, FrozenNetwork


def test_freezing_switches_to_eval_mode_without_gradients_and_verifies(a):
    a.train().requires_grad_(True)
    a.fc.bias.grad = torch.zeros_like(a.fc.bias)  # as a network fresh from its training has them
    frozen = FrozenNetwork(a)
    assert not any(part.training for part in a.modules())
    assert not any(p.requires_grad for p in a.parameters())
    frozen.verify()


def faults(network):
    """Yield every forbidden change: the name that the message must contain, and the change."""
    parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
    for name in ("conv1.weight", "layer2.0.bn1.bias", "fc.bias"):
        yield name, lambda name=name: parameters[name].data.view(-1)[-1].mul_(1 + 1e-6)
        yield name, lambda name=name: parameters[name].requires_grad_(True)
        yield (
            name,
            lambda name=name: setattr(parameters[name], "grad", torch.zeros_like(parameters[name])),
        )
    for name in (
        "bn1.running_mean",
        "layer4.0.bn2.running_var",
        "layer1.0.bn1.num_batches_tracked",
    ):
        yield name, lambda name=name: buffers[name].view(-1)[0].add_(1)
    for name in ("bn1", "layer3.0", "fc"):
        yield name, lambda name=name: setattr(network.get_submodule(name), "training", True)


def test_every_way_to_change_a_network_is_noticed_and_named(subtests, a):
    for k in range(15):
        with subtests.test(str(k)):
            network = copy.deepcopy(a)
            frozen = FrozenNetwork(network, "network 'a'")
            name, fault = list(faults(network))[k]
            fault()
            with pytest.raises(FrozenError) as caught:
                frozen.verify()
            assert "network 'a'" in str(caught.value)
            assert name in str(caught.value)


def test_that_are_all_the_faults(a):
    assert len(list(faults(a))) == 15


def test_a_buffer_outside_the_state_dict_is_watched_too(a):
    a.register_buffer("hidden", torch.zeros(2), persistent=False)
    frozen = FrozenNetwork(a)
    a.hidden[1] = 1
    with pytest.raises(FrozenError, match="hidden"):
        frozen.verify()


def test_a_forward_pass_in_train_mode_is_noticed_even_when_it_is_over(a, digits):
    frozen = FrozenNetwork(a)
    a.train()
    a(torch.zeros(2, 1, 16, 16))
    a.eval()
    with pytest.raises(FrozenError, match=r"running_|num_batches"):
        frozen.verify()


def test_parts_compose_to_the_network_bit_for_bit_and_leave_their_input_alone(a, digits):
    frozen = FrozenNetwork(a)
    images = Loader(digits.test, digits.mean, digits.std, batch_size=64, seed=0)
    x = next(images.in_order(64)).images
    expected = a(x)
    for layer in range(-1, len(frozen.layer_names)):
        representation = frozen.prefix(layer)(x)
        assert tuple(representation.shape[1:]) == frozen.shape(layer, x.shape[1:])
        before = representation.clone()
        assert torch.equal(frozen.suffix(layer)(representation), expected)
        assert torch.equal(representation, before)
    assert torch.equal(frozen.prefix(-1)(x), x)


def test_own_layers_can_be_named_and_a_wrong_name_is_an_input_error(a):
    assert FrozenNetwork(a, layer_names=["bn1", "layer4"]).layer_names == ["bn1", "layer4"]
    with pytest.raises(InputError):
        FrozenNetwork(a, layer_names=["nowhere"])


@pytest.mark.parametrize("layer", [5, 99, -2])
def test_a_layer_that_does_not_exist_is_an_input_error(a, layer):
    with pytest.raises(InputError):
        FrozenNetwork(a).prefix(layer)


def test_the_own_accuracy_is_remembered_per_split(a, digits):
    frozen = FrozenNetwork(a)
    for images in (digits.test, digits.validation, digits.test):
        split = Loader(images, digits.mean, digits.std, batch_size=64, seed=0)
        found, expected = frozen.evaluate(split), evaluate(a, split)
        assert (found.accuracy, found.loss) == (expected.accuracy, expected.loss)
        assert frozen.evaluate(split) is found
