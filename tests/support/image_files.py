"""Image files for tests: encoded images, image folders and parquet files, and the loading of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.images import Data, Images
from stitch_sweep.data.loading import load
from stitch_sweep.data.sources.base import Source


def random_images(count: int, channels: int = 3, size: int = 16, seed: int = 0) -> Images:
    """Make `count` images of random pixels in five classes."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, channels, size, size), generator=generator)
    return Images(pixels.to(torch.uint8), torch.arange(count) % 5)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Make random pixels, uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    """Encode pixels as the content of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def data_settings(name: str, options: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Make the section `data` of a configuration, without validation."""
    defaults = {
        "image_size": None,
        "loader": "torch",
        "split_seed": 0,
        "val_fraction": 0.1,
        "train_images": None,
        "test_images": None,
    }
    return SimpleNamespace(name=name, options=options or {}, **{**defaults, **changes})


def write_folder(root: Path, shape: tuple[int, ...] = (6, 6, 3)) -> None:
    """Write an image folder of two classes: 4 training and 2 test images each."""
    for split, count in (("train", 4), ("test", 2)):
        for c, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                array = pixels(*shape, seed=100 * c + 10 * k + len(split))
                Image.fromarray(array).save(root / split / name / f"{k}.png")


def load_folder(root: Path, **changes: Any) -> Data:
    """Load an image folder, half of the training images as validation images."""
    options = {"path": str(root)}
    return load(data_settings("image_folder", options, **{"val_fraction": 0.5, **changes}))


def write_parquet(
    file: Path,
    labels: Any,
    *,
    image: str = "img",
    label: str = "label",
    plain: bool = False,
    names: list[str] | None = None,
    seed: int = 0,
    content: list[bytes | None] | None = None,
) -> list[bytes | None]:
    """Write a parquet file of encoded images, and return them.

    Args:
        file: where to.
        labels: a label per row.
        image: name of the image column.
        label: name of the label column.
        plain: whether images are bytes instead of structs.
        names: class names for the metadata.
        seed: of the images.
        content: encoded images, instead of random ones.
    """
    content = content or [encoded(pixels(4, 4, 3, seed=seed + k)) for k in range(len(labels))]
    images = (
        pa.array(content, pa.binary())
        if plain
        else pa.array(
            [{"bytes": c, "path": None} for c in content],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    )
    table = pa.table({image: images, label: labels})
    if names:
        features = {label: {"names": names, "_type": "ClassLabel"}, image: {"_type": "Image"}}
        meta = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(meta)
    pq.write_table(table, file)
    return content


def read_parquet(path: Path | str, **options: Any) -> Source:
    """Read a data set of parquet files."""
    source: Source = DATASETS.build("parquet", None, options={"path": str(path), **options})
    return source
