"""The check of a stored stitch against the trained one."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import Tensor, nn

from stitch_sweep.checks.differences import first_difference, largest_difference
from stitch_sweep.checks.sanity.findings import Finding, judge
from stitch_sweep.checks.sanity.plain import accuracy
from stitch_sweep.checks.sanity.subject import CompletedTraining, Subject
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.stitches.storage import load_stitch
from stitch_sweep.storage import scratch

_DEVICE_TOLERANCE = 1e-3
"""Largest difference between CPU and GPU logits that the order of float32 sums explains, relative to
the largest logit."""


def store_and_load(subject: Subject) -> Finding:
    """Compare a trained stitch with its stored copy: tensors, and logits on the whole test set.

    The validation accuracy that the trajectory has of the result is compared with the stored stitch's,
    too, in the configured and in whitened coordinates, and with the best and the last stitch kept.
    """
    data = replace(subject.data, test=subject.all_data.test)
    bench = subject.bench(data)
    training = subject.run(bench)
    trained = training.result.stitch
    loaded = _reload(training)
    compared = f"stitch, and its logits on {len(data.test)} images, before and after a file"
    difference = first_difference(trained.state_dict(), loaded.state_dict())
    if difference is not None:
        name, gap = difference
        defect = f"the stored stitch is not the trained and evaluated one: its {name} differs"
        return Finding("store and load", compared, gap, "fail", defect)
    images = subject.normalized(data, "test")
    before = subject.outputs(subject.stitched(bench, trained), images)
    after = subject.outputs(subject.stitched(bench, loaded), images)
    largest = largest_difference(before, after) or 0.0
    defects = [] if largest == 0 else ["the loaded stitch gives other logits"]
    changed = (after.argmax(dim=1) != training.predictions).double().mean().item()
    if changed:
        defects.append(
            f"{changed:.1%} of the trial's reported predictions differ from those of its stored stitch"
        )
    images = subject.normalized(data, "validation")
    labels = data.validation.labels.cpu()
    for how, settings in {"as configured": subject.short, **_other_settings(subject)}.items():
        other = training if settings is subject.short else subject.run(bench, settings=settings)
        stored = accuracy(subject.outputs(subject.stitched(bench, _reload(other)), images), labels)
        for key in ("accuracy", "loss") if other.validation else ():
            gap = abs(other.validation[key] - other.result.metrics[f"val_{key}"])
            if gap > 0:
                largest = max(largest, gap)
                defects.append(f"trained {how}: the result isn't the stitch that was validated")
        validated = other.validation.get("accuracy", stored)
        if abs(validated - stored) > 1e-9:
            largest = max(largest, abs(validated - stored))
            defects.append(
                f"trained {how}: validated with an accuracy of {validated:.4f}, but the stored stitch "
                f"has {stored:.4f}"
            )
    figures = {}
    if subject.device != "cpu":
        figures["cpu_against_device"], device_defects = _compare_with_cpu(subject, loaded, after)
        defects += device_defects
    return judge("store and load", compared, largest, defects, figures)


def _reload(training: CompletedTraining) -> nn.Module:
    """Store the stitch of a training, and load it."""
    with scratch.folder() as folder:
        path = folder / "stitch.safetensors"
        path.write_bytes(training.training.pack_stitch({}))
        return load_stitch(path)


def _other_settings(subject: Subject) -> dict[str, TrialSettings]:
    """Return the short settings in whitened coordinates, with the last and the best stitch kept."""
    training = subject.short.training
    return {
        f"in whitened coordinates, {keep} stitch kept": subject.short.model_copy(
            update={
                "training": training.model_copy(update={"coordinates": "whitened", "keep": keep})
            }
        )
        for keep in ("last", "best")
    }


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
