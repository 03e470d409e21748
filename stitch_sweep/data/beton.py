"""Files of FFCV's format, `.beton`: write, verify and open the file of one split.

Importing this module imports FFCV, and raises InputError if that fails.
"""

from __future__ import annotations

import ctypes
import hashlib
from multiprocessing import Value
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Images
from stitch_sweep.storage.digests import digest
from stitch_sweep.storage.files import atomic, write_atomically

_torch_threads = torch.get_num_threads()
try:
    from ffcv.fields import IntField, NDArrayField
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.memory_managers import OSCacheManager
    from ffcv.pipeline.compiler import Compiler
    from ffcv.reader import Reader
    from ffcv.writer import MIN_PAGE_SIZE, DatasetWriter, worker_job_indexed_dataset
except ImportError as error:
    raise InputError(
        f"data.loader is 'ffcv', but FFCV can't be imported ({error}); to install it: make ffcv, or "
        "pip install 'ffcv>=1.0.2', after apt-get install g++ pkg-config python3-dev libopencv-dev "
        "libturbojpeg0-dev; without it: loader: torch gives the same results"
    ) from error
finally:
    torch.set_num_threads(_torch_threads)  # importing FFCV sets it to 1


class Beton:
    """The file of one split, opened for reading.

    Args:
        path: the file; it is written if it doesn't exist or is damaged.
        images: the content of the file.

    Attributes:
        shape: (C, H, W) of every image.
    """

    _copy_pixels: ClassVar[Any] = None  # compiled once per process; the code fits every file

    def __init__(self, path: Path, images: Images) -> None:
        _ensure_file(path, images.to("cpu"))
        reader = Reader(str(path))
        memory = OSCacheManager(reader)
        field = reader.handlers["image"]
        self._addresses = reader.metadata["f0"]
        if Beton._copy_pixels is None:
            decoder = field.get_decoder_class()()
            decoder.accept_field(field)
            decoder.accept_globals(self._addresses, memory.compile_reader())
            Beton._copy_pixels = Compiler.compile(decoder.generate_code())
        with memory.schedule_epoch([]) as context:
            self._memory_state = context.state
        self.shape: tuple[int, int, int] = field.shape

    def read(self, positions: Tensor, destination: Tensor) -> Tensor:
        """Copy images; other threads run in the meantime.

        Args:
            positions: int64 `B`, on the CPU.
            destination: uint8 `B x C x H x W`, on the CPU, contiguous.

        Returns:
            `destination`.
        """
        Beton._copy_pixels(
            positions.numpy(), destination.numpy(), self._addresses, self._memory_state
        )
        return destination


_opened: WeakKeyDictionary[Images, dict[Path, Beton]] = WeakKeyDictionary()


def open_beton(images: Images, folder: Path) -> Beton:
    """Open the file of a split in `folder`, once per process: hashing and compiling take time.

    The file is named after the hash of images and labels.
    """
    by_folder = _opened.setdefault(images, {})
    if folder not in by_folder:
        name = digest({"images": images.images, "labels": images.labels})
        by_folder[folder] = Beton(folder / f"{name}.beton", images)
    return by_folder[folder]


def _ensure_file(path: Path, images: Images) -> None:
    """Write the file, unless it exists and matches its checksum."""
    if _is_intact(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock only saves work: without it, each process would write the complete file.
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not _is_intact(path):
            with atomic(path) as temporary:
                write_beton(temporary, images)
                checksum = _hash_file(temporary)
            write_atomically(_checksum_path(path), f"{checksum}  {path.name}\n".encode())


def _is_intact(path: Path) -> bool:
    """Return whether the file matches its checksum; False if one of the two is missing."""
    try:
        expected = _checksum_path(path).read_bytes()
        return expected == f"{_hash_file(path)}  {path.name}\n".encode()
    except FileNotFoundError:
        return False


def _checksum_path(path: Path) -> Path:
    """Return the path of the checksum file of `path`; its format is that of `sha256sum`."""
    return path.with_name(f"{path.name}.sha256")


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_beton(path: Path, images: Images) -> None:
    """Write images and labels with FFCV's writer.

    The fields are `image`, uint8 `C x H x W`, and `label`. Every image lies within one page.

    The steps are those of `DatasetWriter.from_indexed_dataset` with one worker, run in this process.
    FFCV runs the worker in a forked process and polls its progress without a limit, so it hangs if
    the worker dies, for example on a full disk; a fork of a process with threads (torch, Ray) can
    hang as well.
    """
    shape = tuple(images.images.shape[1:])
    # At most a sixteenth of a page remains unused at its end.
    page_size = max(MIN_PAGE_SIZE, 1 << (16 * images.images[0].numel() - 1).bit_length())
    fields = {"image": NDArrayField(np.dtype("u1"), shape), "label": IntField()}
    writer = DatasetWriter(str(path), fields, page_size, num_workers=1)
    writer.num_samples = len(images)
    writer.prepare()
    # No other process reads the metadata, so ordinary memory replaces the shared memory.
    writer.metadata_sm.close()
    writer.metadata_sm.unlink()
    writer.metadata_sm = SimpleNamespace(buf=bytearray(len(images) * writer.metadata_type.itemsize))

    tasks: SimpleQueue[list[tuple[int, int]] | None] = SimpleQueue()
    tasks.put([(k, k) for k in range(len(images))])  # (place in the file, position in the data set)
    tasks.put(None)
    allocations: SimpleQueue[list[tuple[int, int, int]]] = SimpleQueue()
    worker_job_indexed_dataset(
        tasks,
        writer.metadata_sm,
        writer.metadata_type,
        fields,
        MemoryAllocator(str(path), writer.data_region_start, page_size),
        Value(ctypes.c_uint64, 0),
        allocations,
        list(zip(images.images.contiguous().numpy(), images.labels.tolist(), strict=True)),
    )
    writer.finalize([allocations.get()])
