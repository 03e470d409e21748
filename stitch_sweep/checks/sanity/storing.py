"""The check of a stored stitch against the trained one."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import Tensor, nn

from stitch_sweep.checks.differences import first_difference, largest_difference
from stitch_sweep.checks.sanity.findings import Finding, judge
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.stitches.storage import load_stitch
from stitch_sweep.storage import scratch

_DEVICE_TOLERANCE = 1e-3
"""Largest difference between CPU and GPU logits that the order of float32 sums explains, relative to
the largest logit."""


def store_and_load(subject: Subject) -> Finding:
    """Compare a trained stitch with its stored copy: tensors, and logits on the whole test set."""
    data = replace(subject.data, test=subject.all_data.test)
    bench = subject.bench(data)
    training = subject.run(bench)
    trained = training.result.stitch
    with scratch.folder() as folder:
        path = folder / "stitch.safetensors"
        path.write_bytes(training.training.pack_stitch({}))
        loaded = load_stitch(path)
    compared = f"stitch, and its logits on {len(data.test)} images, before and after a file"
    difference = first_difference(trained.state_dict(), loaded.state_dict())
    if difference is not None:
        name, gap = difference
        defect = f"the stored stitch is not the trained and evaluated one: its {name} differs"
        return Finding("store and load", compared, gap, "fail", defect)
    images = subject.normalized(data, "test")
    before = subject.outputs(subject.stitched(bench, trained), images)
    after = subject.outputs(subject.stitched(bench, loaded), images)
    gap = largest_difference(before, after)
    defects = [] if gap == 0 else ["the loaded stitch gives other logits"]
    changed = (after.argmax(dim=1) != training.predictions).double().mean().item()
    if changed:
        defects.append(
            f"{changed:.1%} of the trial's reported predictions differ from those of its stored stitch"
        )
    figures = {}
    if subject.device != "cpu":
        figures["cpu_against_device"], device_defects = _compare_with_cpu(subject, loaded, after)
        defects += device_defects
    return judge("store and load", compared, gap, defects, figures)


def _compare_with_cpu(
    subject: Subject, stitch: nn.Module, device_logits: Tensor
) -> tuple[float, list[str]]:
    """Return the largest difference from the logits on the CPU, and the defects."""
    bench = subject.bench(device="cpu")
    images = subject.normalized(subject.all_data, "test", "cpu")
    logits = subject.outputs(subject.stitched(bench, copy.deepcopy(stitch)), images)
    gap = largest_difference(device_logits, logits)
    if gap > _DEVICE_TOLERANCE * logits.abs().max().item():
        return gap, [f"on the CPU the same stitch gives logits that differ by up to {gap:.3g}"]
    return gap, []
