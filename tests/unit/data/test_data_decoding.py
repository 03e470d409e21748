"""Encoded images become uint8 tensors, and broken ones are named."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.decoding import decode
from tests.support.image_files import (
    encoded,
    pixels,
)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [11, 90])  # decoded by one thread and by several
def test_lossless_formats_give_back_their_pixels(kind, size):
    color = pixels(9, size, 3)
    buffer = io.BytesIO()
    Image.fromarray(color).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    (tensor,) = decode([("", buffer.getvalue())], None)
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), color)


def test_grayscale_stays_grayscale_and_transparency_is_dropped():
    with_alpha, gray_with_alpha, gray = pixels(9, 11, 4), pixels(9, 11, 2), pixels(9, 11)
    palette = io.BytesIO()
    Image.fromarray(gray).convert("P").save(palette, "PNG")
    contents = [encoded(gray), encoded(gray_with_alpha), encoded(with_alpha), palette.getvalue()]
    one, two, three, four = decode([("", content) for content in contents], None)
    assert np.array_equal(one.numpy(), gray[None])
    assert np.array_equal(two.numpy(), gray_with_alpha[None, :, :, 0])
    assert np.array_equal(three.permute(1, 2, 0).numpy(), with_alpha[:, :, :3])
    assert np.array_equal(four.numpy(), np.stack([gray] * 3))


@pytest.mark.parametrize(("shape", "channels"), [((16, 16), 1), ((16, 16, 3), 3)])
def test_jpeg_is_close_to_its_pixels(shape, channels):
    smooth = (np.indices(shape).sum(0) * 4).astype(np.uint8)
    (tensor,) = decode([("", encoded(smooth, "JPEG"))], None)
    assert tensor.shape == (channels, 16, 16)
    expected = smooth.reshape(16, 16, channels).transpose(2, 0, 1)
    assert np.abs(tensor.numpy().astype(int) - expected).max() < 16


def test_pixels_without_a_fixed_range_are_refused():
    with pytest.raises(InputError, match=r"floats is not an image .* mode F have no fixed range"):
        decode([("floats", encoded(np.zeros((4, 4), np.float32), "TIFF"))], None)


def test_sixteen_bits_become_eight():
    deep = pixels(4, 4).astype(np.uint16) * 256 + 7
    (tensor,) = decode([("deep", encoded(deep))], None)
    assert np.array_equal(tensor[0].numpy(), pixels(4, 4))


def test_many_images_come_back_in_order():
    content = [(str(k), encoded(np.full((2, 2), k % 256, np.uint8))) for k in range(1000)]
    assert [int(t[0, 0, 0]) for t in decode(content, None)] == [k % 256 for k in range(1000)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_broken_image_is_named(kind, damage):
    content = encoded(pixels(32, 32, 3), kind)
    broken = {"cut": content[: len(content) // 2], "empty": b"", "text": b"hello"}[damage]
    with pytest.raises(InputError, match=r"^the third is not an image that can be read"):
        decode([("first", content), ("second", content), ("the third", broken)], None)
