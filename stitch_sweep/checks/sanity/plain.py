"""Stitching written out in plain PyTorch, with none of the project's classes.

Networks are cut with forward hooks, batches are indices, the optimizer is torch's, and the learning
rate is a formula. What arrives at the same numbers by this road can't owe them to our abstractions.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.networks.evaluation import CHUNK


def order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of an epoch: a permutation, int64 [count].

    torch.randperm under a generator seeded with the first 63 bits of SHA-256 over the JSON text of
    [seed, "order", epoch].
    """
    generator = torch.Generator().manual_seed(_derived(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


def _derived(*purpose: object) -> int:
    """The first 63 bits of SHA-256 over the JSON text of a list."""
    digest = hashlib.sha256(json.dumps(purpose).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def start(seed: int, sender: tuple[int, ...], receiver: tuple[int, ...]) -> dict[str, Tensor]:
    """The paper's stitch as a seed starts it: torch's own initialisation of one convolution.

    Args:
        seed: of the sweep.
        sender: (C, H, W).
        receiver: (C', H', W').
    """
    size = max(1, sender[1] // receiver[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_derived(seed, 0, "stitch", "paper", list(sender), list(receiver)))
        convolution = nn.Conv2d(sender[0], receiver[0], size, stride=size)
    return {f"conv.{name}": tensor for name, tensor in convolution.state_dict().items()}


def crop_flip(images: Tensor, seed: int, epoch: int) -> Tensor:
    """All images uint8 [N, C, H, W] as an epoch changes them: padded, cut out again, half mirrored."""
    generator = torch.Generator().manual_seed(_derived(seed, "augment", epoch))
    count, size = len(images), images.shape[-1]
    pad = size // 8
    corners = torch.randint(2 * pad + 1, (count, 2), generator=generator).tolist()
    mirrored = torch.randint(2, (count, 1), generator=generator).flatten().tolist()
    padded = functional.pad(images, (pad, pad, pad, pad))
    changed = []
    for image, (top, left), mirror in zip(padded, corners, mirrored, strict=True):
        window = image[:, top : top + size, left : left + size]
        changed.append(window.flip(-1) if mirror else window)
    return torch.stack(changed)


def factor(schedule: str, warmup: float, step: int, total: int) -> float:
    """Learning rate of a step (from 0) as a share of its base value; warm-up is a share of `total`."""
    ramp = round(warmup * total)
    if step < ramp:
        return (step + 1) / ramp
    done = (step - ramp) / max(1, total - ramp)
    return {
        "constant": 1.0,
        "linear": 1 - done,
        "warmup_cosine": (1 + math.cos(math.pi * done)) / 2,
    }[schedule]


def representation(network: nn.Module, module: nn.Module | None, images: Tensor) -> Tensor:
    """What `module` inside `network` puts out for images [B, C, H, W]; the images for None."""
    if module is None:
        return images
    found = []
    hook = module.register_forward_hook(lambda _, inputs, output: found.append(output.clone()))
    network(images)
    hook.remove()
    return found[0]


def continued(network: nn.Module, module: nn.Module | None, images: Tensor, put: Tensor) -> Tensor:
    """Logits [B, K] of `network` with `put` in the place of what `module` puts out."""
    if module is None:
        return network(put)
    hook = module.register_forward_hook(lambda _, inputs, output: put)
    logits = network(images)
    hook.remove()
    return logits


def stitched(weight: Tensor, bias: Tensor, x: Tensor, size: int) -> Tensor:
    """The paper's stitch: a strided convolution, and copies of every value where the map must grow."""
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
        images: float32 [N, C, H, W], normalised.
        labels: int64 [N].
        start: `conv.weight` and `conv.bias` before the first step.
        loss: weights of `task` and `mse`.
        settings: the training section of a configuration.
        lr: base learning rate.
        seed: of the sweep.
        whole: compute the frozen halves once, in chunks, rather than for every batch: their last bits
            depend on it.
        cast: compute under autocast in this type.
        scaled: scale gradients as mixed precision does.

    Returns:
        `conv.weight` and `conv.bias` after the last step.
    """
    device = images.device
    count, batch = len(images), settings.batch_size
    inputs, expected = [], []
    with torch.no_grad():
        for first in range(0, count, CHUNK):
            chunk = images[torch.arange(first, first + CHUNK, device=device) % count]
            real = min(CHUNK, count - first)
            inputs.append(representation(*sender, chunk)[:real])
            expected.append(representation(*receiver, chunk)[:real])
    all_x, all_e = torch.cat(inputs), torch.cat(expected)
    # Of every channel over all images and positions, and their mean.
    spread = all_e.double().transpose(0, 1).flatten(1).var(dim=1, correction=0).mean().item()

    weight = start["conv.weight"].to(device).clone().requires_grad_()
    bias = start["conv.bias"].to(device).clone().requires_grad_()
    name = settings.optimizer.name.lower()
    (chosen,) = (c for n, c in vars(torch.optim).items() if n.lower() == name and callable(c))
    optimizer = chosen([weight, bias], lr=lr, **settings.optimizer.options)
    scaler = torch.amp.GradScaler(device.type, enabled=scaled)
    total = settings.epochs * math.ceil(count / batch)
    step = 0
    for epoch in range(settings.epochs):
        for at in order(seed, epoch, count).to(device).split(batch):
            share = factor(settings.schedule.name, settings.schedule.warmup, step, total)
            for group in optimizer.param_groups:
                group["lr"] = lr * share
            optimizer.zero_grad()
            with torch.no_grad():
                x = all_x[at] if whole else representation(*sender, images[at])
                e = all_e[at] if whole else representation(*receiver, images[at])
            with torch.autocast(device.type, dtype=cast, enabled=cast is not None):
                s = stitched(weight, bias, x, e.shape[-1])
                values = {}
                if "task" in loss:
                    logits = continued(*receiver, images[at], s)
                    values["task"] = functional.cross_entropy(logits, labels[at])
                if "mse" in loss:
                    values["mse"] = (s - e).square().mean() * (e.shape[1] / (spread or 1.0))
            weighted = torch.stack([loss[term] * value for term, value in values.items()])
            scaler.scale(weighted.sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            step += 1
    return {"conv.weight": weight.detach().cpu(), "conv.bias": bias.detach().cpu()}
