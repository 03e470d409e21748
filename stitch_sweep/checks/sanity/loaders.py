"""The check that both loaders deliver the same images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from stitch_sweep.checks.differences import first_difference, largest_difference
from stitch_sweep.checks.sanity.findings import Finding, judge
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.loader import Loader
from stitch_sweep.storage import scratch


def loaders(subject: Subject) -> Finding:
    """Compare batches, chunks and a training of FFCV's loader with those of the plain loader."""
    compared = "images and a training, from the plain loader and from FFCV"
    try:
        from stitch_sweep.data.ffcv_loader import FfcvLoader
    except InputError as error:
        return Finding("loaders", compared, None, "skip", str(error))
    size = subject.short.training.batch_size
    with scratch.folder() as folder:
        benches = [
            subject.bench(replace(subject.data, beton_folder=beton_folder))
            for beton_folder in (None, str(folder))
        ]
        plain, ffcv = (bench.loaders(size) for bench in benches)
        largest, defects = 0.0, []
        if not all(isinstance(loader, FfcvLoader) for loader in ffcv.values()):
            defects.append("FFCV was requested, but another loader was used")
        for split in plain:
            for first, second in _batch_pairs(plain[split], ffcv[split]):
                gap = largest_difference(first.images, second.images)
                largest = max(largest, gap)
                if gap or not torch.equal(first.labels, second.labels):
                    defects.append(f"{split} images differ")
        difference = first_difference(*(subject.run(bench).tensors() for bench in benches))
        if difference is not None:
            name, gap = difference
            largest = max(largest, gap)
            defects.append(f"the trainings differ, first in {name}")
    return judge("loaders", compared, largest, list(dict.fromkeys(defects)))


def _batch_pairs(plain: Loader, ffcv: Loader) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of one epoch and the evaluation's chunks, from both loaders."""
    yield from zip(plain.batches(1), ffcv.batches(1), strict=True)
    yield from zip(plain.in_order(), ffcv.in_order(), strict=True)
