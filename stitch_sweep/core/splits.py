"""Names of the three splits of a data set."""

from __future__ import annotations

SPLITS = ("train", "validation", "test")
SHORT_SPLITS = {"train": "train", "validation": "val", "test": "test"}
"""Names of the splits in columns and metrics, as in `val_accuracy`."""
