"""Encoding of predicted classes in a trial's record."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from stitch_sweep.core.errors import InputError

_LARGEST = 2**28
"""Largest size of decoded predictions, in bytes: a few hundred million test images."""


def encode_predictions(predictions: np.ndarray) -> dict[str, str]:
    """Encode predicted classes as plain data.

    Args:
        predictions: int [N], the class predicted for each test image.
    """
    small = predictions.astype(np.min_scalar_type(int(predictions.max(initial=0))))
    return {
        "dtype": str(small.dtype),
        "zlib": base64.b64encode(zlib.compress(small.tobytes())).decode(),
    }


def decode_predictions(record: Mapping[str, Any]) -> np.ndarray | None:
    """Return the class predicted for each test image, int [N]; None if the record has no predictions.

    Raises:
        InputError: the predictions are damaged, or larger than `_LARGEST`.
    """
    encoded = record.get("predictions")
    if encoded is None:
        return None
    try:
        decompressor = zlib.decompressobj()
        packed = base64.b64decode(encoded["zlib"], validate=True)
        data = decompressor.decompress(packed, _LARGEST)
        if not decompressor.eof:
            raise ValueError("cut off, or too large")
        return np.frombuffer(data, dtype=encoded["dtype"])
    except (zlib.error, binascii.Error, ValueError) as error:
        raise InputError(
            f"trial {record['trial']}: its predictions can't be unpacked ({error}); remove its record "
            "to run it again"
        ) from None
