"""Data sets as uint8 tensors: sources, splits, augmentation, batches.

Importing this package registers the built-in data sets.
"""

from stitch_sweep.data import parquet as _parquet  # noqa: F401  (registers itself)
from stitch_sweep.data.augmentation import AUGMENTATIONS, Augmentation, normalise
from stitch_sweep.data.duplicates import Duplicates, find_duplicates
from stitch_sweep.data.images import SPLITS, Data, Images
from stitch_sweep.data.loader import Batch, Chunk, Loader
from stitch_sweep.data.loading import load, make_loaders
from stitch_sweep.data.sources import Source

__all__ = [
    "AUGMENTATIONS",
    "SPLITS",
    "Augmentation",
    "Batch",
    "Chunk",
    "Data",
    "Duplicates",
    "Images",
    "Loader",
    "Source",
    "find_duplicates",
    "load",
    "make_loaders",
    "normalise",
]
