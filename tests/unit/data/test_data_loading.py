"""A data set is loaded, cut into splits and identified by its content."""

from __future__ import annotations

import pytest
import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Images, channel_statistics
from stitch_sweep.data.loading import load
from tests.support.image_files import (
    data_settings,
    pixels,
)


def rows_of(images: Images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


def test_digits_are_the_bundled_ones_with_a_quarter_for_the_test():
    data = load(data_settings("digits"))
    assert data.image_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.validation), len(data.test)) == (1213, 135, 449)
    assert data.train.images.max() == 255
    assert data.train.images.min() == 0
    per_class = torch.bincount(data.test.labels) / 449
    assert ((per_class - 0.1).abs() < 0.005).all()


def test_digits_have_no_image_in_two_splits_and_the_test_set_ignores_the_split_seed():
    one, other = load(data_settings("digits")), load(data_settings("digits", split_seed=1))
    assert torch.equal(one.test.images, other.test.images)
    assert rows_of(one.train) != rows_of(other.train)
    assert rows_of(one.train) | rows_of(one.validation) == rows_of(other.train) | rows_of(
        other.validation
    )
    # No two images of the bundled set are equal, so equal content means the same image.
    assert len(rows_of(one.train) | rows_of(one.validation) | rows_of(one.test)) == 1797


def test_resizing_gives_the_size_and_keeps_brightness():
    small, large = load(data_settings("digits")), load(data_settings("digits", image_size=16))
    assert large.image_shape == (1, 16, 16)
    assert large.image_size == 16
    assert torch.equal(small.train.labels, large.train.labels)
    assert abs(small.mean - large.mean) < 0.01


def test_the_validation_cut_does_not_depend_on_the_training_subset():
    full = load(data_settings("digits"))
    for train_images in (10, 300, 1213):
        part = load(data_settings("digits", train_images=train_images))
        assert len(part.train) == train_images
        assert rows_of(part.train) <= rows_of(full.train)
        assert rows_of(part.validation) <= rows_of(full.validation)
    assert len(load(data_settings("digits", train_images=300)).validation) == 33
    assert len(load(data_settings("digits", train_images=1213)).validation) == 135


def test_subsets_keep_the_proportions_of_the_classes():
    data = load(data_settings("digits", train_images=400, test_images=100))
    full = load(data_settings("digits"))
    for part, whole in ((data.train, full.train), (data.test, full.test)):
        exact = torch.bincount(whole.labels) * len(part) / len(whole)
        assert ((torch.bincount(part.labels) - exact).abs() < 1).all()
    assert rows_of(data.test) <= rows_of(full.test)


def test_statistics_ignore_subsets_and_split_seeds():
    full = load(data_settings("digits"))
    part = load(data_settings("digits", train_images=50, split_seed=3, test_images=20))
    assert torch.equal(full.mean, part.mean)
    assert torch.equal(full.std, part.std)


def test_statistics_are_those_of_the_pixels():
    images = torch.from_numpy(pixels(7, 3, 5, 5))
    images[:, 2] = 9
    mean, std = channel_statistics(images)
    scaled = images.double() / 255
    torch.testing.assert_close(mean, scaled.mean((0, 2, 3)).float())
    torch.testing.assert_close(std[:2], scaled[:, :2].std((0, 2, 3), correction=0).float())
    assert std[2] == 1


def test_the_fingerprint_is_a_function_of_the_content():
    fingerprints = [
        load(data_settings("digits", **changes)).fingerprint
        for changes in (
            {},
            {"split_seed": 1},
            {"val_fraction": 0.2},
            {"train_images": 1000},
            {"test_images": 100},
            {"image_size": 10},
        )
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert load(data_settings("digits")).fingerprint == fingerprints[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_fraction": 1.5}, "data.val_fraction is 1.5; allowed"),
        ({"train_images": 1214}, "data.train_images is 1214; allowed: 10 .* to 1213"),
        ({"train_images": 9}, "data.train_images is 9; allowed: 10"),
        ({"test_images": 450}, "data.test_images is 450; allowed: 10 .* to 449"),
    ],
)
def test_sizes_out_of_range_are_refused_with_the_range(changes, message):
    with pytest.raises(InputError, match=message):
        load(data_settings("digits", **changes))


def test_an_unknown_data_set_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"'cifar12'.*did you mean 'cifar10'"):
        load(data_settings("cifar12"))


def test_images_check_their_tensors():
    good = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="uint8"):
        Images(good.float(), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"int64 \[2\]"):
        Images(good, torch.zeros(3, dtype=torch.int64))
