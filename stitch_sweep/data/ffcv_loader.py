"""Batches whose pixels FFCV reads from a file of its own format, the `.beton`.

FFCV gives the file format, the memory map and the compiled copying of pixels. Order and augmentation
are `Loader`'s: FFCV's random transforms and its quasi-random order don't repeat across several
workers. Nor are its `Loader` and `DatasetWriter` classes used. The first sets torch's threads from a
thread of its own, never ends that thread when an iteration is broken off, and waits for ever after
an error in it; the second forks, and waits for ever when one of its processes dies.

Importing this module imports FFCV, and raises InputError where that can't be done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Images
from stitch_sweep.data.loader import Loader
from stitch_sweep.storage.checkpoints import digest
from stitch_sweep.storage.files import atomic

_threads = torch.get_num_threads()
try:
    from ffcv.fields import IntField, NDArrayField
    from ffcv.memory_managers import OSCacheManager
    from ffcv.pipeline.compiler import Compiler
    from ffcv.reader import Reader
    from ffcv.types import (
        ALLOC_TABLE_TYPE,
        CURRENT_VERSION,
        TYPE_ID_HANDLER,
        FieldDescType,
        HeaderType,
        get_metadata_type,
    )
    from ffcv.writer import MIN_PAGE_SIZE
except ImportError as error:
    raise InputError(
        f"data.loader is 'ffcv', but FFCV can't be imported ({error}); to install it: make ffcv, or "
        "pip install 'ffcv>=1.0.2', after apt-get install g++ pkg-config python3-dev libopencv-dev "
        "libturbojpeg0-dev; without it: loader: torch gives the same results"
    ) from error
finally:
    torch.set_num_threads(_threads)  # importing FFCV sets it to 1

AHEAD = 2
"""Batches that are read while one is in use."""


class FfcvLoader(Loader):
    """A `Loader` that takes pixels out of a `.beton`, and gives bit for bit what `Loader` gives.

    The pixels stay where they are and are sent to the device batch by batch.

    Args:
        folder: where the split's file is, or will be written.

    Raises:
        OSError: the file can't be written or read.

    The other arguments and errors are `Loader`'s.
    """

    pixels_on_device: ClassVar[bool] = False

    def __init__(
        self, images: Images, mean: Tensor, std: Tensor, *, folder: Path, **options: Any
    ) -> None:
        super().__init__(images, mean, std, **options)
        self._beton = _open(images, folder)

    def read(self, groups: Sequence[Tensor]) -> Iterator[Tensor]:
        """As `Loader.read`, out of the file; a thread reads ahead."""
        if not groups:
            return
        sizes = [len(positions) for positions in groups]
        rows = torch.cat(list(groups)).cpu().split(sizes)
        # Pinned for a GPU, which copies from elsewhere at half the speed.
        slots = torch.empty(
            (AHEAD + 1, max(sizes), *self._beton.shape),
            dtype=torch.uint8,
            pin_memory=self.device.type == "cuda",
        )
        reading: deque[Future[Tensor]] = deque()
        pool = ThreadPoolExecutor(1, "ffcv")
        try:
            for k, positions in enumerate(rows):
                into = slots[k % len(slots), : len(positions)]
                reading.append(pool.submit(self._beton.read, positions, into))
                # With every slot filled or being filled, the oldest one is handed out; it is free
                # again when the next batch is asked for.
                if len(reading) == len(slots):
                    yield reading.popleft().result().to(self.device)
            while reading:
                yield reading.popleft().result().to(self.device)
        finally:
            # An iteration may be broken off. What is still being read keeps its slot alive.
            pool.shutdown(wait=False, cancel_futures=True)


class _Beton:
    """One split's file, opened.

    Args:
        path: the file; it is written if it isn't there whole.
        images: what is or will be in it.

    Attributes:
        shape: (C, H, W) of every image.
    """

    _copy: ClassVar[Any] = None  # compiled once per process: it is the same for every file

    def __init__(self, path: Path, images: Images) -> None:
        _ensure(path, images.to("cpu"))
        reader = Reader(str(path))
        memory = OSCacheManager(reader)
        field = reader.handlers["image"]
        self._places = reader.metadata["f0"]
        if _Beton._copy is None:
            decoder = field.get_decoder_class()()
            decoder.accept_field(field)
            decoder.accept_globals(self._places, memory.compile_reader())
            _Beton._copy = Compiler.compile(decoder.generate_code())
        with memory.schedule_epoch([]) as context:
            self._state = context.state
        self.shape: tuple[int, int, int] = field.shape

    def read(self, positions: Tensor, into: Tensor) -> Tensor:
        """Copy images; other threads run meanwhile.

        Args:
            positions: int64 `B`, on the CPU.
            into: uint8 `B x C x H x W`, on the CPU, contiguous.

        Returns:
            `into`.
        """
        _Beton._copy(positions.numpy(), into.numpy(), self._places, self._state)
        return into


_opened: WeakKeyDictionary[Images, dict[Path, _Beton]] = WeakKeyDictionary()


def _open(images: Images, folder: Path) -> _Beton:
    """The split's file, opened once per process: hashing, checking and compiling take their time."""
    found = _opened.setdefault(images, {})
    if folder not in found:
        name = digest({"images": images.images, "labels": images.labels})
        found[folder] = _Beton(folder / f"{name}.beton", images)
    return found[folder]


def _ensure(path: Path, images: Images) -> None:
    """Write the file, unless it is there and holds these images and nothing else."""
    if _holds(path, images):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # So that it is written once; were the lock to fail, each writer would still write a whole file.
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not _holds(path, images):
            with atomic(path) as temporary, temporary.open("wb") as file:
                file.writelines(_blocks(images))


def _holds(path: Path, images: Images) -> bool:
    """Compare the file with what it should be, byte by byte."""
    try:
        with path.open("rb") as file:
            return all(
                file.read(len(block)) == block for block in _blocks(images)
            ) and not file.read(1)
    except FileNotFoundError:
        return False


def _blocks(images: Images) -> Iterator[bytes]:
    """The file's bytes in their order: those that FFCV's `DatasetWriter` writes with one worker.

    Its fields are `image`, uint8 `C x H x W`, and `label`. Every image lies within one page.
    """
    pixels, labels = images.images.contiguous().numpy(), images.labels.numpy()
    fields = {"image": NDArrayField(np.dtype("u1"), pixels.shape[1:]), "label": IntField()}
    size = pixels[0].size
    # At most a sixteenth of a page is lost at its end.
    page = max(MIN_PAGE_SIZE, 1 << (16 * size - 1).bit_length())
    per_page = page // size
    header = np.zeros(1, HeaderType)
    descriptions = np.zeros(len(fields), FieldDescType)
    samples = np.zeros(len(pixels), get_metadata_type(list(fields.values())))
    table = np.zeros(len(pixels), ALLOC_TABLE_TYPE)
    before = header.nbytes + descriptions.nbytes + samples.nbytes
    first_page = -(-before // page)
    pages = -(-len(pixels) // per_page)

    type_ids = {handler: number for number, handler in TYPE_ID_HANDLER.items()}
    for description, (name, field) in zip(descriptions, fields.items(), strict=True):
        description["type_id"] = type_ids[type(field)]
        description["name"][: len(name)] = list(name.encode())
        description["arguments"] = field.to_binary()[0]
    number = np.arange(len(pixels))
    samples["f0"] = (first_page + number // per_page) * page + number % per_page * size
    samples["f1"] = labels
    table["sample_id"], table["ptr"], table["size"] = number, samples["f0"], size
    header["version"], header["num_fields"], header["page_size"] = (
        CURRENT_VERSION,
        len(fields),
        page,
    )
    header["num_samples"], header["alloc_table_ptr"] = len(pixels), (first_page + pages) * page

    start = header.tobytes() + descriptions.tobytes() + samples.tobytes()
    yield start.ljust(first_page * page, b"\0")
    for first in range(0, len(pixels), per_page):
        yield pixels[first : first + per_page].tobytes().ljust(page, b"\0")
    yield table.tobytes()
