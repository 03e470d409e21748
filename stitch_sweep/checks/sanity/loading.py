"""Whether both loaders deliver the same images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from stitch_sweep.checks.differences import first_difference, largest_difference
from stitch_sweep.checks.sanity.subject import Finding, Subject
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.evaluation import CHUNK
from stitch_sweep.storage import scratch


def loaders(subject: Subject) -> Finding:
    """FFCV's batches, chunks and the training they lead to, against the plain loader's."""
    compared = "images and a training, from the plain loader and from FFCV"
    try:
        from stitch_sweep.data.ffcv_loader import FfcvLoader
    except InputError as error:
        return Finding("loaders", compared, None, "skip", str(error))
    size = subject.short.training.batch_size
    with scratch.folder() as folder:
        benches = [
            subject.bench(replace(subject.data, beton_folder=where))
            for where in (None, str(folder))
        ]
        plain, ffcv = (bench.loaders(size) for bench in benches)
        worst, wrong = 0.0, []
        if not all(isinstance(loader, FfcvLoader) for loader in ffcv.values()):
            wrong.append("what was asked for by FFCV's name isn't FFCV")
        for split in plain:
            pairs: list[Any] = [
                *zip(plain[split].batches(1), ffcv[split].batches(1), strict=True),
                *zip(plain[split].in_order(CHUNK), ffcv[split].in_order(CHUNK), strict=True),
            ]
            for one, other in pairs:
                gap = largest_difference(one.images, other.images)
                worst = max(worst, gap)
                if gap or not torch.equal(one.labels, other.labels):
                    wrong.append(f"{split} images differ")
        found = first_difference(*(subject.run(bench).tensors() for bench in benches))
        if found is not None:
            place, gap = found
            worst = max(worst, gap)
            wrong.append(f"the trainings part at {place}")
    verdict = "; ".join(dict.fromkeys(wrong))
    return Finding("loaders", compared, worst, "fail" if wrong else "pass", verdict)
