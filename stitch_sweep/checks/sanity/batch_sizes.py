"""The check that a trial's reported figures do not depend on the batch size."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.checks.differences import largest_difference
from stitch_sweep.checks.sanity.findings import Finding
from stitch_sweep.checks.sanity.plain import accuracy
from stitch_sweep.checks.sanity.subject import CompletedTraining, Subject
from stitch_sweep.core.splits import SHORT_SPLITS, SPLITS
from stitch_sweep.data.batches import CHUNK
from stitch_sweep.data.images import Data
from stitch_sweep.training.workbench import Workbench

BATCH_SIZES = (1, 7, 64, 256)
SEVERAL_CHUNKS = 2 * CHUNK + 100
"""Number of images for three chunks, the last of them padded."""


def batch_size(subject: Subject) -> Finding:
    """Compare a trial's figures at several batch sizes with figures over all images at once."""
    data = subject.data
    for split in SPLITS:
        size = max(SEVERAL_CHUNKS, len(getattr(data, split)))
        data = subject.resize_split(data, split, size)
    bench = subject.bench(data, augment="none")
    completed = subject.run(bench)
    trained = copy.deepcopy(completed.result.stitch)
    figures, predictions = _expected_figures(subject, bench, data, trained)
    defects = _trajectory_defects(completed, figures)
    for size in (*BATCH_SIZES, len(data.train)):
        # In raw coordinates, because the trained stitch is an ordinary one; over all training images,
        # as the expected figures are.
        raw = {"coordinates": "raw", "train_metrics": "all"}
        training = subject.short.training.model_copy(
            update={"epochs": 0, "batch_size": size, **raw}
        )
        settings = subject.short.model_copy(update={"training": training})
        repeated = subject.start(bench, settings=settings)
        repeated.stitch.load_state_dict(trained.state_dict())
        result = repeated.finish()
        for name, value in figures.items():
            reported = result.metrics[name]
            if (gap := abs(reported - value)) > _tolerance(name, value):
                text = f"{name} is reported as {reported:.6g}, but is {value:.6g} over all images"
                defects.append((gap, f"with batch size {size} {text}"))
        assert result.predictions is not None
        if not torch.equal(result.predictions, predictions):
            defects.append((1.0, f"with batch size {size} other classes are predicted"))
    drift = _drift(subject, bench, trained)
    largest_drift = max(drift.values(), default=0.0)
    return Finding(
        "batch size",
        f"{len(figures)} figures and all predictions at {len(BATCH_SIZES) + 1} batch sizes, by hand",
        max((gap for gap, _ in defects), default=0.0),
        "fail" if defects else "pass",
        defects[0][1]
        if defects
        else f"without fixed chunks, logits would differ by {largest_drift:.2g}",
        {"raw_drift": drift},
    )


def _tolerance(name: str, value: float) -> float:
    """Return the allowed difference: accuracies are ratios of integers, losses float32 means."""
    return 1e-5 * max(1.0, abs(value)) if "loss" in name else 1e-9


@torch.no_grad()
def _expected_figures(
    subject: Subject, bench: Workbench, data: Data, stitch: nn.Module
) -> tuple[dict[str, float], Tensor]:
    """Compute the figures that a trial should report, by metric, and the test predictions."""
    cell = subject.cell
    stitched = subject.stitched(bench, stitch)
    sender, receiver = bench.networks[cell.sender], bench.networks[cell.receiver]
    weights = {term.name: term.weight for term in subject.short.loss.terms}
    figures: dict[str, float] = {}
    scale = 1.0
    for split, prefix in SHORT_SPLITS.items():
        images, labels = subject.normalized(data, split), getattr(data, split).labels.cpu()
        logits = subject.outputs(stitched, images)
        figures[f"{prefix}_accuracy"] = accuracy(logits, labels)
        terms = {}
        if "task" in weights:
            terms["task"] = functional.cross_entropy(logits.double(), labels).item()
        if "mse" in weights:
            stitched_half = nn.Sequential(sender.prefix(cell.sender_layer), stitch)
            s = subject.outputs(stitched_half, images).double()
            e = subject.outputs(receiver.prefix(cell.receiver_layer), images).double()
            if split == "train":
                if e.ndim == 3:  # tokens, whose channels come last
                    e, s = e.transpose(1, 2), s.transpose(1, 2)
                variance = e.transpose(0, 1).flatten(1).var(dim=1, correction=0).mean().item()
                scale = e.shape[1] / (variance or 1.0)
            terms["mse"] = ((s - e).square().mean() * scale).item()
        figures |= {f"{prefix}_loss.{name}": value for name, value in terms.items()}
        if terms.keys() == weights.keys():
            figures[f"{prefix}_loss"] = sum(weights[name] * value for name, value in terms.items())
    own_accuracy = {
        role: accuracy(subject.outputs(network.network, images), labels)
        for role, network in (("sender", sender), ("receiver", receiver))
    }
    figures |= {f"{role}_accuracy": value for role, value in own_accuracy.items()}
    figures["penalty"] = own_accuracy["receiver"] - figures["test_accuracy"]
    return figures, logits.argmax(dim=1)


def _trajectory_defects(
    completed: CompletedTraining, figures: Mapping[str, float]
) -> list[tuple[float, str]]:
    """Compare the trajectory's figures of the trained stitch with the expected ones."""
    row = completed.validation
    defects = []
    for key in ("accuracy", "loss") if row else ():
        value = figures.get(f"val_{key}")
        if value is not None and (gap := abs(row[key] - value)) > _tolerance(key, value):
            text = (
                f"the trajectory ends with a validation {key} of {row[key]:.6g}, "
                f"but it is {value:.6g} over all images"
            )
            defects.append((gap, text))
    return defects


@torch.no_grad()
def _drift(subject: Subject, bench: Workbench, stitch: nn.Module) -> dict[str, float]:
    """Measure by how much logits differ when the networks run in batches of other sizes."""
    network = subject.stitched(bench, stitch)
    images = subject.normalized(subject.data, "test")
    expected = subject.outputs(network, images)
    sizes = {str(size): size for size in BATCH_SIZES} | {"all": len(images)}
    drift = {}
    for name, size in sizes.items():
        # One chunk is enough for the small batches, of which there are many.
        used = images if size >= CHUNK else images[:CHUNK]
        logits = torch.cat([network(batch).cpu() for batch in used.split(size)])
        drift[name] = largest_difference(expected[: len(used)], logits)
    return drift
