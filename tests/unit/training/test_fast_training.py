"""Training with a fast copy of the receiver: exact evaluation, close results, its own identity."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.fast import copies, folding, machine
from stitch_sweep.networks.fast.comparison import Difference
from stitch_sweep.networks.frozen import FrozenError, FrozenNetwork
from stitch_sweep.storage.checkpoint_files import CheckpointError
from tests.support.training import finished, frozen, outcome, settings, training

FUSED = {"frozen": "fused"}
SHORT = {"frozen": "fused", "precision": "bfloat16"}


@pytest.fixture(autouse=True)
def any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_bfloat16", lambda kind: True)


def vector(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


@pytest.mark.parametrize("fast", [FUSED, SHORT], ids=["fused", "bfloat16"])
def test_evaluation_runs_the_network_as_it_is(a, b, digits, fast):
    results = [
        finished(training(a, b, 1, 2, digits, settings(epochs=0, **chosen)))
        for chosen in ({}, fast)
    ]
    assert outcome(results[0]) == outcome(results[1])


@pytest.mark.parametrize("loss", ["task", "fula"])
@pytest.mark.parametrize(("fast", "limit"), [(FUSED, 1e-3), (SHORT, 0.2)], ids=["fused", "bf16"])
def test_a_few_steps_lead_to_nearly_the_same_stitch(a, b, digits, loss, fast, limit):
    start = vector(training(a, b, 1, 2, digits, settings(loss)).stitch)
    ends = []
    for chosen in ({}, fast):
        running = training(a, b, 1, 2, digits, settings(loss, epochs=1, **chosen))
        running.advance(4)
        ends.append(vector(running.stitch))
    moved = (ends[0] - start).norm()
    assert 0 < (ends[1] - ends[0]).norm() < limit * moved


def test_training_steps_run_the_copy_and_two_runs_have_the_same_bits(a, b, digits):
    networks = frozen(a, b)
    results = [
        finished(training(*networks, 1, 2, digits, settings(epochs=1, **chosen)))
        for chosen in (SHORT, SHORT, {})
    ]
    first, second, exact = map(outcome, results)
    assert first == second
    assert first["stitch"] != exact["stitch"]


def test_a_further_stitch_into_the_layer_makes_and_compares_nothing(a, b, digits, monkeypatch):
    networks = frozen(a, b)
    training(*networks, 1, 2, digits, settings(**SHORT))

    def refuse(*arguments: object) -> None:
        raise AssertionError("made or compared again")

    monkeypatch.setattr(copies, "fold_part", refuse)
    monkeypatch.setattr(copies, "compare_parts", refuse)
    finished(training(*networks, 0, 2, digits, settings(epochs=1, **SHORT)))


def test_a_copy_that_changes_while_it_trains_is_noticed(a, b, digits):
    networks = frozen(a, b)
    running = training(*networks, 1, 2, digits, settings(epochs=1, **FUSED))
    running.run_epoch()
    (made,) = networks[1].copies.values()
    next(iter(made.modules)).weight.mul_(1.001)
    with pytest.raises(FrozenError, match="fast copy of network 1"):
        running.finish()
    with pytest.raises(FrozenError, match="fast copy of network 1"):
        training(*networks, 1, 2, digits, settings(**FUSED))


def test_a_wrong_copy_ends_a_training_before_its_first_step(a, b, digits, monkeypatch):
    fold = folding.fold_batch_norm

    def with_other_epsilon(layer, norm):
        wrong = copy.deepcopy(norm)
        wrong.eps = 1e-3
        return fold(layer, wrong)

    monkeypatch.setattr(folding, "fold_batch_norm", with_other_epsilon)
    with pytest.raises(InputError, match=r"from layer 2 .* to layer 3 .* differs from the network"):
        training(a, b, 1, 2, digits, settings(**FUSED))


def test_a_network_that_bfloat16_changes_too_much_is_an_input_error(a, b, digits, monkeypatch):
    measured = iter([Difference(1e-7, 1e-7), Difference(0.02, 0.7)])
    monkeypatch.setattr(
        copies, "compare_parts", lambda *arguments: next(measured, Difference(0, 0))
    )
    with pytest.raises(InputError, match=r"gradients by 0.7 \(allowed: 0.6\)"):
        training(a, b, 1, 2, digits, settings(**SHORT))


def test_a_checkpoint_of_other_arithmetic_is_refused(a, b, digits):
    running = training(a, b, 1, 2, digits, settings(**FUSED))
    running.advance(2)
    checkpoint = running.checkpoint()
    resumed = training(a, b, 1, 2, digits, settings(**FUSED))
    resumed.restore(checkpoint)
    assert outcome(finished(resumed)) == outcome(finished(running))
    for other in ({}, SHORT):
        with pytest.raises(CheckpointError, match="settings not the same"):
            training(a, b, 1, 2, digits, settings(**other)).restore(checkpoint)


def test_the_keys_are_absent_from_a_configuration_that_does_not_use_them():
    assert not {"frozen", "precision"} & settings().model_dump(mode="json")["training"].keys()
    assert settings(frozen="exact", precision="float32").model_dump() == settings().model_dump()
    stored = settings(**SHORT).model_dump(mode="json")
    assert stored["training"]["frozen"] == "fused"
    assert TrialSettings.model_validate(stored) == settings(**SHORT)


def test_both_keys_can_be_crossed():
    config = Config.model_validate(
        {
            "data": {"name": "digits"},
            "networks": [{"name": "a", "family": "resnet1111", "width": 4}],
            "pairs": [{"sender": "a", "receiver": "a"}],
            "search": {
                "cross": {
                    "training.frozen": ["exact", "fused"],
                    "training.precision": ["float32", "bfloat16"],
                }
            },
        }
    )
    chosen = [config.trial_settings(factors).training for factors in config.factor_combinations()]
    assert [(c.frozen, c.precision) for c in chosen] == [
        ("exact", "float32"),
        ("exact", "bfloat16"),
        ("fused", "float32"),
        ("fused", "bfloat16"),
    ]


def test_a_self_pair_verifies_its_one_network_and_trains(a, digits):
    network = FrozenNetwork(a)
    result = finished(training(network, network, 3, 3, digits, settings(epochs=1, **SHORT)))
    assert result.status == "finished"
