"""Statistics and hashes of tensors, against NumPy; outputs of layers, against a plain forward pass."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from stitch_sweep.checks.inspection import inspect_outputs, inspect_weights, summarize


class TestSummaries:
    @pytest.mark.parametrize(
        "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64]
    )
    def test_are_numpys(self, dtype):
        tensor = (torch.rand(7, 5, generator=torch.Generator().manual_seed(1)) * 50).to(dtype)
        result = summarize(tensor.T)  # not contiguous
        values = tensor.T.double().numpy()
        assert result.shape == (5, 7)
        assert result.dtype == str(dtype).partition(".")[2]
        assert result.mean == pytest.approx(np.mean(values), rel=1e-14)
        assert result.std == pytest.approx(np.std(values), rel=1e-14)
        assert (result.min, result.max) == (values.min(), values.max())
        plain = tensor.T.contiguous().view(torch.uint8).numpy().tobytes()
        assert result.sha256 == hashlib.sha256(plain).hexdigest()

    def test_leave_out_what_is_not_finite(self):
        result = summarize(torch.tensor([1.0, math.nan, 3.0, -math.inf]))
        assert (result.mean, result.std, result.min, result.max, result.not_finite) == (
            2,
            1,
            1,
            3,
            2,
        )
        result = summarize(torch.full((2,), math.nan))
        assert (result.mean, result.std, result.not_finite) == (None, None, 2)

    def test_of_nothing_and_of_truth_values(self):
        result = summarize(torch.empty(0, 3))
        assert (result.shape, result.mean, result.not_finite) == ((0, 3), None, 0)
        assert result.sha256 == hashlib.sha256(b"").hexdigest()
        assert summarize(torch.tensor([True, False])).mean == 0.5

    def test_don_t_follow_the_number_of_threads(self):
        tensor = torch.rand(300_000, generator=torch.Generator().manual_seed(1))
        threads = torch.get_num_threads()
        result = []
        for count in (1, 2):
            torch.set_num_threads(count)
            result.append(summarize(tensor))
        torch.set_num_threads(threads)
        assert result[0] == result[1]

    def test_of_every_parameter_and_buffer(self, a):
        result = inspect_weights(a)
        a.register_buffer("unstored", torch.ones(3), persistent=False)
        assert {*inspect_weights(a)} - {*result} == {"unstored"}
        for name, tensor in a.state_dict().items():
            values = tensor.double().numpy()
            assert result[name].mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-15)
            assert result[name].std == pytest.approx(values.std(), rel=1e-12, abs=1e-15)
            assert result[name].sha256 == hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


class Odd(nn.Module):
    """A module that runs twice, an in-place operation, several outputs, and code between modules."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(1, 1)
        self.late = nn.Linear(4, 4)
        self.early = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.early(x))
        x = self.relu(self.late(x) - 1)
        x, _ = self.attention(x, x, x)
        return self.drop(functional.relu(x)) + 1


class TestOutputs:
    def test_come_in_order_of_execution_as_they_were(self):
        torch.manual_seed(0)
        network = Odd().eval()
        x = torch.randn(2, 3, 4)
        saved = {}
        result = inspect_outputs(network, x, lambda o, v: saved.update({o.position: v.clone()}))
        assert [(o.position, o.path, o.type) for o in result] == [
            (0, "early", "Linear"),
            (1, "relu", "ReLU"),
            (2, "late", "Linear"),
            (3, "relu", "ReLU"),
            (4, "attention[0]", "MultiheadAttention"),
            (5, "attention[1]", "MultiheadAttention"),
            (6, "drop", "Dropout"),
            (7, "(output)", "Odd"),
        ]
        with torch.no_grad():
            early = network.early(x)
            late = network.late(early.relu())
            expected = [early, early.relu(), late, (late - 1).relu()]
            attention = network.attention(expected[3], expected[3], expected[3])
            expected += [*attention, attention[0].relu(), network(x)]
        for output, tensor in zip(result, expected, strict=True):
            assert output.summary.shape == tuple(tensor.shape)
            assert output.summary.mean == pytest.approx(np.mean(tensor.double().numpy()))
            plain = tensor.contiguous().numpy().tobytes()
            assert output.summary.sha256 == hashlib.sha256(plain).hexdigest()
            assert output.mode == "eval"
        assert torch.equal(saved[2], expected[2])

    def test_leave_the_network_as_it_was(self, a):
        a.train()
        a.bn1.eval()
        modes = [module.training for module in a.modules()]
        result = inspect_outputs(a, torch.zeros(2, 1, 16, 16))
        assert [module.training for module in a.modules()] == modes
        assert {o.path: o.mode for o in result}["bn1"] == "eval"
        assert {o.path: o.mode for o in result}["conv1"] == "train"
        with pytest.raises(RuntimeError):
            inspect_outputs(a, torch.zeros(2, 3, 16, 16))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in a.modules())

    def test_of_a_single_layer(self):
        (result,) = inspect_outputs(nn.Identity(), torch.ones(2, 3))
        assert (result.path, result.type, result.summary.mean) == ("(output)", "Identity", 1)
