"""A machine that can't run the frozen network as configured is an input error before the sweep."""

from __future__ import annotations

import pytest

from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.fast import machine
from stitch_sweep.plan import machine as plan_machine
from stitch_sweep.plan.machine import check_training, pretraining_notes

COMPILED = r"training.frozen: compiled needs a C\+\+ compiler"
SHORT = "training.precision: this CPU has no arithmetic in bfloat16"
CHOICES = {"type": "categorical", "choices": ["float32", "bfloat16"]}
SECTIONS = {"type": "categorical", "choices": [{"precision": "bfloat16"}, {"epochs": 2}]}
BESIDE = {"training": {"precision": "bfloat16"}}


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"training": {"frozen": "compiled"}}, COMPILED),
        ({"search": {"cross": {"training.frozen": ["exact", "compiled"]}}}, COMPILED),
        ({"training": {"precision": "bfloat16"}}, SHORT),
        ({"search": {"space": {"training.precision": CHOICES}}}, SHORT),
        ({"search": {"cross": {"training": [{}, {"frozen": "compiled"}]}}}, COMPILED),
        ({"search": {"space": {"training": SECTIONS}}}, SHORT),
        ({"search": {"cross": {"training.recipe": ["fast"]}}, **BESIDE}, SHORT),
        ({"training": {"frozen": "fused"}}, None),
        ({"search": {"cross": {"training": [{}]}}, **BESIDE}, None),
        ({}, None),
    ],
)
def test_the_problem_is_named_wherever_the_value_stands(sections, problem, monkeypatch):
    monkeypatch.setattr(machine, "has_bfloat16", lambda kind: False)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    config = Config.model_validate(
        {
            "data": {"name": "digits"},
            "networks": [{"name": "a", "family": "resnet1111", "width": 4}],
            "pairs": [{"sender": "a", "receiver": "a"}],
            **sections,
        }
    )
    if problem is None:
        check_training(config)
    else:
        with pytest.raises(InputError, match=problem):
            check_training(config)


def test_a_network_that_the_zoo_would_train_slowly_is_noted(monkeypatch):
    def names(has_bfloat16: bool) -> list[str]:
        monkeypatch.setattr(plan_machine, "has_bfloat16", lambda kind: has_bfloat16)
        notes = pretraining_notes(config)
        assert all("set pretraining.precision: float32" in note for note in notes)
        return [note.split(":")[0] for note in notes]

    network = {"family": "resnet1111", "width": 4}
    config = Config.model_validate(
        {
            "data": {"name": "digits"},
            "networks": [
                {"name": "fast", **network},
                {"name": "plain", **network, "pretraining": {"precision": "float32"}},
                {"name": "untrained", **network, "weights": "random"},
            ],
            "pretraining": {"recipe": "fast"},
            "pairs": [{"sender": "fast", "receiver": "fast"}],
        }
    )
    assert names(has_bfloat16=False) == ["network 'fast'"]
    assert names(has_bfloat16=True) == []
