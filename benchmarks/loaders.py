"""Images per second of `loader: torch` and `loader: ffcv`, and FFCV's costs per data set.

    python benchmarks/loaders.py [--repeats 5] [--threads 1] [--json]

Both loaders make the batches of the same epochs from the same images, alternately and in one process; the
batches aren't used. All images except the digits are synthetic; their files are in the page cache.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _common import machine, table
from PIL import Image

from stitch_sweep.config.data import DataConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.augmentation import AUGMENTATIONS
from stitch_sweep.data.decoding import decode, resize
from stitch_sweep.data.images import Images
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import load

OPTIONS: dict[str, Any] = {"batch_size": 128, "seed": 0}
AT_LEAST = 0.5
"""Smallest duration of a measurement in seconds; it consists of whole epochs."""


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call, and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def synthetic(count: int, size: int) -> Images:
    """Return random RGB images as smooth as photographs, so that JPEG compresses them similarly."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(256, (count, 3, size // 8, size // 8), generator=generator)
    return Images(resize(coarse.to(torch.uint8), size), torch.arange(count) % 10)


def encoded(images: Images) -> list[tuple[str, bytes]]:
    """Write the images as JPEG files."""
    files = []
    for k, image in enumerate(images.images.permute(0, 2, 3, 1).numpy()):
        file = BytesIO()
        grey = image.shape[-1] == 1
        Image.fromarray(image[..., 0] if grey else image).save(file, "jpeg", quality=90)
        files.append((str(k), file.getvalue()))
    return files


def speed(loader: Loader, epochs: int) -> float:
    """Return images per second."""
    seconds, _ = timed(lambda: [None for epoch in range(epochs) for _ in loader.batches(epoch)])
    return epochs * len(loader.images) / seconds


def ffcv_loader(images: Images, folder: Path, **options: Any) -> Loader:
    """Return FFCV's loader; this imports FFCV."""
    from stitch_sweep.data.ffcv_loader import FfcvLoader

    return FfcvLoader(images, *statistics(images), folder=folder, **OPTIONS | options)


def statistics(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and standard deviation that normalize images."""
    channels = images.images.shape[1]
    return torch.full((channels,), 0.5), torch.full((channels,), 0.25)


def compare(images: Images, augment: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure both loaders alternately."""
    loaders = {
        "torch": Loader(images, *statistics(images), augment=augment, **OPTIONS),
        "ffcv": ffcv_loader(images, folder, augment=augment),
    }
    first = {name: speed(loader, 1) for name, loader in loaders.items()}
    epochs = max(1, round(AT_LEAST * first["torch"] / len(images)))
    speeds: dict[str, list[float]] = {name: [] for name in loaders}
    for repeat in range(repeats):
        # Alternate the order, so that a machine that warms up favors neither loader.
        for name in list(loaders)[:: 1 if repeat % 2 == 0 else -1]:
            speeds[name].append(speed(loaders[name], epochs))
    ratios = [f / t for f, t in zip(speeds["ffcv"], speeds["torch"], strict=True)]
    return {"epochs": epochs, **speeds, "ratio": ratios}


def once(images: Images, folder: Path) -> dict[str, float]:
    """Measure the costs per data set and per process, without import and compilation."""
    files = encoded(images)
    writing, _ = timed(lambda: ffcv_loader(images, folder))
    # Use new objects, as in another process, because a file that is open is not read again.
    again = Images(images.images, images.labels.clone())
    opening, _ = timed(lambda: ffcv_loader(again, folder))
    decoding, _ = timed(lambda: decode(files, None))
    return {
        "writing the .beton and opening it, s": writing,
        "opening it again, with a check of every byte, s": opening,
        "decoding the images from JPEG files, s": decoding,
        "pixels, MB": images.images.numel() / 1e6,
        ".beton, MB": sum(path.stat().st_size for path in folder.glob("*.beton")) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--threads", type=int, default=1, help="torch's threads, as in resources.cpu"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = machine() | {"threads": arguments.threads}
    try:
        importing, _ = timed(lambda: import_module("stitch_sweep.data.ffcv_loader"))
    except InputError as error:
        print(f"not measured: {error}")
        return
    about |= {name: importlib.metadata.version(name) for name in ("ffcv", "numba")}
    digits = load(DataConfig.model_validate({"name": "digits"})).train
    sets = {
        f"digits, {len(digits):,} of 1x8x8": digits,
        "10,000 of 3x32x32": synthetic(10_000, 32),
        "400 of 3x224x224": synthetic(400, 224),
    }
    with tempfile.TemporaryDirectory(prefix="stitch-sweep-bench-") as scratch:
        small = synthetic(8, 16)
        compiling, _ = timed(lambda: list(ffcv_loader(small, Path(scratch)).batches(0)))
        result: dict[str, Any] = {
            "machine": about,
            "importing_seconds": importing,
            "compiling_seconds": compiling,
            "sets": {},
        }
        for k, (name, images) in enumerate(sets.items()):
            folder = Path(scratch) / str(k)
            result["sets"][name] = {"once": once(images, folder)} | {
                augment: compare(images, augment, folder, arguments.repeats)
                for augment in AUGMENTATIONS
            }
    about["load after"] = machine()["load"]
    if arguments.json:
        print(json.dumps(result))
        return
    print("Once per process, in seconds:")
    print(table([("importing FFCV", importing), ("compiling", compiling)]))
    for name, of_set in result["sets"].items():
        print(f"{name}; once:")
        print(table(list(of_set["once"].items())))
        for augment in AUGMENTATIONS:
            print(f"  images per second in batches of {OPTIONS['batch_size']}, augment: {augment}")
            for row in ("torch", "ffcv", "ratio"):
                values = of_set[augment][row]
                digits_shown = 2 if row == "ratio" else 0
                texts = [f"{value:,.{digits_shown}f}" for value in (median(values), *values)]
                print(f"    {row:<6} median {texts[0]:>9} of {', '.join(texts[1:])}")
    print(", ".join(f"{key} {value}" for key, value in about.items()))


if __name__ == "__main__":
    main()
