"""Batches whose pixels FFCV reads from a `.beton` file.

FFCV provides the file format, its writer, the memory map and the compiled copying of pixels. `Loader`
decides order and augmentation, because FFCV's random transforms and its quasi-random order don't repeat
across several workers. FFCV's `Loader` class isn't used: it changes torch's thread count in its
background thread, doesn't end this thread if an iteration is abandoned, and hangs after an error in this
thread.

Importing this module imports FFCV, and raises InputError if that fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from stitch_sweep.data.beton import open_beton
from stitch_sweep.data.images import Images
from stitch_sweep.data.loader import Loader

_BATCHES_AHEAD = 2
"""Number of batches that are read in advance."""


class FfcvLoader(Loader):
    """A `Loader` that reads pixels from a `.beton` file; its batches equal `Loader`'s bit for bit.

    The pixels stay in the file's memory map and are sent to the device batch by batch.

    Args:
        folder: folder of the split's file, which is written if it doesn't exist.

    Raises:
        OSError: the file can't be written or read.

    The other arguments and errors are `Loader`'s.
    """

    pixels_on_device: ClassVar[bool] = False

    def __init__(
        self, images: Images, mean: Tensor, std: Tensor, *, folder: Path, **options: Any
    ) -> None:
        super().__init__(images, mean, std, **options)
        self._beton = open_beton(images, folder)

    def read(self, groups: Sequence[Tensor]) -> Iterator[Tensor]:
        """Iterate over images as `Loader.read` does; a thread reads them from the file in advance."""
        if not groups:
            return
        sizes = [len(positions) for positions in groups]
        groups_on_cpu = torch.cat(list(groups)).cpu().split(sizes)
        # A GPU copies from pinned memory at twice the speed.
        slots = torch.empty(
            (_BATCHES_AHEAD + 1, max(sizes), *self._beton.shape),
            dtype=torch.uint8,
            pin_memory=self.device.type == "cuda",
        )
        pending: deque[Future[Tensor]] = deque()
        pool = ThreadPoolExecutor(1, "ffcv")
        try:
            for k, positions in enumerate(groups_on_cpu):
                slot = slots[k % len(slots), : len(positions)]
                pending.append(pool.submit(self._beton.read, positions, slot))
                # When every slot is in use, the oldest batch is returned. Its slot is free again
                # when the caller asks for the next batch.
                if len(pending) == len(slots):
                    yield pending.popleft().result().to(self.device)
            while pending:
                yield pending.popleft().result().to(self.device)
        finally:
            # The caller may abandon an iteration. A read in progress keeps its slot alive.
            pool.shutdown(wait=False, cancel_futures=True)
