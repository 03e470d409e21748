"""Whether the networks stay what they were, and their halves are the whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stitch_sweep.checks.differences import first_difference, largest_difference
from stitch_sweep.checks.sanity.subject import Finding, Subject, chunks
from stitch_sweep.config.models import LossConfig, StitchConfig
from stitch_sweep.networks.frozen import IMAGE_LAYER, FrozenNetwork
from stitch_sweep.plan.cells import Cell
from stitch_sweep.storage.checkpoints import tensors_of
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.workbench import Workbench


def frozen(subject: Subject) -> Finding:
    """Every parameter, buffer, gradient and mode of both networks, step by step."""
    bench = subject.bench()
    networks = bench.networks
    trained = _run_in_train_mode(networks)
    # Compared with networks that nobody ever ran.
    before = {name: tensors_of(subject.modules[name]) for name in networks}
    count = sum(len(tensors) for tensors in before.values())
    compared = f"{count} parameters and buffers, their gradients and modes, at every step"
    for when in _stages(subject, bench):
        if trained:
            return Finding(
                "frozen", compared, None, "fail", f"{trained[0]} ran in train mode {when}"
            )
        for name, network in networks.items():
            if wrong := _unfrozen(network):
                return Finding(
                    "frozen", compared, None, "fail", f"network {name!r}: {wrong} {when}"
                )
            found = first_difference(before[name], tensors_of(network.network))
            if found is not None:
                path, gap = found
                why = f"network {name!r}: {path} changed {when}"
                return Finding("frozen", compared, gap, "fail", why)
    return Finding("frozen", compared, 0.0, "pass")


def _stages(subject: Subject, bench: Workbench) -> Iterator[str]:
    """Take a training through all it does, and say each time what was done."""
    yield "before the training"
    training: StitchTraining = subject.start(bench)
    yield "while the training was set up"
    while not training.done:
        training.advance(1)
        yield f"after step {training.step}"
    training.finish()
    yield "after the evaluation"


def _run_in_train_mode(networks: dict[str, FrozenNetwork]) -> list[str]:
    """Parts that are in train mode while they run; the list fills up as that happens."""
    found: list[str] = []
    for name, network in networks.items():
        for path, part in network.network.named_modules():
            what = f"network {name!r}: {path or 'the whole'}"

            def look(module: nn.Module, inputs: object, what: str = what) -> None:
                if module.training:
                    found.append(what)

            part.register_forward_pre_hook(look)
    return found


def _unfrozen(network: FrozenNetwork) -> str:
    """What could change the network, if anything could."""
    for path, part in network.network.named_modules():
        if part.training:
            return f"{path or 'the whole'} is in train mode"
    for path, parameter in network.network.named_parameters():
        if parameter.requires_grad or parameter.grad is not None:
            return f"{path} takes gradients"
    return ""


def identity(subject: Subject) -> Finding:
    """The two halves against the whole, at every layer, by hand and through an identity stitch."""
    images = subject.normalised(subject.data, "test")
    bench = subject.bench()
    worst, wrong, places = 0.0, [], 0
    for name, network in bench.networks.items():
        whole = subject.outputs(network.network, images)
        for layer in range(IMAGE_LAYER, len(network.layer_names)):
            places += 1
            halves = nn.Sequential(network.prefix(layer), network.suffix(layer))
            gap = largest_difference(whole, subject.outputs(halves, images))
            worst = max(worst, gap)
            if gap:
                wrong.append(f"{name} cut after layer {layer} isn't {name}: other logits")
            if not torch.equal(_identity_stitch(subject, bench, name, layer), whole.argmax(dim=1)):
                worst = max(worst, 1.0)
                wrong.append(
                    f"an identity stitch at layer {layer} of {name} predicts other classes"
                )
    return Finding(
        "identity",
        f"logits of whole networks and of their halves, at {places} places",
        worst,
        "fail" if wrong else "pass",
        wrong[0] if wrong else "",
    )


def _identity_stitch(subject: Subject, bench: Workbench, name: str, layer: int) -> Tensor:
    """Predictions of a network with an identity stitch into itself, as a trial makes them."""
    settings = subject.short.model_copy(
        update={"stitch": StitchConfig.model_validate({"name": "identity"})}
    )
    return subject.run(bench, Cell(name, layer, name, layer), settings).predictions


def activations(subject: Subject) -> Finding:
    """Representations before and after the rest of the network used them, cached ones included."""
    compared = "activations before and after the rest of the network used them"
    images = subject.normalised(subject.data, "test")
    bench = subject.bench(augment="none")
    for name, network in bench.networks.items():
        for layer in range(IMAGE_LAYER, len(network.layer_names)):
            chunk, _ = next(chunks(images))  # one chunk shows it
            with torch.no_grad():
                given = network.prefix(layer)(chunk)
                kept = given.clone()
                network.suffix(layer)(given)
            if gap := largest_difference(kept, given):
                why = f"network {name!r}: what runs after layer {layer} writes into what it gets"
                return Finding("activations", compared, gap, "fail", why)
    cell = subject.cell
    # MSE asks for both representations.
    loss = LossConfig.model_validate({"task": 1.0, "mse": 1.0})
    subject.run(bench, settings=subject.short.model_copy(update={"loss": loss}))
    sides = (
        ("sender", cell.sender, cell.sender_layer),
        ("expected", cell.receiver, cell.receiver_layer),
    )
    for split, loader in bench.loaders(subject.short.training.batch_size).items():
        for role, name, layer in sides:
            network = bench.networks[name]
            cached = bench.cache.get(f"{role} {split}", network, layer, loader)
            if cached is None:  # too large to be kept
                continue
            pixels = subject.normalised(subject.data, split)
            fresh = subject.outputs(network.prefix(layer), pixels)
            if gap := largest_difference(cached.cpu(), fresh):
                why = f"the cached {split} activations of {name}:{layer} ({role}) were overwritten"
                return Finding("activations", compared, gap, "fail", why)
    return Finding("activations", compared, 0.0, "pass")
