"""Conversion of the data's images for an external network."""

from __future__ import annotations

import torch
from torch.nn import functional

from stitch_sweep.data.augmentation import normalize_images
from stitch_sweep.networks.external.preprocessing import Imported, Preprocessing
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.storage.digests import fingerprint
from tests.support.networks_external import config, python, refused


def pixels(channels: int, size: int) -> torch.Tensor:
    shape = (3, channels, size, size)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_network_sees_its_own_normalisation_of_the_same_pixels():
    mean, std = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.3, 0.25])
    own_mean, own_std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = pixels(3, 6)
    module = Preprocessing(
        6, None, (std / own_std).tolist(), ((mean - own_mean) / own_std).tolist()
    )
    found = module(normalize_images(x, mean, std))
    torch.testing.assert_close(found, normalize_images(x, own_mean, own_std), rtol=1e-5, atol=1e-5)
    assert not list(module.parameters())


def test_resizing_is_linear_interpolation_with_antialiasing(subtests):
    for size, image_size in ((8, 20), (20, 8), (7, 9)):
        with subtests.test(f"{size}, {image_size}"):
            x = pixels(2, size).float()
            found = Preprocessing(size, image_size)(x)
            expected = functional.interpolate(
                x, (image_size, image_size), mode="bilinear", antialias=image_size < size
            )
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
            flat = Preprocessing(size, image_size)(torch.ones(1, 1, size, size))
            torch.testing.assert_close(flat, torch.ones(1, 1, image_size, image_size))


def test_a_grey_image_becomes_a_coloured_one():
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(Preprocessing(4, grey_to=3)(x), x.repeat(1, 3, 1, 1))


def test_the_places_of_a_network_keep_their_names_behind_its_preprocessing(mine, tmp_path):
    chosen = config(
        tmp_path,
        python(f"{mine}:make", normalisation={"mean": [0.5], "std": [0.25]}, image_size=12),
    )
    prepared = prepare(chosen)
    module = provide_networks(prepared)["n"]
    assert isinstance(module, Imported)
    frozen = FrozenNetwork(module)
    assert frozen.layer_names == ["relu", "blocks.0", "blocks.1"]
    assert prepared.outlines["n"].image == (1, 8, 8)
    assert prepared.outlines["n"].layers == [(4, 12, 12)] * 3
    # Layer -1 is the data's image; only the suffix from there contains the preprocessing.
    x = normalize_images(prepared.data.test.images[:4], prepared.data.mean, prepared.data.std)
    with torch.no_grad():
        expected = module(x)
        assert torch.equal(frozen.suffix(-1)(x), expected)
        seen = (x * prepared.data.std + prepared.data.mean - 0.5) / 0.25
        resized = functional.interpolate(seen, (12, 12), mode="bilinear")
        torch.testing.assert_close(module.network(resized), expected, rtol=1e-4, atol=1e-4)
        for layer in range(3):
            assert torch.equal(frozen.suffix(layer)(frozen.prefix(layer)(x)), expected)
    before = fingerprint(module)
    module.expected_image.shift += 1
    assert fingerprint(module) != before


def test_the_gradient_reaches_the_image(mine, tmp_path):
    chosen = config(tmp_path, python(f"{mine}:make", image_size=12))
    module = provide_networks(prepare(chosen))["n"]
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    FrozenNetwork(module).suffix(-1)(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_normalisation_with_more_channels_than_the_network_takes_is_named(mine, tmp_path):
    two = {"mean": [0.5, 0.5], "std": [0.5, 0.5]}
    message = refused(tmp_path, python(f"{mine}:make", normalisation=two))
    assert (
        "grayscale images are repeated to 2 channels, the number that normalisation has" in message
    )
