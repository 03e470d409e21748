"""Images that a caller of the Python API gives as tensors.

A configuration is plain data, so it names such images by their hash, in the section
`data: {name: in_memory, sha256: ...}`. The images themselves are kept in this process; workers get them
as they get all images.
"""

from __future__ import annotations

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.images import channel_statistics, fingerprint
from stitch_sweep.data.sources.base import Source

_HASH_LENGTH = 16
_sources: dict[str, Source] = {}


def keep(source: Source) -> dict[str, str]:
    """Keep images in this process.

    Returns:
        Their section `data` of a configuration.
    """
    normalization = source.normalization or channel_statistics(source.train.images)
    splits = (source.train, source.validation, source.test)
    sha256 = fingerprint(tuple(split for split in splits if split is not None), *normalization)
    _sources[sha256[:_HASH_LENGTH]] = source
    return {"name": "in_memory", "sha256": sha256[:_HASH_LENGTH]}


@DATASETS.register("in_memory")
def in_memory(image_size: int | None, *, sha256: str) -> Source:
    """Images that you passed to the Python API. `ss.sweep` and `ss.matrix` write this section.

    Args:
        image_size: side of the images after resizing; None keeps them.
        sha256: the first 16 digits of the images' hash.

    Raises:
        InputError: this process doesn't keep them.
    """
    source = _sources.get(sha256)
    if source is None:
        raise InputError(
            f"data set in_memory: the images {sha256} were given in Python, and no file contains them: "
            "call stitch_sweep.sweep or stitch_sweep.matrix with these images"
        )
    return source.resized(image_size)
