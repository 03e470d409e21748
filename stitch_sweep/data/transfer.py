"""A data set as NumPy arrays: its form on the way to other processes, such as Ray's object store."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from stitch_sweep.core.splits import SPLITS
from stitch_sweep.data.images import Data, Images


def data_to_arrays(data: Data) -> dict[str, Any]:
    """Convert a data set to NumPy arrays, which the processes of a node read from shared memory."""
    splits = {split: getattr(data, split) for split in SPLITS}
    return {
        "splits": {k: (v.images.numpy(), v.labels.numpy(), v.files) for k, v in splits.items()},
        "rest": {f.name: getattr(data, f.name) for f in fields(data) if f.name not in splits},
    }


def data_from_arrays(arrays: Mapping[str, Any]) -> Data:
    """Convert the arrays of `data_to_arrays` back to a data set, without a copy."""
    with warnings.catch_warnings():
        # The arrays are read-only, and images are never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        splits: dict[str, Any] = {
            split: Images(torch.from_numpy(images), torch.from_numpy(labels), files)
            for split, (images, labels, files) in arrays["splits"].items()
        }
    return Data(**splits, **arrays["rest"])
