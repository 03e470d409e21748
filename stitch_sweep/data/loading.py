"""Load the data set of a configuration, cut it into splits, and make loaders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stitch_sweep.core.bounds import BatchSize
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.core.splits import SPLITS
from stitch_sweep.data.batches import choose_batch_size
from stitch_sweep.data.images import Data, channel_statistics, fingerprint
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.names import join_names
from stitch_sweep.data.sources.base import Source
from stitch_sweep.data.splits import (
    choose_subset,
    cut_validation,
    stratified_sample,
    validation_size,
)

if TYPE_CHECKING:
    from stitch_sweep.config.data import DataConfig


def load(config: DataConfig) -> Data:
    """Load a data set, resize it, and cut it into training, validation and test images.

    Validation is cut from the whole official training set before `train_images` draws a subset of the
    remaining images. Two sweeps with the same `split_seed` and `val_fraction` therefore never train on
    each other's validation images, for all choices of subsets. With `train_images`, validation shrinks in
    proportion.

    A source's own validation images are used as they are, and nothing is cut.

    Mean and standard deviation are those of the complete official training images at `image_size`, so
    subsets and split seeds don't change the scale of a network's input. A source may have others.

    Args:
        config: the section `data`. `loader` and `beton_folder` change none of the images.

    Raises:
        InputError: the data is missing or unusable, a size or fraction is out of range, or FFCV is
            selected and can't be imported.
    """
    beton_folder = _resolve_beton_folder(config)
    source = DATASETS.build(config.name, config.image_size, options=config.options)
    if not isinstance(source, Source):
        raise InputError(
            f"data set {config.name}: returned a {type(source).__name__}, not a Source"
        )
    _check_classes(config.name, source)
    num_classes = len(source.classes)
    labels = source.train.labels
    mean, std = source.normalization or channel_statistics(source.train.images)

    validation: Tensor | None = None
    if source.validation is None:
        train, validation = cut_validation(
            labels, config.val_fraction, config.split_seed, source.classes
        )
    else:
        train = torch.arange(len(labels))
    if config.train_images is not None:
        chosen = choose_subset(
            labels[train],
            config.train_images,
            config.split_seed,
            "train",
            "data.train_images",
            num_classes,
        )
        train = train[chosen]
        if validation is not None:
            size = validation_size(
                config.train_images, config.val_fraction, num_classes, len(validation)
            )
            validation = validation[
                stratified_sample(labels[validation], size, config.split_seed, "validation subset")
            ]
    test = source.test
    if config.test_images is not None:
        test = test.select(
            choose_subset(
                test.labels,
                config.test_images,
                config.split_seed,
                "test",
                "data.test_images",
                num_classes,
            )
        )
    held_out = source.validation if validation is None else source.train.select(validation)
    assert held_out is not None
    splits = (source.train.select(train), held_out, test)
    return Data(
        config.name,
        *splits,
        source.classes,
        mean,
        std,
        fingerprint(splits, mean, std),
        beton_folder,
        (*source.notes, *_untested_classes(config.name, source)),
    )


def make_loaders(
    data: Data,
    batch_size: BatchSize,
    *,
    seed: int,
    augment: str = "none",
    device: str | torch.device = "cpu",
) -> dict[str, Loader]:
    """Make a loader for each split, all on `device`: FFCV's if `data.beton_folder` is set.

    Training batches of all splits have the size for the training images; see `choose_batch_size`.

    Raises:
        InputError: FFCV is selected and can't be imported.
    """
    make: Callable[..., Loader] = Loader
    if data.beton_folder is not None:
        # Not at the top: FFCV is optional and takes seconds to import.
        from stitch_sweep.data.ffcv_loader import FfcvLoader

        make = partial(FfcvLoader, folder=Path(data.beton_folder))
    size = choose_batch_size(batch_size, len(data.train))
    return {
        split: make(
            getattr(data, split),
            data.mean,
            data.std,
            batch_size=size,
            seed=seed,
            augment=augment,
            device=device,
            split=split,
        )
        for split in SPLITS
    }


def _resolve_beton_folder(config: DataConfig) -> str | None:
    """Return the absolute path of the folder for FFCV's files; None without FFCV.

    Raises:
        InputError: FFCV can't be imported, or the folder is a file.
    """
    if config.loader != "ffcv":
        return None
    import_module("stitch_sweep.data.ffcv_loader")
    folder = Path(config.beton_folder).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"data.beton_folder: {config.beton_folder} is a file; name a folder")
    return str(folder)


def _untested_classes(name: str, source: Source) -> list[str]:
    """Return a note on classes without test images, if there are any."""
    counts = torch.bincount(source.test.labels, minlength=len(source.classes)).tolist()
    missing = [label for label, count in zip(source.classes, counts, strict=True) if not count]
    if not missing:
        return []
    return [f"data set {name}: no test image belongs to class {join_names(missing)}"]


def _check_classes(name: str, source: Source) -> None:
    """Check that labels fit the classes, and that every class has training images.

    Raises:
        InputError: with all problems.
    """
    problems = []
    last = len(source.classes) - 1
    splits = {"training": source.train, "validation": source.validation, "test": source.test}
    for split, images in splits.items():
        if images is None:
            continue
        invalid = images.labels[(images.labels < 0) | (images.labels > last)]
        if len(invalid):
            problems.append(
                f"data set {name}: {split} images have the label {int(invalid[0])}; allowed: 0 to "
                f"{last}, because the training images have {last + 1} classes"
            )
    if problems:
        raise InputError(*problems)
    counts = torch.bincount(source.train.labels, minlength=last + 1).tolist()
    problems += [
        f"data set {name}: class {source.classes[c]!r} has no training image"
        for c, count in enumerate(counts)
        if not count
    ]
    if last < 1:
        problems.append(f"data set {name}: there is one class; classification needs at least two")
    if problems:
        raise InputError(*problems)
