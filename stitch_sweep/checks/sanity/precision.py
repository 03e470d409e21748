"""What float32 buys, and whether it really is float32."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.checks.differences import largest_difference
from stitch_sweep.checks.sanity import plain
from stitch_sweep.checks.sanity.subject import Finding, Subject, share_right
from stitch_sweep.training.workbench import Workbench

CONCLUSION = 0.01
"""An accuracy that moves by more may change what a matrix is read as."""
FLOAT32 = 5e-5
"""Float32 stays closer to float64, as a share of the largest logit; TF32 and bfloat16 don't."""

_SMALL = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def precision(subject: Subject) -> Finding:
    """Logits of one stitch in float32 and float64; and stored, computed and trained in 16 bits."""
    bench = subject.bench()
    stitch = subject.run(bench).result.stitch
    images = subject.normalised(subject.data, "test")
    labels = subject.data.test.labels.cpu()
    compared = "float32 against float64, and against 16 bits stored, computed, trained with"
    base = subject.outputs(subject.stitched(bench, stitch), images)
    if wrong := _reduced(subject, bench, stitch, images):
        return Finding("precision", compared, None, "fail", wrong)
    gap = _against_double(subject, bench, stitch, images, base)
    if gap > FLOAT32 * base.abs().max().item():
        why = f"logits are {gap:.2g} from those in float64: they aren't computed in float32"
        return Finding("precision", compared, gap, "fail", why)

    accuracy = share_right(base, labels)
    figures: dict[str, Any] = {"float32": {"accuracy": accuracy}}
    for name, dtype in _SMALL.items():
        stored = subject.bench(
            modules={n: (_rounded(subject.modules[n], dtype), n) for n in bench.networks}
        )
        network = subject.stitched(stored, _rounded(stitch, dtype))
        figures[f"{name}, stored"] = _moved(base, subject.outputs(network, images), labels)
        if _worth_computing(subject, name):
            with torch.autocast(subject.device, dtype=dtype):
                network = subject.stitched(bench, stitch)
                computed = subject.outputs(network, images).float()
            figures[f"{name}, computed"] = _moved(base, computed, labels)
    figures |= _trained(subject, images, labels)

    # One image more or less is no conclusion.
    limit = max(CONCLUSION, 2 / len(labels)) + 1e-9
    far = {
        name: found["accuracy"] - accuracy
        for name, found in figures.items()
        if name.endswith("stored") and abs(found["accuracy"] - accuracy) > limit
    }
    halved = {
        name: short
        for name in bench.networks
        for parameter in subject.modules[name].parameters()
        if (short := _short(parameter))
    }
    moves = ", ".join(f"{n} {v['difference']:.2g}" for n, v in figures.items() if "difference" in v)
    notes = [f"logits move by: {moves} (a scaler skips steps until its scale fits)"]
    if far:
        which = "; ".join(f"{name}: accuracy {moved:+.4f}" for name, moved in far.items())
        notes.insert(0, f"a model stored in 16 bits would change a conclusion: {which}")
    if halved:
        which = ", ".join(f"{name} in {short}" for name, short in halved.items())
        notes.insert(0, f"stored in 16 bits already: {which}")
    return Finding(
        "precision", compared, gap, "warn" if far or halved else "pass", "; ".join(notes), figures
    )


def _worth_computing(subject: Subject, name: str) -> bool:
    """A CPU takes twenty times as long in float16 as in float32, and nobody uses it so."""
    return name != "float16" or subject.device != "cpu" or subject.little


def _against_double(
    subject: Subject, bench: Workbench, stitch: nn.Module, images: Tensor, base: Tensor
) -> float:
    """The largest difference of the first logits from those that float64 gives."""
    few = images[:64]
    cell = subject.cell
    sender, receiver = (
        copy.deepcopy(part).double()
        for part in (
            bench.networks[cell.sender].prefix(cell.sender_layer),
            bench.networks[cell.receiver].suffix(cell.receiver_layer),
        )
    )
    doubled = copy.deepcopy(stitch).to(images.device).eval().double()
    with torch.no_grad():
        exact = receiver(doubled(sender(few.double()))).cpu()
    return largest_difference(base[: len(few)].double(), exact)


def _reduced(subject: Subject, bench: Workbench, stitch: nn.Module, images: Tensor) -> str:
    """Where something has fewer bits than float32 and its source has not, if that is so anywhere."""
    cell = subject.cell
    sender, receiver = bench.networks[cell.sender], bench.networks[cell.receiver]
    stages: dict[str, Tensor] = {f"the stitch's {n}": p for n, p in stitch.named_parameters()}
    for name, network in bench.networks.items():
        given = dict(subject.modules[name].named_parameters())
        for path, parameter in network.network.named_parameters():
            if not _short(given[path]):
                stages[f"network {name!r}: {path}"] = parameter
    with torch.no_grad():
        x = images[:64]
        stages["the sender's representation"] = rows = sender.prefix(cell.sender_layer)(x)
        stages["the expected representation"] = receiver.prefix(cell.receiver_layer)(x)
        put = stitch.to(images.device).eval()(rows)
        stages["the stitched representation"] = put
        stages["the logits"] = receiver.suffix(cell.receiver_layer)(put)
    for what, tensor in stages.items():
        if tensor.dtype != torch.float32:
            return f"{what}: {str(tensor.dtype).removeprefix('torch.')}, not float32"
        if (short := _short(tensor)) is not None:
            return f"{what} went through {short}: none of its values has more bits than that"
    return ""


def _short(tensor: Tensor) -> str | None:
    """The 16-bit type that holds all values of a float32 tensor exactly, if there is one."""
    # Zeros and powers of two fit anywhere, and are what fresh weights are full of.
    told = tensor[~torch.isin(tensor.frexp().mantissa.abs(), torch.tensor([0.0, 0.5]).to(tensor))]
    for name, dtype in _SMALL.items():
        if len(told) >= 8 and torch.equal(told.to(dtype).float(), told):
            return name
    return None


def _moved(base: Tensor, logits: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        "difference": largest_difference(base, logits),
        "accuracy": share_right(logits, labels),
        "predictions_changed": (base.argmax(1) != logits.argmax(1)).double().mean().item(),
    }


def _rounded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy whose numbers went through `dtype`, as those of a model stored so have."""
    return copy.deepcopy(module).to(dtype).float()


def _trained(subject: Subject, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracies of the paper's stitch trained in 16 bits, with and without a gradient scaler."""
    bench = subject.bench(augment="none")
    try:
        places = subject.places(bench)
    except LookupError:
        return {}
    cell = subject.cell
    settings = subject.plain({"task": 1.0})
    training = subject.start(bench, settings=settings)
    begun = {k: v.detach().cpu().clone() for k, v in training.stitch.state_dict().items()}
    inputs = subject.normalised(subject.data, "train")
    targets = subject.data.train.labels.to(subject.device)
    found: dict[str, Any] = {}
    base: Tensor | None = None
    for name, cast, scaled in (
        ("float32", None, False),
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
        ("float16", torch.float16, True),
    ):
        if not _worth_computing(subject, name):
            continue
        state = plain.train(
            (bench.networks[cell.sender].network, places[0]),
            (bench.networks[cell.receiver].network, places[1]),
            inputs,
            targets,
            begun,
            {"task": 1.0},
            settings.training,
            subject.base_lr(settings),
            subject.config.seed,
            whole=False,
            cast=cast,
            scaled=scaled,
        )
        training.stitch.load_state_dict(state)
        logits = subject.outputs(subject.stitched(bench, training.stitch), images)
        what = f"{name}, trained" + (" with a grad scaler" if scaled else "")
        if base is None:
            base = logits
            found[what] = {"accuracy": share_right(logits, labels)}
        else:
            found[what] = _moved(base, logits, labels)
    return found
