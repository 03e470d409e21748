"""Images and labels of torch data sets and loaders, in a fixed order."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.raw_images import RawImages

_READ_TWICE = 8
"""Number of images that are read a second time, to find random augmentation."""


def read_loader(loader: DataLoader[Any], place: str) -> RawImages:
    """Read the images of a loader in the order of its data set; shuffling and batches have no effect.

    Args:
        loader: of single images with labels.
        place: its place in messages.

    Raises:
        InputError: the loader changes or chooses images in a way that can't be repeated.
    """
    dataset: Dataset[Any] = loader.dataset
    if loader.batch_size is not None and loader.collate_fn is not default_collate:
        raise InputError(
            f"{place}: the DataLoader makes its batches with a collate_fn, which may change images; give "
            "the Dataset, or the tensors (images, labels)"
        )
    if isinstance(dataset, IterableDataset):
        return read_dataset(dataset, place)
    sampler = loader.sampler
    if type(sampler) is SubsetRandomSampler:
        return read_dataset(Subset(dataset, sorted(map(int, sampler.indices))), place)
    is_whole = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    )
    if not is_whole:
        raise InputError(
            f"{place}: the DataLoader chooses images with a {type(sampler).__name__}; give the Dataset, "
            "or a torch.utils.data.Subset of it"
        )
    return read_dataset(dataset, place)


def read_dataset(dataset: Dataset[Any], place: str) -> RawImages:
    """Read every image and label of a data set.

    Args:
        dataset: of pairs (image, label); an image is a tensor, an array or a Pillow image.
        place: its place in messages.

    Raises:
        InputError: an item is no such pair, images differ in shape, or reading an image twice gives
            different values.
    """
    classes = getattr(dataset, "classes", None)
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return RawImages(*dataset.tensors, classes)
    if isinstance(dataset, IterableDataset):
        items = list(dataset)
    elif isinstance(dataset, Sized):
        items = [dataset[k] for k in range(len(dataset))]
    else:
        raise InputError(f"{place}: {type(dataset).__name__} has no length; define __len__")
    if not items:
        raise InputError(f"{place}: {type(dataset).__name__} has no images")
    pairs = [_read_item(item, k, place) for k, item in enumerate(items)]
    if not isinstance(dataset, IterableDataset):
        for k in range(min(_READ_TWICE, len(pairs))):
            if not _is_equal(pairs[k][0], _read_item(dataset[k], k, place)[0]):
                raise InputError(
                    f"{place}: image {k} has other values when it is read again, as with random "
                    "augmentation; give the data set without it (augment: crop_flip augments training "
                    "images)"
                )
    images = [image for image, _ in pairs]
    for k, image in enumerate(images):
        if image.shape != images[0].shape:
            raise InputError(
                f"{place}: image {k} has the shape {list(image.shape)}, and image 0 "
                f"{list(images[0].shape)}; give the data set a transform that makes all images equally "
                "large"
            )
    return RawImages(torch.stack(images), [label for _, label in pairs], classes)


def _read_item(item: Any, number: int, place: str) -> tuple[Tensor, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InputError(
            f"{place}: item {number} is a {type(item).__name__}, but a pair (image, label) is required; "
            "wrap the data set, or give the tensors (images, labels)"
        )
    image, label = item
    try:
        tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    except TypeError:
        raise InputError(
            f"{place}: the image of item {number} is a {type(image).__name__}, but a tensor, an array or "
            "a Pillow image is required"
        ) from None
    return tensor, label.item() if isinstance(label, Tensor) and label.numel() == 1 else label


def _is_equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)
