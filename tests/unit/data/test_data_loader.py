"""Batches are functions of seed and epoch, and evaluation sees every image once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.augmentation import (
    AUGMENTATIONS,
    crop_flip,
    draw_crop_flip,
    normalize_images,
)
from stitch_sweep.data.batches import Batch, choose_batch_size
from stitch_sweep.data.images import Images
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import make_loaders
from tests.support.image_files import random_images


def loader(count: int = 23, batch_size: int = 5, seed: int = 0, augment: str = "crop_flip"):
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.25])
    return Loader(
        random_images(count), mean, std, batch_size=batch_size, seed=seed, augment=augment
    )


def tensors(batch: Batch) -> list[torch.Tensor]:
    return [batch.indices, batch.images, batch.labels]


def joined(batches) -> list[torch.Tensor]:
    return [torch.cat(parts) for parts in zip(*map(tensors, batches), strict=True)]


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(0, 3))
def test_batch_size_changes_nothing_but_the_grouping(batch_size, epoch):
    expected = joined(loader(batch_size=23).batches(epoch))
    actual = joined(loader(batch_size=batch_size).batches(epoch))
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("start", range(6))
def test_an_epoch_resumed_at_any_batch_goes_on_as_it_would_have(start):
    full = list(loader().batches(3))
    rest = list(loader().batches(3, start=start))
    assert len(rest) == len(full) - start
    for expected, actual in zip(full[start:], rest, strict=True):
        assert all(map(torch.equal, tensors(expected), tensors(actual)))


def test_an_epoch_holds_every_image_once_and_the_last_batch_is_partial():
    batches = list(loader().batches(0))
    assert [len(batch.labels) for batch in batches] == [5, 5, 5, 5, 3]
    assert [batch.valid for batch in batches] == [5, 5, 5, 5, 3]
    assert {batch.split for batch in batches} == {"train"}
    assert len(loader()) == 5
    assert joined(batches)[0].sort().values.tolist() == list(range(23))


def test_batches_hold_the_images_and_labels_that_their_indices_name():
    quiet = loader(augment="none")
    for indices, images, labels in map(tensors, quiet.batches(2)):
        split = quiet.images.select(indices)
        assert torch.equal(labels, split.labels)
        by_hand = (split.images.double() / 255 - quiet.mean[:, None, None]) / quiet.std[
            :, None, None
        ]
        torch.testing.assert_close(images, by_hand.float())
        assert images.dtype == torch.float32


def test_order_and_augmentation_are_functions_of_seed_and_epoch():
    again, same = joined(loader().batches(1)), joined(loader().batches(1))
    assert all(map(torch.equal, again, same))
    for other in (loader().batches(2), loader(seed=1).batches(1)):
        indices, images, _ = joined(other)
        assert not torch.equal(indices, again[0])
        # The augmentation of an image differs, too.
        assert not torch.equal(images[indices.argsort()], again[1][again[0].argsort()])


def test_global_random_state_is_neither_used_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = joined(loader().batches(0))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert all(map(torch.equal, first, joined(loader().batches(0))))


@pytest.mark.parametrize("start", [0, 2, 5])
def test_indices_alone_are_those_of_the_batches(start):
    alone = list(loader().indices(4, start))
    batches = [batch.indices for batch in loader().batches(4, start)]
    assert len(alone) == len(batches) == 5 - start
    assert all(map(torch.equal, alone, batches))


@pytest.mark.parametrize("start", [-1, 6])
def test_a_start_outside_the_epoch_is_refused(start):
    with pytest.raises(ValueError, match=f"start is {start}"):
        list(loader().batches(0, start))


@pytest.mark.parametrize("chunk", [1, 4, 23, 60])
def test_evaluation_sees_every_image_in_order_in_chunks_of_one_size(chunk):
    evaluated = loader()
    images, labels, indices = [], [], []
    for batch in evaluated.in_order(chunk):
        assert len(batch.images) == len(batch.labels) == len(batch.indices) == chunk
        images.append(batch.images[: batch.valid])
        labels.append(batch.labels[: batch.valid])
        indices.append(batch.indices[: batch.valid])
    stored = evaluated.images
    assert torch.cat(indices).tolist() == list(range(23))
    assert torch.equal(torch.cat(labels), stored.labels)
    assert torch.equal(
        torch.cat(images), normalize_images(stored.images, evaluated.mean, evaluated.std)
    )


def test_padding_of_the_last_chunk_repeats_images_from_the_beginning():
    *_, last = loader().in_order(10)
    first = next(loader().in_order(10))
    assert last.valid == 3
    assert torch.equal(last.images[3:], first.images[:7])
    assert torch.equal(last.labels[3:], first.labels[:7])
    assert torch.equal(last.indices[3:], first.indices[:7])


@pytest.mark.parametrize("limit", [1, 5, 22, 23, 60])
def test_a_sample_is_spread_over_images_that_are_sorted_by_class(limit):
    """Neighbors in the sample are equally far apart, up to one; a limit above the number means all."""
    chunks = list(loader().in_order(4, limit=limit))
    assert all(len(chunk.indices) == 4 for chunk in chunks)
    indices = torch.cat([chunk.indices[: chunk.valid] for chunk in chunks])
    assert len(indices) == min(limit, 23)
    steps = set(torch.cat([indices, torch.tensor([23])]).diff().tolist())
    assert indices[0] == 0
    assert max(steps) - min(steps) <= 1


@given(images=st.integers(1, 10**6))
def test_auto_is_the_largest_batch_that_leaves_enough_steps(images):
    size = choose_batch_size("auto", images)
    assert size in (16, 32, 64, 128, 256)
    assert size == 16 or math.ceil(images / size) >= 140
    assert size == 256 or math.ceil(images / (2 * size)) < 140


def test_a_loader_chooses_batches_by_the_training_images(digits):
    """The size holds for all splits, whatever their own number of images."""
    loaders = make_loaders(digits, "auto", seed=0)
    assert {loader.batch_size for loader in loaders.values()} == {16}
    assert len(next(loaders["train"].batches(0)).labels) == 16


def test_the_loader_leaves_the_stored_images_alone():
    used = loader()
    before = used.images.images.clone()
    list(used.batches(0))
    list(used.in_order(7))
    assert torch.equal(before, used.images.images)


def test_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="did you mean 'crop_flip'"):
        loader(augment="cropflip")
    with pytest.raises(ValueError, match="0 images"):
        loader(count=0)
    with pytest.raises(ValueError, match="batches of 0"):
        loader(batch_size=0)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 7)])
def test_every_augmentation_keeps_shape_type_and_its_input(name, channels, size):
    images = random_images(6, channels, size).images
    before = images.clone()
    augmentation = AUGMENTATIONS[name]
    draws = augmentation.draw(6, size, torch.Generator().manual_seed(0))
    changed = augmentation.apply(images, draws)
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    assert len(draws) == 6
    assert torch.equal(images, before)


@pytest.mark.parametrize(("channels", "size", "padding"), [(3, 32, 4), (1, 8, 1), (1, 7, 0)])
def test_crop_flip_cuts_the_window_that_was_drawn(channels, size, padding):
    images = random_images(40, channels, size).images
    draws = draw_crop_flip(40, size, torch.Generator().manual_seed(1))
    changed = crop_flip(images, draws)
    for image, (top, left, flip), result in zip(images, draws.tolist(), changed, strict=True):
        padded = torch.zeros(channels, size + 2 * padding, size + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + size, padding : padding + size] = image
        window = padded[:, top : top + size, left : left + size]
        assert torch.equal(result, window.flip(-1) if flip else window)


@pytest.mark.parametrize("augment", ["alternating_flip", "crop_alternating_flip"])
def test_an_alternating_flip_mirrors_every_image_in_exactly_every_other_epoch(augment):
    """With a mark in the left half of every image, a mirrored one has its mark in the right half."""
    images = torch.zeros(60, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 12:20, 6:10] = 255
    marked = Images(images, torch.zeros(60, dtype=torch.int64))
    options = {"batch_size": 7, "seed": 3, "augment": augment}
    mirrored = []
    for epoch in range(4):
        flips = torch.empty(60, dtype=torch.bool)
        # A loader of its own for each epoch: nothing is remembered between them.
        for batch in Loader(marked, torch.zeros(3), torch.ones(3), **options).batches(epoch):
            halves = batch.images.unflatten(3, (2, 16)).sum(dim=(1, 2, 4))
            assert (halves.min(dim=1).values == 0).all()
            flips[batch.indices] = halves[:, 1] > 0
        mirrored.append(flips)
    first = mirrored[0]
    assert 15 < first.sum() < 45, "the first flips are random"
    for epoch, flips in enumerate(mirrored):
        assert torch.equal(flips, first ^ bool(epoch % 2)), epoch
    other = Loader(marked, torch.zeros(3), torch.ones(3), **{**options, "seed": 4})
    assert not torch.equal(joined(other.batches(0))[1], joined(other.batches(1))[1])


def test_alternating_crops_differ_in_every_epoch_and_are_those_of_crop_flip():
    plain, alternating = (AUGMENTATIONS[n] for n in ("crop_flip", "crop_alternating_flip"))
    draws = [alternating.draw_epoch(50, 32, 0, epoch) for epoch in range(3)]
    for epoch in range(3):
        expected = plain.draw_epoch(50, 32, 0, epoch)
        assert torch.equal(draws[epoch][:, :2], expected[:, :2])
    assert torch.equal(draws[0], plain.draw_epoch(50, 32, 0, 0))
    assert not torch.equal(draws[0][:, :2], draws[2][:, :2])


def test_draws_cover_every_shift_and_flip_half_of_the_images():
    draws = draw_crop_flip(20_000, 32, torch.Generator().manual_seed(0))
    for axis in (0, 1):
        counts = torch.bincount(draws[:, axis], minlength=9)
        assert len(counts) == 9
        assert (counts - 20_000 / 9).abs().max() < 5 * (20_000 / 9) ** 0.5
    assert abs(draws[:, 2].double().mean() - 0.5) < 5 * 0.5 / 20_000**0.5
    # Shifts and flips are independent.
    assert torch.corrcoef(draws.T.double()).triu(1).abs().max() < 5 / 20_000**0.5


@given(st.integers(1, 40))
@settings(max_examples=15)
def test_normalization_of_an_image_does_not_depend_on_its_batch(count):
    images = random_images(40, size=5).images
    mean, std = torch.tensor([0.49, 0.48, 0.44]), torch.tensor([0.24, 0.24, 0.26])
    assert torch.equal(
        normalize_images(images[:count], mean, std), normalize_images(images, mean, std)[:count]
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_order_and_crops():
    cpu = loader()
    gpu = Loader(
        cpu.images, cpu.mean, cpu.std, batch_size=5, seed=0, augment="crop_flip", device="cuda"
    )
    for expected, actual in zip(cpu.batches(1), gpu.batches(1), strict=True):
        assert actual.images.device.type == actual.indices.device.type == "cuda"
        assert torch.equal(expected.indices, actual.indices.cpu())
        torch.testing.assert_close(expected.images, actual.images.cpu())
