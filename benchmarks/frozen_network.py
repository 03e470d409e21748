"""The cost of a training step's frozen part, relative to the network as it is.

    python benchmarks/frozen_network.py [--repeats 15] [--threads 1] [--compiled] [--only WORD]

A step is the rest of the receiver forward, the cross-entropy of its logits, and backward to the stitch's
output, for a batch of 64. All settings of `training.frozen` and `training.precision` take turns in one
process. Ratios are those of the medians of CPU time, which other processes disturb less than wall time.

The floor is what no code can avoid: every convolution and linear layer alone, forward and backward to its
input, at the rate that this machine reaches in the same layout and number format. The multiply-adds of a
step are counted by PyTorch.

`--compiled` adds the compiled copies, and prints how long their first steps took.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Iterator, Sequence

import torch
from _common import machine, table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.networks.families.building import build, resolve
from stitch_sweep.networks.fast.comparison import measure_difference
from stitch_sweep.networks.fast.copies import FastSettings, training_network
from stitch_sweep.networks.frozen import FrozenNetwork

BATCH = 64
CASES = {
    "R1111, width 16, 3x32x32": ("resnet1111", {"width": 16}, (3, 32), (0, 1, 2, 3, 4)),
    "R1111, width 8, 1x16x16": ("resnet1111", {"width": 8}, (1, 16), (0, 1, 2, 3, 4)),
    "R1111, width 4, 1x16x16": ("resnet1111", {"width": 4}, (1, 16), (0, 1, 2, 3, 4)),
    "VGG11, width 16, 3x32x32": ("vgg11", {"width": 16}, (3, 32), (0, 2, 4, 7)),
    "ViT, depth 4, width 64, 3x32x32": ("vit4", {"width": 64, "heads": 4}, (3, 32), (0, 2, 4)),
}
SETTINGS = {
    "exact": FastSettings(),
    "fused": FastSettings("fused"),
    "fused, bfloat16": FastSettings("fused", "bfloat16"),
    "exact, bfloat16": FastSettings("exact", "bfloat16"),
}
COMPILED = {
    "compiled": FastSettings("compiled"),
    "compiled, bfloat16": FastSettings("compiled", "bfloat16"),
}


def make_network(name: str, options: dict[str, int], channels: int, size: int) -> FrozenNetwork:
    """Build a network whose BatchNorm is not the identity."""
    family, named = resolve(name)
    network = build(family, channels, 10, {**named, **options}, image_size=size)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)  # type: ignore[operator]
            norm.running_var.uniform_(0.5, 1.5)  # type: ignore[operator]
    return FrozenNetwork(network, name)


def take_step(rest: nn.Module, value: Tensor, labels: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return the CPU seconds of one step, the logits, and the gradient at the layer."""
    value = value.clone().requires_grad_()
    began = time.process_time()
    logits = rest(value)
    nn.functional.cross_entropy(logits, labels).backward()
    seconds = time.process_time() - began
    assert value.grad is not None
    return seconds, logits.detach(), value.grad


def floor_seconds(rest: nn.Module, value: Tensor, dtype: torch.dtype, repeats: int) -> float:
    """Return the CPU seconds of a step's convolutions and linear layers alone, medians summed."""
    calls: list[tuple[nn.Module, Tensor]] = []
    layers = [m for m in rest.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [m.register_forward_pre_hook(lambda m, x: calls.append((m, x[0]))) for m in layers]
    with torch.no_grad():
        rest(value)
    for hook in hooks:
        hook.remove()
    total = 0.0
    for layer, seen in calls:
        alone = copy.deepcopy(layer).to(dtype)
        x = seen.detach().to(dtype).requires_grad_()
        gradient = torch.ones_like(alone(x))
        seconds = []
        for turn in range(repeats + 2):
            began = time.process_time()
            torch.autograd.grad(alone(x), x, gradient)
            if turn > 1:
                seconds.append(time.process_time() - began)
        total += statistics.median(seconds)
    return total


def count_multiply_adds(rest: nn.Module, value: Tensor) -> int:
    """Return the multiply-adds of a step: forward, and backward to the value."""
    value = value.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        rest(value).sum().backward()
    return counter.get_total_flops() // 2


def measure_layer(
    network: FrozenNetwork,
    layer: int,
    settings: dict[str, FastSettings],
    images: Tensor,
    repeats: int,
) -> Iterator[tuple[str, str]]:
    """Yield the name of every setting, and its time and differences."""
    with torch.no_grad():
        value = network.prefix(layer)(images)
    labels = torch.arange(len(images)) % 10
    rests = {
        name: training_network(network, chosen).suffix(layer) for name, chosen in settings.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in rests}
    results: dict[str, tuple[Tensor, Tensor]] = {}
    first = {}
    for turn in range(repeats + 2):
        for name, rest in rests.items():
            began = time.perf_counter()
            spent, *results[name] = take_step(rest, value, labels)
            if turn == 0:
                first[name] = time.perf_counter() - began
            elif turn > 1:
                seconds[name].append(spent)
    yield "million multiply-adds", f"{count_multiply_adds(network.suffix(layer), value) / 1e6:.1f}"
    fused = rests["fused"]
    laid_out = value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
    for dtype in (torch.float32, torch.bfloat16):
        seconds_alone = floor_seconds(fused, laid_out, dtype, repeats)
        yield f"floor, {str(dtype).removeprefix('torch.')}", f"{seconds_alone * 1e3:.2f} ms"
    base = statistics.median(seconds["exact"])
    for name, values in seconds.items():
        ratio = base / statistics.median(values)
        text = f"{base * 1e3:.2f} ms" if name == "exact" else f"{ratio:.2f}"
        if name != "exact":
            difference = measure_difference(tuple(results["exact"]), tuple(results[name]))
            text += f" (logits {difference.output:.0e}, gradient {difference.gradient:.0e})"
        if name.startswith("compiled"):
            text += f", first step {first[name]:.1f} s"
        yield name, text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--only", default="", help="a part of a network's name")
    chosen = parser.parse_args(arguments)
    seed_everything(0, chosen.threads)
    print(table([*machine().items(), ("threads", chosen.threads)]))
    print(f"\ntimes as fast as exact, median of {chosen.repeats}:")
    settings = SETTINGS | (COMPILED if chosen.compiled else {})
    for title, (name, options, (channels, size), layers) in CASES.items():
        if chosen.only not in title:
            continue
        network = make_network(name, options, channels, size)
        images = torch.randn(BATCH, channels, size, size)
        for layer in layers:
            print(f"{title}, layer {layer}")
            rows = list(measure_layer(network, layer, settings, images, chosen.repeats))
            print(table(rows), flush=True)


if __name__ == "__main__":
    main()
