"""Training steps and trials per second in packs of several widths.

    python benchmarks/packs.py [--networks digits4] [--widths 1 4 8 16] [--rounds 3] [--json]

Every round trains one pack of each width, into every layer of an untrained R1111, from the same layer of
the same network: each member has its own initial weights. One process, one thread; frozen representations
come from a cache that is filled before the clock starts. Steps per second count the steps of all members,
with the validation after each epoch; trials per second also count set-up and final evaluation. Seconds
are CPU time, which other processes disturb less than wall time. Ratios are medians of the ratios to the
first width of the same round.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from _common import machine

from stitch_sweep.config.data import DataConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.splits import SPLITS
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load, make_loaders
from stitch_sweep.networks.families.building import build
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.pack import Pack
from stitch_sweep.training.representations import ActivationCache

NETWORKS = {"digits4": (4, 16, 1), "digits8": (8, 16, 1), "r1111": (16, 32, 3)}
"""Width, image size and channels by name."""
TRAIN_IMAGES = 512


def make_data(size: int, channels: int) -> Data:
    """Return handwritten digits of a size, repeated over the channels."""
    data = load(
        DataConfig.model_validate(
            {"name": "digits", "image_size": size, "train_images": TRAIN_IMAGES, "test_images": 256}
        )
    )
    splits = {
        split: replace(images, images=images.images.expand(-1, channels, -1, -1).contiguous())
        for split in SPLITS
        if (images := getattr(data, split))
    }
    return replace(data, **splits, mean=data.mean.expand(channels), std=data.std.expand(channels))


def run(name: str, layer: int, width: int, epochs: int, cache: ActivationCache) -> dict[str, float]:
    """Train one full pack; return its steps and trials per second."""
    network, loaders = SUBJECTS[name]
    settings = TrialSettings.model_validate({"training": {"epochs": epochs}})
    began = time.process_time()
    trainings = [
        StitchTraining(
            *(network, network, layer, layer, loaders, settings),
            repeat=repeat,
            cache=cache,
            pack_width=width,
        )
        for repeat in range(width)
    ]
    pack = Pack(width)
    for training in trainings:
        pack.add(training)
    trained = time.process_time()
    while pack.members:
        pack.run_epoch()
    evaluated = time.process_time()
    for training in trainings:
        training.finish()
    steps = sum(training.step for training in trainings)
    return {
        "steps": steps / (evaluated - trained),
        "trials": width / (time.process_time() - began),
    }


SUBJECTS: dict[str, tuple[FrozenNetwork, Any]] = {}


def measure(name: str, widths: list[int], rounds: int, epochs: int) -> list[dict[str, Any]]:
    """Measure all layers of one network."""
    width, size, channels = NETWORKS[name]
    torch.manual_seed(0)
    options = {"blocks": [1, 1, 1, 1], "width": width}
    network = FrozenNetwork(build("resnet", channels, 10, options, image_size=size).eval())
    SUBJECTS[name] = network, make_loaders(make_data(size, channels), 64, seed=0)
    rows = []
    for layer in range(len(network.layer_names)):
        cache = ActivationCache(limit_bytes=2**31)
        run(name, layer, widths[0], 1, cache)
        results = [{w: run(name, layer, w, epochs, cache) for w in widths} for _ in range(rounds)]
        for w in widths:
            row: dict[str, Any] = {"network": name, "layer": layer, "width": w}
            for key in ("steps", "trials"):
                row[key] = median(result[w][key] for result in results)
                row[f"{key}_ratio"] = median(r[w][key] / r[widths[0]][key] for r in results)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--widths", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    about = machine()
    torch.set_num_threads(1)
    rows = []
    for name in args.networks:
        rows += measure(name, args.widths, args.rounds, args.epochs)
    if args.json:
        print(json.dumps({"machine": about, "rows": rows}))
        return
    print(about)
    print("network   layer  width   steps/s  ratio   trials/s  ratio")
    for row in rows:
        print(
            f"{row['network']:<9} {row['layer']:>5}  {row['width']:>5}  {row['steps']:>8.1f}  "
            f"{row['steps_ratio']:>5.2f}  {row['trials']:>9.2f}  {row['trials_ratio']:>5.2f}"
        )


if __name__ == "__main__":
    main()
