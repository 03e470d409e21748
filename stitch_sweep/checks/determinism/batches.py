"""The batches of a recording: data set, transforms, and the images of the first and last batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from stitch_sweep.checks.determinism.kept_tensors import KeptTensors
from stitch_sweep.checks.inspection import sha256_of
from stitch_sweep.config.root import Config
from stitch_sweep.core import seeding
from stitch_sweep.core.splits import SPLITS
from stitch_sweep.data.augmentation import AUGMENTATIONS
from stitch_sweep.data.batches import CHUNK, Batch
from stitch_sweep.data.images import Data, Images
from stitch_sweep.data.loader import Loader

_EVALUATED = ("validation", "test")


def describe_batches(
    config: Config, data: Data, loaders: Mapping[str, Loader], kept: KeptTensors
) -> dict[str, Any]:
    """Describe how images become batches, and the first and last batches of each split.

    Returns:
        The content of `batch_info.json`.
    """
    train = loaders["train"]
    batches = [_training_batch(train, 0, 0, kept)]
    if len(train) > 1:
        batches.append(_training_batch(train, 0, len(train) - 1, kept))
    batches.append(_training_batch(train, 1, 0, kept))
    for split in _EVALUATED:
        batches += _evaluation_chunks(loaders[split], kept)
    return {
        "data_set": {"name": data.name, "classes": list(data.classes), "sha256": data.fingerprint},
        "splits": {split: _describe_split(getattr(data, split)) for split in SPLITS},
        "loaders": _describe_loaders(config, loaders),
        "transforms": _describe_transforms(config, data, train),
        "batches": batches,
    }


def _describe_split(images: Images) -> dict[str, Any]:
    names = None if images.files is None else "\n".join(images.files)
    return {
        "images": len(images),
        "files_sha256": None if names is None else hashlib.sha256(names.encode()).hexdigest(),
        "labels_sha256": sha256_of(images.labels),
        "images_sha256": sha256_of(images.images),
    }


def _describe_loaders(config: Config, loaders: Mapping[str, Loader]) -> dict[str, Any]:
    train = loaders["train"]
    return {
        "train": {
            "loader": config.data.loader,
            "batch_size": train.batch_size,
            "batches": len(train),
            "last_batch": len(train.images) - (len(train) - 1) * train.batch_size,
            "order": "shuffled again every epoch, from the seed and the epoch",
            "seed": train.seed,
        },
        **{
            split: {
                "loader": config.data.loader,
                "chunk": CHUNK,
                "chunks": -(-len(loaders[split].images) // CHUNK),
                "order": "as stored; the last chunk is filled up from the beginning",
            }
            for split in _EVALUATED
        },
    }


def _describe_transforms(config: Config, data: Data, train: Loader) -> dict[str, Any]:
    resized = "bilinear, with antialiasing" if config.data.image_size else "not resized"
    steps = {
        "image_shape": list(data.image_shape),
        "resizing": resized,
        "normalisation": {
            "formula": "(value / 255 - mean) / std",
            "mean": data.mean.tolist(),
            "std": data.std.tolist(),
        },
        "result": "float32",
    }
    augmentations = {"train": train.augment, **dict.fromkeys(_EVALUATED, "none")}
    return {
        split: {**steps, "augmentation": _describe_augmentation(name, data.image_size)}
        for split, name in augmentations.items()
    }


def _describe_augmentation(name: str, size: int) -> dict[str, Any]:
    """Describe an augmentation, and the range of its random numbers for this image size."""
    draws = AUGMENTATIONS[name].draw(4096, size, seeding.generator("determinism"))
    return {
        "name": name,
        "numbers_per_image": draws.shape[1],
        "smallest": draws.amin(dim=0).tolist(),
        "largest": draws.amax(dim=0).tolist(),
        "sha256": sha256_of(draws),
    }


def _training_batch(loader: Loader, epoch: int, k: int, kept: KeptTensors) -> dict[str, Any]:
    batch = next(loader.batches(epoch, k))
    return _describe_batch(f"training batch {k} of epoch {epoch}", loader, batch, kept)


def _evaluation_chunks(loader: Loader, kept: KeptTensors) -> Iterator[dict[str, Any]]:
    """Yield the first and the last chunk of an evaluation, without its padding."""
    last = (len(loader.images) - 1) // CHUNK
    for k, batch in enumerate(loader.in_order()):
        if k in (0, last):
            yield _describe_batch(f"{loader.split} chunk {k}", loader, batch, kept)


def _describe_batch(place: str, loader: Loader, batch: Batch, kept: KeptTensors) -> dict[str, Any]:
    indices, labels = batch.indices[: batch.valid], batch.labels[: batch.valid]
    # Read again with the loader, which may not have the images in memory.
    (raw,) = loader.read([indices])
    raw, images = raw.cpu(), batch.images[: batch.valid].cpu()
    kept.keep(f"images/{place}", raw)
    kept.keep(f"transformed/{place}", images)
    files = loader.images.files
    positions = indices.tolist()
    return {
        "place": place,
        "split": batch.split,
        "shape": list(raw.shape),
        "indices": positions,
        "files": None if files is None else [files[k] for k in positions],
        "labels": labels.tolist(),
        "images_sha256": sha256_of(raw),
        "images": [sha256_of(image)[:16] for image in raw],
        "transformed_sha256": sha256_of(images),
        "transformed": [sha256_of(image)[:16] for image in images],
    }
