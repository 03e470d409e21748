"""CIFAR-10 loads completely; it takes seconds and its files, which are not part of the repository."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stitch_sweep.data.duplicates import find_duplicates
from stitch_sweep.data.images import channel_statistics
from tests.support.image_files import read_parquet
from tests.support.paths import SHARED

CIFAR10 = SHARED / "data" / "cifar10"


@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"CIFAR-10 is not in {CIFAR10}")
def test_all_of_cifar10_loads():
    source = read_parquet(CIFAR10)
    for split, per_class in ((source.train, 5000), (source.test, 1000)):
        assert split.images.shape == (10 * per_class, 3, 32, 32)
        assert torch.equal(split.labels, torch.arange(10 * per_class) % 10)
    assert source.classes == tuple("0123456789")
    nothing = source.train.select(torch.arange(0))
    everything = SimpleNamespace(train=source.train, validation=nothing, test=source.test)
    assert find_duplicates(everything) == []
    mean, std = channel_statistics(source.train.images)
    # The original's figures, quoted everywhere; JPEG hardly moves them.
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=1e-3, rtol=0)
    torch.testing.assert_close(std, torch.tensor([0.2470, 0.2435, 0.2616]), atol=3e-3, rtol=0)
