"""Whether the networks stay what they were, and their halves are the whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stitch_sweep.checkpoints import tensors_of
from stitch_sweep.config import StitchConfig
from stitch_sweep.frozen import IMAGE_LAYER, FrozenNetwork
from stitch_sweep.sanity.differences import first_difference, largest_difference
from stitch_sweep.sanity.subject import Finding, Subject, chunks
from stitch_sweep.training import ActivationCache, StitchTraining


def frozen(subject: Subject) -> Finding:
    """Every parameter, buffer, gradient and mode of both networks, step by step."""
    sender, i, receiver, j = subject.cell_networks()
    training = subject.start(sender, i, receiver, j)
    before = {n.name: _copies(n) for n in (sender, receiver)}
    count = sum(len(tensors) for tensors in before.values())
    compared = f"{count} parameters and buffers, their gradients and modes, at every step"
    trained = _run_in_train_mode(sender, receiver)
    for when in _stages(training):
        if trained:
            return Finding(
                "frozen", compared, None, "fail", f"{trained[0]} ran in train mode {when}"
            )
        for network in (sender, receiver):
            if wrong := _unfrozen(network):
                return Finding("frozen", compared, None, "fail", f"{wrong} {when}")
            found = first_difference(before[network.name], tensors_of(network.network))
            if found is not None:
                name, gap = found
                why = f"network {network.name!r}: {name} changed {when}"
                return Finding("frozen", compared, gap, "fail", why)
    return Finding("frozen", compared, 0.0, "pass")


def _stages(training: StitchTraining) -> Iterator[str]:
    """Take the training through all it does, and say each time what was done."""
    yield "before the first step"
    while not training.done:
        training.advance(1)
        yield f"after step {training.step}"
    training.finish()
    yield "after the evaluation"


def _run_in_train_mode(*networks: FrozenNetwork) -> list[str]:
    """Parts that are in train mode while they run; the list fills up as that happens."""
    found: list[str] = []
    for network in networks:
        for path, part in network.network.named_modules():
            what = f"network {network.name!r}: {path or 'the whole'}"

            def look(module: nn.Module, inputs: object, what: str = what) -> None:
                if module.training:
                    found.append(what)

            part.register_forward_pre_hook(look)
    return found


def _copies(network: FrozenNetwork) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in tensors_of(network.network).items()}


def _unfrozen(network: FrozenNetwork) -> str:
    """What could change the network, if anything could."""
    for path, part in network.network.named_modules():
        if part.training:
            return f"network {network.name!r}: {path or 'the whole'} is in train mode"
    for path, parameter in network.network.named_parameters():
        if parameter.requires_grad or parameter.grad is not None:
            return f"network {network.name!r}: {path} takes gradients"
    return ""


def identity(subject: Subject) -> Finding:
    """The two halves against the whole, at every layer, by hand and through an identity stitch."""
    images = subject.normalised(subject.data, "test")
    worst, wrong, places = 0.0, [], 0
    for name in dict.fromkeys((subject.cell.sender, subject.cell.receiver)):
        network = subject.network(name)
        whole = subject.outputs(network.network, images)
        own = network.evaluate(subject.loaders()["test"])
        for layer in range(IMAGE_LAYER, len(network.layer_names)):
            places += 1
            prefix, suffix = network.prefix(layer), network.suffix(layer)
            halves = subject.outputs(nn.Sequential(prefix, suffix), images)
            gap = largest_difference(whole, halves)
            worst = max(worst, gap)
            if gap:
                wrong.append(f"{name} cut after layer {layer} isn't {name}: other logits")
            result = _identity_stitch(subject, network, layer)
            if not torch.equal(result, own.predictions):
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


def _identity_stitch(subject: Subject, network: FrozenNetwork, layer: int) -> Tensor:
    """Predictions of a network with an identity stitch into itself, as a trial makes them."""
    settings = subject.settings.model_copy(
        update={"stitch": StitchConfig.model_validate({"name": "identity"})}
    )
    result = subject.start(network, layer, network, layer, settings).finish()
    assert result.predictions is not None
    return result.predictions


def activations(subject: Subject) -> Finding:
    """Representations before and after the rest of the network used them, cached ones included."""
    sender, i, receiver, j = subject.cell_networks()
    compared = "activations before and after the rest of the network used them"
    images = subject.normalised(subject.data, "test")
    for network in dict.fromkeys((sender, receiver)):
        for layer in range(IMAGE_LAYER, len(network.layer_names)):
            for chunk, _ in chunks(images):
                with torch.no_grad():
                    given = network.prefix(layer)(chunk)
                    kept = given.clone()
                    network.suffix(layer)(given)
                if gap := largest_difference(kept, given):
                    why = (
                        f"network {network.name!r}: what runs after layer {layer} writes into the "
                        "tensor it gets"
                    )
                    return Finding("activations", compared, gap, "fail", why)
                break  # one chunk shows it
    cache = ActivationCache(2**40)
    loaders = subject.loaders()
    subject.run(sender, i, receiver, j, loaders=loaders, cache=cache)
    for split, loader in loaders.items():
        kept = cache.get(f"sender {split}", sender, i, loader)
        assert kept is not None
        fresh = subject.outputs(sender.prefix(i), subject.normalised(subject.data, split))
        if gap := largest_difference(kept.cpu(), fresh):
            why = f"the cached {split} activations of {subject.cell.sender}:{i} were overwritten"
            return Finding("activations", compared, gap, "fail", why)
    return Finding("activations", compared, 0.0, "pass")
