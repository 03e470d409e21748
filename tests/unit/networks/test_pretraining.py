"""The training of zoo networks, and untrained controls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stitch_sweep.core.errors import DivergedError
from stitch_sweep.data.batches import CHUNK
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.families.building import build
from stitch_sweep.networks.pretraining import fill_batchnorm_statistics, train_network
from stitch_sweep.networks.zoo import Zoo
from tests.support.networks_zoo import recipe, train, weights


def test_random_raw_is_kaiming_fan_out_with_untouched_statistics(digits):
    network_recipe = recipe(digits, {"weights": "random_raw", "width": 16})
    (progress,) = train(network_recipe, digits)
    state = weights(progress)
    for name, tensor in state.items():
        if tensor.ndim == 4:
            out, _, k, _ = tensor.shape
            # Five times the relative standard deviation of a sample variance, sqrt(2 / n).
            tolerance = 5 * math.sqrt(2 / tensor.numel())
            assert tensor.var().item() == pytest.approx(2 / (out * k * k), rel=tolerance), name
        elif name.endswith("running_mean"):
            assert (tensor == 0).all()
        elif name.endswith("running_var"):
            assert (tensor == 1).all()
    assert progress.accuracy.keys() == {"train", "validation", "test"}


def test_random_has_the_same_weights_and_the_statistics_of_one_pass(digits):
    raw = weights(train(recipe(digits, {"weights": "random_raw"}), digits)[0])
    found = weights(train(recipe(digits, {"weights": "random"}), digits)[0])
    module = build("resnet", 1, 10, {"blocks": [1, 1, 1, 1], "width": 2})
    module.load_state_dict(raw)
    # Compute the mean and the unbiased variance of BatchNorm's input in each chunk independently.
    norms = {n: m for n, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)}
    seen: dict[str, list[tuple[int, torch.Tensor, torch.Tensor]]] = {name: [] for name in norms}
    for name, norm in norms.items():

        def hook(m, args, _, name=name):
            values = args[0].double().transpose(0, 1).flatten(1)
            seen[name].append((len(args[0]), values.mean(dim=1), values.var(dim=1)))

        norm.register_forward_hook(hook)
    module.train()
    x = (digits.train.images.float() / 255 - digits.mean[0]) / digits.std[0]
    with torch.no_grad():
        for chunk in x.split(CHUNK):
            module(chunk)
    assert len(x) % CHUNK  # so that the weights of the chunks differ
    for name, chunks in seen.items():
        for k, statistic in ((1, "running_mean"), (2, "running_var")):
            by_hand = sum(chunk[0] * chunk[k] for chunk in chunks) / len(x)
            torch.testing.assert_close(
                found[f"{name}.{statistic}"], by_hand.float(), rtol=1e-4, atol=1e-5
            )
        assert torch.equal(found[f"{name}.weight"], raw[f"{name}.weight"])
    assert torch.equal(found["layer3.0.conv1.weight"], raw["layer3.0.conv1.weight"])


def test_random_statistics_are_those_of_a_network_that_drops_nothing(digits):
    """A control's BatchNorm statistics are those of eval mode, without dropout."""

    def made(dropout: float) -> nn.Module:
        torch.manual_seed(0)
        drops = nn.Dropout(dropout)
        return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), drops, nn.BatchNorm1d(8))

    found = []
    for dropout in (0.0, 0.5):
        network = made(dropout)
        loader = make_loaders(digits, 64, seed=0)["train"]
        fill_batchnorm_statistics(network, loader)
        found.append(network[3])
    assert torch.equal(found[0].running_mean, found[1].running_mean)
    assert torch.equal(found[0].running_var, found[1].running_var)
    assert found[0].running_var.min() > 0


def test_training_is_a_function_of_the_recipe(digits):
    runs = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        runs.append(train(recipe(digits), digits))
    assert runs[0][-1].weights == runs[1][-1].weights
    assert [p.epoch for p in runs[0]] == [1, 2, 3]
    assert [p.weights is None for p in runs[0]] == [True, True, False]
    other = train(recipe(digits, {"seed": 1}), digits)
    assert other[-1].weights != runs[0][-1].weights


@pytest.mark.parametrize(
    "pretraining",
    [
        {"optimizer": {"name": "sgd", "lr": 1e30}},
        # A single step: its loss is finite, and the weights after it are not.
        {"optimizer": {"name": "sgd", "lr": 1e38, "momentum": 0.9}, "epochs": 1, "batch_size": 300},
    ],
)
def test_a_training_that_diverges_is_named_and_stores_nothing(digits, tmp_path, pretraining):
    if pretraining.get("epochs") == 1:
        pretraining["schedule"] = {"name": "constant", "warmup": 0}
        pretraining["optimizer"]["weight_decay"] = 1e3  # overflows whatever the gradient is
    zoo, network_recipe = Zoo(tmp_path), recipe(digits, pretraining=pretraining)
    with pytest.raises(DivergedError, match="'n': its training diverged in epoch 1"):
        zoo.ensure(network_recipe, lambda r, resume: train_network(r, digits, threads=1))
    assert zoo.find(network_recipe) is None
    assert not list(tmp_path.glob("*/*"))


EVERY_KEY = {
    "precision": "bfloat16",
    "memory_format": "channels_last",
    "augment": "crop_alternating_flip",
    "label_smoothing": 0.1,
    "whiten_stem": True,
}


def test_bfloat16_is_no_format_of_weights_and_another_training(digits):
    states = {}
    for precision in ("float32", "bfloat16"):
        last = train(recipe(digits, pretraining={"precision": precision, "epochs": 1}), digits)[-1]
        states[precision] = weights(last)
    for name, tensor in states["bfloat16"].items():
        counts = name.endswith("num_batches_tracked")
        assert tensor.dtype == (torch.int64 if counts else torch.float32), name
    distance = sum(
        (states["bfloat16"][name] - value).norm()
        for name, value in states["float32"].items()
        if value.is_floating_point()
    )
    size = sum(v.norm() for v in states["float32"].values() if v.is_floating_point())
    # bfloat16 has 8 significant bits, and the errors of 10 steps add up.
    assert 2**-16 < distance / size < 2**-3


@pytest.mark.parametrize("pretraining", [{"recipe": "fast", "epochs": 3}, EVERY_KEY])
def test_a_training_repeats_and_resumes_bit_for_bit_with_every_key(digits, pretraining):
    network_recipe = recipe(digits, pretraining=pretraining)
    whole = train(network_recipe, digits, checkpoint_seconds=0)
    assert [progress.checkpoint is None for progress in whole] == [False, False, True]
    for start in (None, whole[0].checkpoint, whole[1].checkpoint):
        torch.manual_seed(7)
        again = train(network_recipe, digits, resume=start)
        assert again[-1].weights == whole[-1].weights
        assert again[-1].accuracy == whole[-1].accuracy


@pytest.mark.parametrize("key", EVERY_KEY)
def test_every_key_changes_the_weights(digits, key):
    plain = train(recipe(digits, pretraining={"epochs": 1}), digits)[-1]
    changed = train(recipe(digits, pretraining={"epochs": 1, key: EVERY_KEY[key]}), digits)[-1]
    assert changed.weights != plain.weights


def test_the_smoothed_loss_is_cross_entropy_with_softened_labels(digits):
    """The only batch of an epoch, at the initial weights, against the formula."""
    smoothing, count = 0.3, len(digits.train)
    one_step = {"epochs": 1, "batch_size": count, "schedule": {"name": "constant", "warmup": 0}}
    (progress,) = train(
        recipe(digits, pretraining={**one_step, "label_smoothing": smoothing}), digits
    )
    network = build("resnet", 1, 10, {"blocks": [1, 1, 1, 1], "width": 2})
    network.load_state_dict(weights(train(recipe(digits, {"weights": "random_raw"}), digits)[0]))
    images = (digits.train.images.float() / 255 - digits.mean[0]) / digits.std[0]
    with torch.no_grad():
        logs = network.train()(images).double().log_softmax(dim=1)
    soft = torch.full((count, 10), smoothing / 10, dtype=torch.float64)
    soft[torch.arange(count), digits.train.labels] += 1 - smoothing
    assert progress.loss == pytest.approx(-(soft * logs).sum(dim=1).mean().item(), rel=1e-5)
    hard = torch.nn.functional.cross_entropy(logs, digits.train.labels).item()
    assert progress.loss != pytest.approx(hard, rel=1e-3)
