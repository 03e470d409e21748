"""Model stitching in plain PyTorch, without the project's classes: the reference of several checks.

Networks are cut with forward hooks, a batch is a tensor of indices, the optimizer is torch's, and the
learning rate is a formula. Equal results cannot share a fault of the project's abstractions.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.data.batches import CHUNK, choose_batch_size


def order(seed: int, epoch: int, count: int) -> Tensor:
    """Compute the order of an epoch: a permutation, int64 [count].

    torch.randperm with a generator whose seed is the first 63 bits of SHA-256 over the JSON text of
    [seed, "order", epoch].
    """
    generator = torch.Generator().manual_seed(_derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


def _derive_seed(*purpose: object) -> int:
    """Return the first 63 bits of SHA-256 over the JSON text of a list."""
    digest = hashlib.sha256(json.dumps(purpose).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def initial_tensors(
    seed: int, sender: tuple[int, ...], receiver: tuple[int, ...]
) -> dict[str, Tensor]:
    """Compute the initial weights of the paper's stitch: torch's initialization of one convolution.

    Args:
        seed: seed of the sweep.
        sender: (C, H, W).
        receiver: (C', H', W').
    """
    size = max(1, sender[1] // receiver[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_derive_seed(seed, 0, "stitch", "paper", list(sender), list(receiver)))
        convolution = nn.Conv2d(sender[0], receiver[0], size, stride=size)
    return {f"conv.{name}": tensor for name, tensor in convolution.state_dict().items()}


def crop_flip(images: Tensor, seed: int, epoch: int) -> Tensor:
    """Apply an epoch's `crop_flip` to images uint8 [N, C, H, W]: pad, crop, and mirror half of them."""
    generator = torch.Generator().manual_seed(_derive_seed(seed, "augment", epoch))
    count, size = len(images), images.shape[-1]
    pad = size // 8
    corners = torch.randint(2 * pad + 1, (count, 2), generator=generator).tolist()
    mirrored = torch.randint(2, (count, 1), generator=generator).flatten().tolist()
    padded = functional.pad(images, (pad, pad, pad, pad))
    augmented = []
    for image, (top, left), mirror in zip(padded, corners, mirrored, strict=True):
        window = image[:, top : top + size, left : left + size]
        augmented.append(window.flip(-1) if mirror else window)
    return torch.stack(augmented)


def factor(schedule: str, warmup: float, step: int, total: int) -> float:
    """Return a step's learning rate divided by the base learning rate.

    Args:
        schedule: name of the schedule.
        warmup: length of the warm-up, as a share of `total`.
        step: from 0.
        total: number of steps.
    """
    ramp = round(warmup * total)
    if step < ramp:
        return (step + 1) / ramp
    progress = (step - ramp) / max(1, total - ramp)
    return {
        "constant": 1.0,
        "linear": 1 - progress,
        "warmup_cosine": (1 + math.cos(math.pi * progress)) / 2,
    }[schedule]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows of logits [N, K] whose largest entry is at the label, int64 [N]."""
    return (logits.argmax(dim=1) == labels).double().mean().item()


def chunks(images: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Yield images [N, ...] in chunks of the evaluation's size, and the number of valid rows of each.

    The last chunk is padded with images from the beginning.
    """
    count = len(images)
    for first in range(0, count, CHUNK):
        indices = torch.arange(first, first + CHUNK, device=images.device) % count
        yield images[indices], min(CHUNK, count - first)


def representation(network: nn.Module, module: nn.Module | None, images: Tensor) -> Tensor:
    """Return the output of `module` inside `network` for images [B, C, H, W].

    If `module` is None, return the images themselves.
    """
    if module is None:
        return images
    outputs = []
    hook = module.register_forward_hook(lambda _, inputs, output: outputs.append(output.clone()))
    network(images)
    hook.remove()
    return outputs[0]


def continued(
    network: nn.Module, module: nn.Module | None, images: Tensor, replacement: Tensor
) -> Tensor:
    """Return the logits [B, K] of `network` with the output of `module` replaced."""
    if module is None:
        return network(replacement)
    hook = module.register_forward_hook(lambda _, inputs, output: replacement)
    logits = network(images)
    hook.remove()
    return logits


def stitched(weight: Tensor, bias: Tensor, x: Tensor, size: int) -> Tensor:
    """Apply the paper's stitch: a strided convolution, then nearest-neighbor upsampling to `size`."""
    y = functional.conv2d(x, weight, bias, stride=weight.shape[-1])
    times = size // y.shape[-1]
    return y.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3) if times > 1 else y


def train(
    sender: tuple[nn.Module, nn.Module | None],
    receiver: tuple[nn.Module, nn.Module | None],
    images: Tensor,
    labels: Tensor,
    start: Mapping[str, Tensor],
    loss: Mapping[str, float],
    settings: Any,
    lr: float,
    seed: int,
    *,
    whole: bool,
    cast: torch.dtype | None = None,
    scaled: bool = False,
) -> dict[str, Tensor]:
    """Train the paper's stitch between two networks.

    Args:
        sender: the network and the module after which it is cut, None for the image.
        receiver: likewise.
        images: float32 [N, C, H, W], normalized.
        labels: int64 [N].
        start: `conv.weight` and `conv.bias` before the first step.
        loss: weights of `task` and `mse`.
        settings: the training section of a configuration.
        lr: base learning rate.
        seed: seed of the sweep.
        whole: whether to compute all representations once, in chunks, rather than for every batch;
            their last bits depend on it.
        cast: compute under autocast in this type.
        scaled: scale gradients as mixed-precision training does.

    Returns:
        `conv.weight` and `conv.bias` after the last step.
    """
    device = images.device
    count = len(images)
    batch = choose_batch_size(settings.batch_size, count)
    inputs, expected = [], []
    with torch.no_grad():
        for chunk, valid in chunks(images):
            inputs.append(representation(*sender, chunk)[:valid])
            expected.append(representation(*receiver, chunk)[:valid])
    all_x, all_e = torch.cat(inputs), torch.cat(expected)
    # The variance of each channel over all images and positions, then the mean over channels.
    variance = all_e.double().transpose(0, 1).flatten(1).var(dim=1, correction=0).mean().item()

    weight = start["conv.weight"].to(device).clone().requires_grad_()
    bias = start["conv.bias"].to(device).clone().requires_grad_()
    name = settings.optimizer.name.lower()
    (make,) = (c for n, c in vars(torch.optim).items() if n.lower() == name and callable(c))
    optimizer = make([weight, bias], lr=lr, **settings.optimizer.options)
    scaler = torch.amp.GradScaler(device.type, enabled=scaled)
    total = settings.epochs * math.ceil(count / batch)
    step = 0
    for epoch in range(settings.epochs):
        for batch_indices in order(seed, epoch, count).to(device).split(batch):
            share = factor(settings.schedule.name, settings.schedule.warmup, step, total)
            for group in optimizer.param_groups:
                group["lr"] = lr * share
            optimizer.zero_grad()
            with torch.no_grad():
                x = (
                    all_x[batch_indices]
                    if whole
                    else representation(*sender, images[batch_indices])
                )
                e = (
                    all_e[batch_indices]
                    if whole
                    else representation(*receiver, images[batch_indices])
                )
            with torch.autocast(device.type, dtype=cast, enabled=cast is not None):
                s = stitched(weight, bias, x, e.shape[-1])
                values = {}
                if "task" in loss:
                    logits = continued(*receiver, images[batch_indices], s)
                    values["task"] = functional.cross_entropy(logits, labels[batch_indices])
                if "mse" in loss:
                    values["mse"] = (s - e).square().mean() * (e.shape[1] / (variance or 1.0))
            weighted = torch.stack([loss[term] * value for term, value in values.items()])
            scaler.scale(weighted.sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            step += 1
    return {"conv.weight": weight.detach().cpu(), "conv.bias": bias.detach().cpu()}
