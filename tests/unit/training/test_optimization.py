"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from stitch_sweep.config.optimizer import OptimizerConfig
from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.networks.optimization import Optimization
from stitch_sweep.storage.checkpoints import pack, unpack

# torch's optimizers, except those that can't train a convolution in a plain step.
NAMES = sorted(
    name
    for name, cls in inspect.getmembers(torch.optim, inspect.isclass)
    if issubclass(cls, torch.optim.Optimizer)
    and name not in {"Optimizer", "LBFGS", "SparseAdam", "Muon"}
)
VARIANTS = [
    {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"name": "adam", "amsgrad": True, "betas": [0.8, 0.99]},
    {"name": "rmsprop", "centered": True, "momentum": 0.5},
]
STEPS = 12


def a_convolution() -> nn.Conv2d:
    torch.manual_seed(3)
    return nn.Conv2d(3, 4, 2, stride=2)


def optimization(conv: nn.Module, settings: dict, schedule: dict | None = None) -> Optimization:
    return Optimization(
        conv.parameters(),
        OptimizerConfig.model_validate(settings),
        ScheduleConfig.model_validate(schedule or {}),
        STEPS,
        default_lr=0.05,
    )


def train(conv: nn.Module, running: Optimization, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        loss = (conv(x) - x.mean(dim=1, keepdim=True)[:, :, ::2, ::2]).square().mean()
        losses.append(loss.item())
        running.step(loss)
    return losses


@pytest.mark.parametrize("settings", [{"name": n} for n in NAMES] + VARIANTS, ids=str)
def test_every_optimizer_trains_and_goes_on_from_its_state_bit_for_bit(settings):
    conv = a_convolution()
    running = optimization(conv, settings)
    losses = train(conv, running, range(7))
    assert losses[-1] != losses[0]
    stored = pack({"conv": dict(conv.state_dict()), "optimization": running.state_dict()})
    rest = train(conv, running, range(7, STEPS))

    state = unpack(stored)
    again = a_convolution()
    again.load_state_dict(state["conv"])
    resumed = optimization(again, settings)
    resumed.load_state_dict(state["optimization"])
    assert train(again, resumed, range(7, STEPS)) == rest
    assert torch.equal(again.weight, conv.weight)
    assert torch.equal(again.bias, conv.bias)
    assert pack(resumed.state_dict()) == pack(running.state_dict())


@pytest.mark.parametrize("name", ["SGD", "sgd", "Sgd", "AdamW", "adamw"])
def test_names_are_found_in_any_case(name):
    built = OptimizerConfig.model_validate({"name": name}).build([nn.Parameter(torch.ones(1))], 0.1)
    assert type(built).__name__.lower() == name.lower()


@pytest.mark.parametrize("name", ["lbfgs", "sparseadam", "muon", "optimizer", "Adma", "", "nn"])
def test_what_cannot_train_a_stitch_is_no_optimizer(name):
    with pytest.raises(ValidationError, match=r"no optimizer of torch\.optim is named"):
        OptimizerConfig.model_validate({"name": name})


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"name": "sgd", "nesterov": True}, "Nesterov"),
        ({"name": "sgd", "momentun": 0.9}, "momentum"),
        ({"name": "sgd", "momentum": "0.9"}, "momentum"),
        ({"name": "adam", "betas": [0.9]}, "betas"),
        ({"name": "adam", "betas": [0.9, 1.5]}, "beta"),
        ({"name": "sgd", "maximize": True}, "maximize"),
        ({"name": "sgd", "lr": 0.0}, "lr"),
        ({"name": "sgd", "lr": math.nan}, "lr"),
        ({"name": "sgd", "lr": -1.0}, "lr"),
    ],
)
def test_settings_that_its_class_would_refuse_are_refused_at_once(settings, why):
    with pytest.raises(ValidationError, match=why):
        OptimizerConfig.model_validate(settings)


def written_out(name: str, warmup: int, step: int, total: int) -> float:
    """Compute a schedule from its definition; warmup is a number of steps."""
    if warmup > 0 and step <= warmup - 1:
        return (1 + step) / warmup
    done = (step - warmup) / (total - warmup)
    return {
        "constant": 1.0,
        "linear": 1.0 - done,
        "warmup_cosine": math.cos(math.pi / 2 * done) ** 2,  # the half-angle form
    }[name]


@given(
    st.sampled_from(["constant", "linear", "warmup_cosine"]),
    st.integers(1, 500),
    st.floats(0, 1, exclude_max=True),
)
def test_schedules_follow_their_formulas_and_warmup_never_outlasts_training(name, total, warmup):
    schedule = ScheduleConfig(name=name, warmup=warmup)
    steps = round(warmup * total)
    factors = [schedule.factor(step, total) for step in range(total)]
    expected = [written_out(name, steps, step, total) for step in range(total)]
    assert factors == pytest.approx(expected, abs=1e-12)
    assert max(factors) == pytest.approx(1.0)
    assert all(0 < factor <= 1 for factor in factors)


@pytest.mark.parametrize("warmup", [1.0, 1.5, -0.1, math.nan])
def test_a_warmup_as_long_as_the_training_is_refused(warmup):
    with pytest.raises(ValidationError):
        ScheduleConfig(warmup=warmup)


@settings(max_examples=10)
@given(st.floats(0, 0.9))
def test_a_step_uses_the_learning_rate_of_its_number(warmup):
    # With a gradient of 1, plain SGD moves by exactly the learning rate.
    parameter = nn.Parameter(torch.zeros((), dtype=torch.float64))
    running = Optimization(
        [parameter],
        OptimizerConfig(name="sgd", lr=0.25),
        ScheduleConfig(warmup=warmup),
        STEPS,
        default_lr=9.0,
    )
    for step in range(STEPS):
        before = parameter.item()
        used = running.step(parameter)
        lr = 0.25 * written_out("warmup_cosine", round(warmup * STEPS), step, STEPS)
        assert used == pytest.approx(lr)
        assert before - parameter.item() == pytest.approx(lr)
        assert running.step_count == step + 1


def test_the_default_learning_rate_serves_where_none_was_given():
    parameter = nn.Parameter(torch.zeros(()))
    assert OptimizerConfig(name="sgd").build([parameter], 0.5).param_groups[0]["lr"] == 0.5
    assert OptimizerConfig(name="sgd", lr=0.2).build([parameter], 0.5).param_groups[0]["lr"] == 0.2
