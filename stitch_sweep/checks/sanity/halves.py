"""Checks of cut networks: both halves together equal the network, and leave activations unchanged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.checks.differences import largest_difference
from stitch_sweep.checks.sanity.findings import Finding, judge
from stitch_sweep.checks.sanity.plain import chunks
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.config.loss import LossConfig
from stitch_sweep.config.pairs import IMAGE_LAYER
from stitch_sweep.config.stitch import StitchConfig
from stitch_sweep.plan.cells import Cell
from stitch_sweep.training.workbench import Workbench


def identity(subject: Subject) -> Finding:
    """Compare the halves with the network at every layer, directly and through an identity stitch."""
    images = subject.normalized(subject.data, "test")
    bench = subject.bench()
    largest, defects, places = 0.0, [], 0
    for name, network in bench.networks.items():
        expected = subject.outputs(network.network, images)
        for layer in range(IMAGE_LAYER, len(network.layer_names)):
            places += 1
            halves = nn.Sequential(network.prefix(layer), network.suffix(layer))
            gap = largest_difference(expected, subject.outputs(halves, images))
            largest = max(largest, gap)
            if gap:
                defects.append(f"{name} cut after layer {layer} gives other logits than {name}")
            predictions = _predict_with_identity(subject, bench, name, layer)
            if not torch.equal(predictions, expected.argmax(dim=1)):
                largest = max(largest, 1.0)
                defects.append(
                    f"an identity stitch at layer {layer} of {name} predicts other classes"
                )
    return judge(
        "identity",
        f"logits of whole networks and of their halves, at {places} places",
        largest,
        defects[:1],
    )


def _predict_with_identity(subject: Subject, bench: Workbench, name: str, layer: int) -> Tensor:
    """Return the predictions of a trial with an identity stitch from a network into itself."""
    settings = subject.short.model_copy(
        update={"stitch": StitchConfig.model_validate({"name": "identity"})}
    )
    return subject.run(bench, Cell(name, layer, name, layer), settings).predictions


def activations(subject: Subject) -> Finding:
    """Compare activations before and after the rest of the network used them, also cached ones."""
    images = subject.normalized(subject.data, "test")
    bench = subject.bench(augment="none")
    gap, defect = _overwritten_input(bench, images)
    if not gap:
        gap, defect = _overwritten_cache(subject, bench)
    return judge(
        "activations",
        "activations before and after the rest of the network used them",
        gap,
        [defect] if gap else [],
    )


def _overwritten_input(bench: Workbench, images: Tensor) -> tuple[float, str]:
    """Find a second half that changes its input; return the change and the defect."""
    for name, network in bench.networks.items():
        for layer in range(IMAGE_LAYER, len(network.layer_names)):
            chunk, _ = next(chunks(images))  # one chunk is enough
            with torch.no_grad():
                activation = network.prefix(layer)(chunk)
                original = activation.clone()
                network.suffix(layer)(activation)
            if gap := largest_difference(original, activation):
                return gap, f"network {name!r}: a module after layer {layer} overwrites its input"
    return 0.0, ""


def _overwritten_cache(subject: Subject, bench: Workbench) -> tuple[float, str]:
    """Find cached activations that a training changed; return the change and the defect."""
    cell = subject.cell
    loss = LossConfig.model_validate({"task": 1.0, "mse": 1.0})  # MSE needs both representations
    subject.run(bench, settings=subject.short.model_copy(update={"loss": loss}))
    sides = (
        ("sender", cell.sender, cell.sender_layer),
        ("expected", cell.receiver, cell.receiver_layer),
    )
    for split, loader in bench.loaders(subject.short.training.batch_size).items():
        for role, name, layer in sides:
            network = bench.networks[name]
            cached = bench.cache.get(role, network, layer, loader)
            if cached is None:  # too large for the cache
                continue
            images = subject.normalized(subject.data, split)
            fresh = subject.outputs(network.prefix(layer), images)
            if gap := largest_difference(cached.cpu(), fresh):
                return gap, (
                    f"the cached {split} activations of {name}:{layer} ({role}) were overwritten"
                )
    return 0.0, ""
