"""The check that computations run in float32, and the effect of 16-bit formats."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.checks.differences import largest_difference
from stitch_sweep.checks.sanity.findings import Finding
from stitch_sweep.checks.sanity.plain import accuracy
from stitch_sweep.checks.sanity.plain_subject import (
    find_cut_modules,
    plain_settings,
    train_plainly,
)
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.training.workbench import Workbench

CONCLUSION = 0.01
"""A larger change of an accuracy may change the reading of a matrix."""
FLOAT32 = 5e-5
"""Largest difference of float32 from float64, relative to the largest logit; TF32 and bfloat16 exceed
it."""
FEW_IMAGES = 64

_SHORT_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def precision(subject: Subject) -> Finding:
    """Compare logits of one stitch in float32 and float64, and with 16-bit storage and computation."""
    bench = subject.bench()
    stitch = subject.run(bench).result.stitch
    images = subject.normalized(subject.data, "test")
    labels = subject.data.test.labels.cpu()
    compared = "float32 against float64, and against 16 bits stored, computed, trained with"
    base = subject.outputs(subject.stitched(bench, stitch), images)
    if defect := _reduced_tensor(subject, bench, stitch, images):
        return Finding("precision", compared, None, "fail", defect)
    gap = _difference_from_double(subject, bench, stitch, images, base)
    if gap > FLOAT32 * base.abs().max().item():
        defect = (
            f"logits differ from those in float64 by {gap:.2g}: they aren't computed in float32"
        )
        return Finding("precision", compared, gap, "fail", defect)

    base_accuracy = accuracy(base, labels)
    figures: dict[str, Any] = {"float32": {"accuracy": base_accuracy}}
    figures |= _convert_and_evaluate(subject, bench, stitch, images, base)
    figures |= _train_and_evaluate(subject, images, labels)
    warnings = _warnings(subject, bench, figures, base_accuracy, len(labels))
    differences = ", ".join(
        f"{name} {figure['difference']:.2g}"
        for name, figure in figures.items()
        if "difference" in figure
    )
    note = (
        f"differences of logits: {differences} (a gradient scaler skips steps until its scale fits)"
    )
    return Finding(
        "precision",
        compared,
        gap,
        "warn" if warnings else "pass",
        "; ".join([*warnings, note]),
        figures,
    )


def _warnings(
    subject: Subject, bench: Workbench, figures: dict[str, Any], base_accuracy: float, count: int
) -> list[str]:
    """Warn about networks that are stored in 16 bits, and of accuracies that 16-bit storage changes."""
    warnings = []
    short_networks = {
        name: short
        for name in bench.networks
        for parameter in subject.modules[name].parameters()
        if (short := _short_type(parameter))
    }
    if short_networks:
        listed = ", ".join(f"{name} in {short}" for name, short in short_networks.items())
        warnings.append(f"stored in 16 bits already: {listed}")
    # A difference of one image is no conclusion.
    limit = max(CONCLUSION, 2 / count) + 1e-9
    changes = {
        name: figure["accuracy"] - base_accuracy
        for name, figure in figures.items()
        if name.endswith("stored") and abs(figure["accuracy"] - base_accuracy) > limit
    }
    if changes:
        listed = "; ".join(f"{name}: accuracy {change:+.4f}" for name, change in changes.items())
        warnings.append(f"a model stored in 16 bits would change a conclusion: {listed}")
    return warnings


def _is_practical(subject: Subject, name: str) -> bool:
    """Whether to compute in a format: float16 on a CPU is rare and twenty times slower."""
    return name != "float16" or subject.device != "cpu" or subject.is_tiny


def _difference_from_double(
    subject: Subject, bench: Workbench, stitch: nn.Module, images: Tensor, base: Tensor
) -> float:
    """Return the largest difference of the first images' logits from their logits in float64."""
    few = images[:FEW_IMAGES]
    cell = subject.cell
    sender, receiver = (
        copy.deepcopy(part).double()
        for part in (
            bench.networks[cell.sender].prefix(cell.sender_layer),
            bench.networks[cell.receiver].suffix(cell.receiver_layer),
        )
    )
    stitch64 = copy.deepcopy(stitch).to(images.device).eval().double()
    with torch.no_grad():
        exact = receiver(stitch64(sender(few.double()))).cpu()
    return largest_difference(base[: len(few)].double(), exact)


def _reduced_tensor(subject: Subject, bench: Workbench, stitch: nn.Module, images: Tensor) -> str:
    """Describe the first tensor with fewer bits than float32 whose source has more; "" if none."""
    cell = subject.cell
    sender, receiver = bench.networks[cell.sender], bench.networks[cell.receiver]
    stages: dict[str, Tensor] = {f"the stitch's {n}": p for n, p in stitch.named_parameters()}
    for name, network in bench.networks.items():
        originals = dict(subject.modules[name].named_parameters())
        for path, parameter in network.network.named_parameters():
            if not _short_type(originals[path]):
                stages[f"network {name!r}: {path}"] = parameter
    with torch.no_grad():
        x = images[:FEW_IMAGES]
        sent = sender.prefix(cell.sender_layer)(x)
        stages["the sender's representation"] = sent
        stages["the expected representation"] = receiver.prefix(cell.receiver_layer)(x)
        stitched = stitch.to(images.device).eval()(sent)
        stages["the stitched representation"] = stitched
        stages["the logits"] = receiver.suffix(cell.receiver_layer)(stitched)
    for name, tensor in stages.items():
        if tensor.dtype != torch.float32:
            return f"{name}: {str(tensor.dtype).removeprefix('torch.')}, not float32"
        if (short := _short_type(tensor)) is not None:
            return f"{name} went through {short}: none of the values has more bits"
    return ""


def _short_type(tensor: Tensor) -> str | None:
    """Return the 16-bit type that holds all values of a float32 tensor exactly, if there is one."""
    # Zeros and powers of two fit any type, and fresh weights are full of them.
    trivial = torch.isin(tensor.frexp().mantissa.abs(), torch.tensor([0.0, 0.5]).to(tensor))
    values = tensor[~trivial]
    for name, dtype in _SHORT_TYPES.items():
        if len(values) >= 8 and torch.equal(values.to(dtype).float(), values):
            return name
    return None


def _compare_logits(base: Tensor, logits: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        "difference": largest_difference(base, logits),
        "accuracy": accuracy(logits, labels),
        "predictions_changed": (base.argmax(1) != logits.argmax(1)).double().mean().item(),
    }


def _rounded_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy whose numbers are rounded to `dtype`, like those of a model stored in it."""
    return copy.deepcopy(module).to(dtype).float()


def _convert_and_evaluate(
    subject: Subject, bench: Workbench, stitch: nn.Module, images: Tensor, base: Tensor
) -> dict[str, Any]:
    """Evaluate the stitched network stored in 16 bits, and computed in 16 bits."""
    labels = subject.data.test.labels.cpu()
    figures = {}
    for name, dtype in _SHORT_TYPES.items():
        rounded = {n: (_rounded_copy(subject.modules[n], dtype), n) for n in bench.networks}
        stored = subject.bench(modules=rounded)
        network = subject.stitched(stored, _rounded_copy(stitch, dtype))
        logits = subject.outputs(network, images)
        figures[f"{name}, stored"] = _compare_logits(base, logits, labels)
        if _is_practical(subject, name):
            with torch.autocast(subject.device, dtype=dtype):
                network = subject.stitched(bench, stitch)
                logits = subject.outputs(network, images).float()
            figures[f"{name}, computed"] = _compare_logits(base, logits, labels)
    return figures


def _train_and_evaluate(subject: Subject, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Train the paper's stitch in 16 bits, with and without a gradient scaler, and evaluate it."""
    bench = subject.bench(augment="none")
    try:
        modules = find_cut_modules(subject, bench)
    except LookupError:
        return {}
    loss = {"task": 1.0}
    settings = plain_settings(subject, loss)
    training = subject.start(bench, settings=settings)
    start = {k: v.detach().cpu().clone() for k, v in training.stitch.state_dict().items()}
    figures: dict[str, Any] = {}
    base: Tensor | None = None
    for name, cast, scaled in (
        ("float32", None, False),
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
        ("float16", torch.float16, True),
    ):
        if not _is_practical(subject, name):
            continue
        trained = train_plainly(
            subject, bench, modules, settings, start, loss, whole=False, cast=cast, scaled=scaled
        )
        training.stitch.load_state_dict(trained)
        logits = subject.outputs(subject.stitched(bench, training.stitch), images)
        label = f"{name}, trained" + (" with a grad scaler" if scaled else "")
        if base is None:
            base = logits
            figures[label] = {"accuracy": accuracy(logits, labels)}
        else:
            figures[label] = _compare_logits(base, logits, labels)
    return figures
