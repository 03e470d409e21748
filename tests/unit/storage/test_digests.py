"""SHA-256 of tensors and modules."""

from __future__ import annotations

import torch
from torch import nn

from stitch_sweep.storage.digests import digest, fingerprint


def test_a_digest_is_a_function_of_names_types_shapes_bytes_and_text():
    x = torch.arange(6, dtype=torch.int32)
    different = [
        ({"x": x}, ""),
        ({"x": x}, "text"),
        ({"y": x}, ""),
        ({"x": x, "y": x[:0]}, ""),
        ({"x": x.view(torch.float32)}, ""),
        ({"x": x.reshape(2, 3)}, ""),
        ({"x": x.reshape(3, 2)}, ""),
        *(({"x": torch.where(torch.arange(6) == k, x ^ 1, x)}, "") for k in range(6)),
        ({"x": torch.tensor([0.0])}, ""),
        ({"x": torch.tensor([-0.0])}, ""),
    ]
    assert len({digest(named, text) for named, text in different}) == len(different)
    assert digest({"a": x, "b": x + 1}) == digest({"b": x + 1, "a": x})
    assert digest({"x": torch.ones(4, 3).T}) == digest({"x": torch.ones(3, 4)})


class WithHiddenBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("hidden", torch.zeros(1), persistent=False)


def test_a_fingerprint_covers_every_parameter_and_buffer_also_those_not_in_the_state_dict():
    seen = {fingerprint(WithHiddenBuffer())}
    for name in [
        "hidden",
        *("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
        "norm.num_batches_tracked",
    ]:
        module = WithHiddenBuffer()
        with torch.no_grad():
            {**dict(module.named_parameters()), **dict(module.named_buffers())}[name].add_(1)
        seen.add(fingerprint(module))
    assert len(seen) == 7
    assert fingerprint(WithHiddenBuffer()) in seen
