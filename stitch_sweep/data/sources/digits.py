"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.decoding import resize
from stitch_sweep.data.images import Images
from stitch_sweep.data.sources.base import Source
from stitch_sweep.data.splits import cut_test


@DATASETS.register("digits")
def digits(image_size: int | None) -> Source:
    """Handwritten digits that come with scikit-learn: 1,797 grayscale images of 8x8 pixels.

    The values 0 .. 16 are scaled to 0 .. 255. The data set has no official test split, so a fixed
    stratified quarter (449 images) serves as the test split.
    """
    # The file that `sklearn.datasets.load_digits` reads; an import of scikit-learn takes 1.5 s.
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    with gzip.open(Path(spec.origin).parent / "datasets/data/digits.csv.gz", "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.int64))
    pixels, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    scaled = ((pixels * 255 + 8) // 16).to(torch.uint8)
    all_images = Images(resize(scaled[:, None], image_size), labels)
    train, test = cut_test(all_images, "digits")
    return Source(train, test, tuple(map(str, range(10))))
