"""Filters for whitened patches: facts about the covariance of their outputs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from stitch_sweep.networks import stem as stem_module
from stitch_sweep.networks.families.building import build, resolve
from stitch_sweep.networks.stem import whiten_stem


def smooth_images(count: int = 64, channels: int = 3, size: int = 12) -> torch.Tensor:
    """Return images whose neighboring pixels and channels are alike."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, channels, size + 4, size + 4, generator=generator)
    smooth = functional.avg_pool2d(noise, 5, stride=1) * 5 + 0.2 * noise[:, :, 2:-2, 2:-2]
    return smooth + smooth.mean(dim=1, keepdim=True)


def output_covariance(stem: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """Return the covariance of the filters' outputs over all patches inside the images."""
    weights = stem.weight.detach().double()
    inside = functional.conv2d(images.double(), weights, stride=stem.stride)
    return torch.cov(inside.transpose(0, 1).flatten(1))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 4), (2, 1)])
def test_filters_for_single_pixels_become_uncorrelated_with_equal_variances(kernel, stride):
    values = 3 * kernel**2
    images = smooth_images()
    stem = nn.Conv2d(3, values, kernel, stride, padding=kernel // 2, bias=False)
    with torch.no_grad():
        stem.weight.copy_(torch.eye(values).view_as(stem.weight))
    before = output_covariance(stem, images)
    assert whiten_stem(nn.Sequential(stem), images)
    after = output_covariance(stem, images)
    mean = after.diagonal().mean()
    assert torch.linalg.cond(before) > 20
    torch.testing.assert_close(after / mean, torch.eye(values).double(), atol=0.02, rtol=0)
    assert mean.item() == pytest.approx(before.diagonal().mean().item(), rel=0.01)


@pytest.mark.parametrize("name", ["resnet1111", "vgg11", "densenet100", "cnn3", "vit2"])
def test_only_the_stem_of_a_network_changes(name):
    family, options = resolve(name)
    network = build(family, 3, 10, {**options, "width": 6}, image_size=32)
    before = copy.deepcopy(network.state_dict())
    assert whiten_stem(network, smooth_images(count=8, size=32))
    after = network.state_dict()
    changed = [key for key in after if not torch.equal(before[key], after[key])]
    stem = next(path for path, part in network.named_modules() if isinstance(part, nn.Conv2d))
    assert changed == [f"{stem}.weight"]
    assert after[changed[0]].isfinite().all()


def test_patches_are_read_in_chunks_of_bounded_size(monkeypatch):
    images, sizes = smooth_images(), []
    whole = nn.Conv2d(3, 8, 3)
    chunked = copy.deepcopy(whole)
    assert whiten_stem(nn.Sequential(whole), images)
    unfold = functional.unfold

    def record(*arguments, **options):
        patches = unfold(*arguments, **options)
        sizes.append(patches.numel())
        return patches

    monkeypatch.setattr(stem_module, "_MOST_VALUES", 20_000)
    monkeypatch.setattr(stem_module.functional, "unfold", record)
    assert whiten_stem(nn.Sequential(chunked), images)
    assert len(sizes) > 8
    assert max(sizes) <= 20_000
    torch.testing.assert_close(chunked.weight, whole.weight)


def test_a_stem_that_is_called_with_a_keyword_is_whitened_like_any_other():
    class Keyword(nn.Module):
        def __init__(self, stem: nn.Conv2d) -> None:
            super().__init__()
            self.stem = stem

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.stem(input=images)

    usual = nn.Conv2d(3, 8, 3)
    keyword = copy.deepcopy(usual)
    assert whiten_stem(nn.Sequential(usual), smooth_images())
    assert whiten_stem(Keyword(keyword), smooth_images())
    assert torch.equal(keyword.weight, usual.weight)


def test_a_network_without_a_convolution_of_the_image_stays_as_it_is():
    images = smooth_images(count=8)
    networks = {
        "no convolution": nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4)),
        "one group per channel": nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)),
        "more channels than the image": nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)),
    }
    for name, network in networks.items():
        before = copy.deepcopy(network.state_dict())
        assert not whiten_stem(network, images), name
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_images_of_one_color_have_nothing_to_whiten():
    stem = nn.Conv2d(1, 4, 3)
    before = stem.weight.detach().clone()
    assert not whiten_stem(nn.Sequential(stem), torch.ones(4, 1, 8, 8))
    assert torch.equal(stem.weight, before)
