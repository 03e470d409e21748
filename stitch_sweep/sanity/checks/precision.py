"""What float32 buys, and whether it really is float32."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.frozen import FrozenNetwork
from stitch_sweep.sanity import plain
from stitch_sweep.sanity.differences import largest_difference
from stitch_sweep.sanity.subject import Finding, Subject, joined

CONCLUSION = 0.01
"""An accuracy that moves by more may change what a matrix is read as."""

_SMALL = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def precision(subject: Subject) -> Finding:
    """Logits and accuracy of one stitch in float32, and stored, computed and trained in 16 bits."""
    sender, i, receiver, j = subject.cell_networks()
    stitch = subject.run(sender, i, receiver, j).result.stitch
    images = subject.normalised(subject.data, "test")
    labels = subject.data.test.labels.cpu()
    compared = "float32 and 16-bit numbers, stored, computed and trained with"
    if wrong := _reduced(subject, sender, i, stitch, receiver, j, images):
        return Finding("precision", compared, None, "fail", wrong)

    base = subject.outputs(joined(sender, i, stitch, receiver, j), images)
    accuracy = _accuracy(base, labels)
    figures: dict[str, Any] = {"float32": {"accuracy": accuracy}}
    for name, dtype in _SMALL.items():
        stored = joined(
            _through(sender, dtype), i, _rounded(stitch, dtype), _through(receiver, dtype), j
        )
        figures[f"{name}, stored"] = _moved(base, subject.outputs(stored, images), labels)
        network = joined(sender, i, stitch, receiver, j)
        with torch.autocast(subject.device, dtype=dtype):
            computed = subject.outputs(network, images).float()
        figures[f"{name}, computed"] = _moved(base, computed, labels)
    figures |= _trained(subject, sender, i, receiver, j, images, labels)

    far = {
        name: found["accuracy"] - accuracy
        for name, found in figures.items()
        if name.endswith("stored") and abs(found["accuracy"] - accuracy) > CONCLUSION
    }
    halved = {
        network.name: short
        for network in (sender, receiver)
        for parameter in network.network.parameters()
        if (short := _short(parameter))
    }
    moves = ", ".join(f"{n} {v['difference']:.2g}" for n, v in figures.items() if "difference" in v)
    detail = f"logits move by: {moves} (the scaler skips steps until its scale fits)"
    if far:
        which = "; ".join(f"{name}: accuracy {gap:+.4f}" for name, gap in far.items())
        detail = f"a model stored in 16 bits would change a conclusion: {which}"
    if halved:
        which = ", ".join(f"{name} in {short}" for name, short in halved.items())
        detail = f"stored in 16 bits already: {which}; {detail}"
    worst = max(v["difference"] for v in figures.values() if "difference" in v)
    return Finding(
        "precision", compared, worst, "warn" if far or halved else "pass", detail, figures
    )


def _reduced(
    subject: Subject,
    sender: FrozenNetwork,
    i: int,
    stitch: nn.Module,
    receiver: FrozenNetwork,
    j: int,
    images: Tensor,
) -> str:
    """Where something has fewer bits than float32, if it has."""
    device = images.device
    stages: dict[str, Tensor] = {f"the stitch's {n}": p for n, p in stitch.named_parameters()}
    with torch.no_grad():
        x = images[:64]
        stages["the sender's representation"] = given = sender.prefix(i)(x)
        stages["the expected representation"] = receiver.prefix(j)(x)
        stages["the stitched representation"] = put = stitch.to(device).eval()(given)
        stages["the logits"] = receiver.suffix(j)(put)
    for what, tensor in stages.items():
        if tensor.dtype != torch.float32:
            return f"{what}: {str(tensor.dtype).removeprefix('torch.')}, not float32"
        if name := _short(tensor):
            return f"{what} went through {name}: none of its values has more bits than that"
    return ""


def _short(tensor: Tensor) -> str | None:
    """The 16-bit type that holds all values of a float32 tensor exactly, if there is one."""
    # Zeros and powers of two fit anywhere, and are what fresh weights are full of.
    told = tensor[~torch.isin(tensor.frexp().mantissa.abs(), torch.tensor([0.0, 0.5]).to(tensor))]
    for name, dtype in _SMALL.items():
        if len(told) >= 8 and torch.equal(told.to(dtype).float(), told):
            return name
    return None


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).double().mean().item()


def _moved(base: Tensor, logits: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        "difference": largest_difference(base, logits),
        "accuracy": _accuracy(logits, labels),
        "predictions_changed": (base.argmax(1) != logits.argmax(1)).double().mean().item(),
    }


def _rounded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy whose numbers went through `dtype`, as those of a model stored so have."""
    return copy.deepcopy(module).to(dtype).float()


def _through(network: FrozenNetwork, dtype: torch.dtype) -> FrozenNetwork:
    return FrozenNetwork(_rounded(network.network, dtype), network.name, network.layer_names)


def _trained(
    subject: Subject,
    sender: FrozenNetwork,
    i: int,
    receiver: FrozenNetwork,
    j: int,
    images: Tensor,
    labels: Tensor,
) -> dict[str, Any]:
    """Accuracies of the paper's stitch trained in 16 bits, with and without a gradient scaler."""
    try:
        places = subject.places(sender, i, receiver, j)
    except LookupError:
        return {}
    settings = subject.plain_settings("task")
    start = subject.start(sender, i, receiver, j, settings)
    begun = {k: v.detach().cpu().clone() for k, v in start.stitch.state_dict().items()}
    inputs = subject.normalised(subject.data, "train")
    targets = subject.data.train.labels.to(subject.device)
    found: dict[str, Any] = {}
    base: Tensor | None = None
    for name, cast, scaled in (
        ("float32, trained", None, False),
        ("bfloat16, trained", torch.bfloat16, False),
        ("float16, trained", torch.float16, False),
        ("float16, trained with a grad scaler", torch.float16, True),
    ):
        state = plain.train(
            (sender.network, places[0]),
            (receiver.network, places[1]),
            inputs,
            targets,
            begun,
            "task",
            settings.training,
            subject.config.seed,
            cast=cast,
            scaled=scaled,
        )
        start.stitch.load_state_dict(state)
        logits = subject.outputs(joined(sender, i, start.stitch, receiver, j), images)
        if base is None:
            base = logits
            found[name] = {"accuracy": _accuracy(logits, labels)}
        else:
            found[name] = _moved(base, logits, labels)
    return found
