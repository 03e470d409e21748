"""The check `fast network` finds a copy that its own comparison let pass."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from stitch_sweep.networks.fast import folding
from stitch_sweep.networks.fast.comparison import FLOAT32
from stitch_sweep.networks.fast.copies import FastNetwork
from tests.support.subjects import run_check

FOLD = folding.fold_batch_norm


def wrong_epsilon(layer, norm):
    wrong = copy.deepcopy(norm)
    wrong.eps = 1e-3
    return FOLD(layer, wrong)


def folded_twice(layer, norm):
    return torch.nn.Sequential(FOLD(layer, norm), norm)


def stale(layer, norm):
    """The fold of weights from before they changed."""
    old = copy.deepcopy(layer)
    old.weight.mul_(1.01)
    return FOLD(old, norm)


@pytest.mark.parametrize("fault", [wrong_epsilon, folded_twice, stale])
def test_a_wrong_copy_is_found(fault, subject, monkeypatch):
    monkeypatch.setattr(FastNetwork, "compare", lambda self, *arguments, **options: None)
    monkeypatch.setattr(folding, "fold_batch_norm", fault)
    finding = run_check("fast network", subject)
    assert finding.verdict == "fail"
    assert finding.detail.startswith("fused: logits differ by")
    assert finding.difference > FLOAT32.output


def test_a_copy_that_a_training_refuses_is_a_defect_with_its_reason(subject, monkeypatch):
    monkeypatch.setattr(folding, "fold_batch_norm", stale)
    finding = run_check("fast network", subject)
    assert (finding.verdict, finding.difference) == ("fail", None)
    assert "differs from the network as it is" in finding.detail


def test_the_other_checks_pass_with_a_fast_copy(subject):
    """The plain loop knows no copies, so the check compares it with the receiver as it is."""
    settings = subject.settings.model_copy(
        update={"training": subject.settings.training.model_copy(update={"frozen": "fused"})}
    )
    for name in ("no abstractions", "frozen", "other trials", "fast network"):
        assert run_check(name, replace(subject, settings=settings)).verdict == "pass", name
