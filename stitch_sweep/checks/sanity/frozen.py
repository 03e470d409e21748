"""The check that training changes nothing in sender and receiver."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from stitch_sweep.checks.differences import first_difference
from stitch_sweep.checks.sanity.findings import Finding
from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.storage.digests import tensors_of
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.workbench import Workbench


def frozen(subject: Subject) -> Finding:
    """Compare every parameter, buffer, gradient and mode of both networks, step by step."""
    bench = subject.bench()
    networks = bench.networks
    run_in_train_mode = _watch_modes(networks)
    # The subject's modules never run, so they are the reference.
    reference = {name: tensors_of(subject.modules[name]) for name in networks}
    count = sum(len(tensors) for tensors in reference.values())
    compared = f"{count} parameters and buffers, their gradients and modes, at every step"

    def fail(defect: str, gap: float | None = None) -> Finding:
        return Finding("frozen", compared, gap, "fail", defect)

    for moment in _stages(subject, bench):
        if run_in_train_mode:
            return fail(f"{run_in_train_mode[0]} ran in train mode {moment}")
        for name, network in networks.items():
            if defect := _unfrozen_part(network):
                return fail(f"network {name!r}: {defect} {moment}")
            difference = first_difference(reference[name], tensors_of(network.network))
            if difference is not None:
                path, gap = difference
                return fail(f"network {name!r}: {path} changed {moment}", gap)
    return Finding("frozen", compared, 0.0, "pass")


def _stages(subject: Subject, bench: Workbench) -> Iterator[str]:
    """Run a training from setup to evaluation, and yield the moment after each part."""
    yield "before the training"
    training: StitchTraining = subject.start(bench)
    yield "while the training was set up"
    while not training.done:
        training.advance(1)
        yield f"after step {training.step}"
    training.finish()
    yield "after the evaluation"


def _watch_modes(networks: dict[str, FrozenNetwork]) -> list[str]:
    """Return a list that collects the modules that run in train mode, from now on."""
    run_in_train_mode: list[str] = []
    for name, network in networks.items():
        for path, part in network.network.named_modules():
            label = f"network {name!r}: {path or 'the whole network'}"

            def record_mode(module: nn.Module, inputs: object, label: str = label) -> None:
                if module.training:
                    run_in_train_mode.append(label)

            part.register_forward_pre_hook(record_mode)
    return run_in_train_mode


def _unfrozen_part(network: FrozenNetwork) -> str:
    """Describe the first part of a network that is in train mode or takes gradients; "" if none."""
    for path, part in network.network.named_modules():
        if part.training:
            return f"{path or 'the whole network'} is in train mode"
    for path, parameter in network.network.named_parameters():
        if parameter.requires_grad or parameter.grad is not None:
            return f"{path} takes gradients"
    return ""
