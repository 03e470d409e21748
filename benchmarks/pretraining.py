"""The time to train a network with `recipe: fast`, compared with a plain recipe, and both accuracies.

    python benchmarks/pretraining.py [--data FOLDER] [--network resnet1111] [--width 16] [--seeds 0]
                                     [--train-images 9000] [--epochs 15] [--fast '{"epochs": 8}'] [--json]

The plain recipe is that of experiments/cifar10/r1111_cpu: SGD with momentum 0.9, learning rate 0.1,
weight decay 5e-4, in float32. Epochs of both trainings take turns in one process and one thread, so that
both meet the same load of the machine. Seconds include the evaluation after every epoch and the
evaluation of the finished network on all splits. CPU seconds are those of the training thread; on a busy
machine their ratio is the fairer one.

`--data` names a folder with parquet files of CIFAR-10, or of another data set; by default the digits of
scikit-learn are used, at 16 x 16 pixels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from statistics import mean, median
from typing import Any

from _common import machine, table

from stitch_sweep.config.root import Config
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load
from stitch_sweep.networks.pretraining import Progress, train_network
from stitch_sweep.networks.recipes import make_recipe

PLAIN = {
    "batch_size": 128,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
}


def configure(arguments: argparse.Namespace, seed: int, pretraining: dict[str, Any]) -> Config:
    """Return the configuration of one network."""
    data: dict[str, Any] = {"name": "digits", "image_size": 16}
    if arguments.data:
        data = {"name": "parquet", "path": arguments.data}
        data |= {"train_images": arguments.train_images} if arguments.train_images else {}
    network = {"name": "n", "family": arguments.network, "seed": seed, **arguments.options}
    return Config.model_validate(
        {
            "data": data,
            "networks": [{**network, "width": arguments.width}],
            "pairs": [{"sender": "n", "receiver": "n"}],
            "pretraining": pretraining,
        }
    )


class Training:
    """One training, epoch by epoch, with its seconds."""

    def __init__(self, config: Config, data: Data) -> None:
        recipe = make_recipe(config.networks[0], config, data)
        self.epochs = recipe.epochs
        self.seconds = self.cpu_seconds = 0.0
        self.last: Progress | None = None
        self._running: Iterator[Progress] = train_network(
            recipe, data, threads=config.resources.cpu, checkpoint_seconds=float("inf")
        )

    def run_epoch(self) -> bool:
        """Run the next epoch; return whether there was one."""
        start, cpu_start = time.perf_counter(), time.thread_time()
        progress = next(self._running, None)
        self.seconds += time.perf_counter() - start
        self.cpu_seconds += time.thread_time() - cpu_start
        self.last = progress or self.last
        return progress is not None

    def result(self) -> dict[str, float]:
        """Return seconds and accuracies of the finished training."""
        assert self.last is not None
        assert self.last.accuracy is not None
        return {
            "epochs": self.epochs,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            **{f"{split} accuracy": value for split, value in self.last.accuracy.items()},
        }


def compare(arguments: argparse.Namespace, seed: int, data: Data) -> dict[str, Any]:
    """Train a network with both recipes, whose epochs take turns."""
    sections = {
        "plain": {**PLAIN, "epochs": arguments.epochs},
        "fast": {"recipe": "fast", **arguments.fast},
    }
    trainings = {
        name: Training(configure(arguments, seed, section), data)
        for name, section in sections.items()
    }
    running = dict(trainings)
    while running:
        # In proportion to the epochs that are left, so that both end at about the same time.
        name = max(running, key=lambda n: 1 - _share_done(running[n]))
        if not running[name].run_epoch():
            del running[name]
    results = {name: training.result() for name, training in trainings.items()}
    ratios = {
        key: results["fast"][key] / results["plain"][key] for key in ("seconds", "cpu_seconds")
    }
    return {"seed": seed, **results, "ratios": ratios}


def _share_done(training: Training) -> float:
    return training.last.epoch / training.epochs if training.last else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data")
    parser.add_argument("--network", default="resnet1111")
    parser.add_argument("--options", type=json.loads, default={}, help="family's options, as JSON")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--epochs", type=int, default=15, help="epochs of the plain recipe")
    parser.add_argument("--fast", type=json.loads, default={}, help="keys of pretraining, as JSON")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    data = load(configure(arguments, 0, {}).data)
    runs = [compare(arguments, seed, data) for seed in arguments.seeds]
    about = {**machine(), "training images": len(data.train)}
    if arguments.json:
        print(json.dumps({"machine": about, "runs": runs}))
        return
    print("machine\n" + table(list(about.items())))
    for run in runs:
        print(f"\n{arguments.network}, width {arguments.width}, seed {run['seed']}")
        for name in ("plain", "fast"):
            values = ", ".join(f"{key} {value:.4g}" for key, value in run[name].items())
            print(f"  {name:<6} {values}")
    print("\nfast / plain")
    rows = [
        (f"median ratio of {key}", median(run["ratios"][key] for run in runs))
        for key in ("seconds", "cpu_seconds")
    ]
    gain = mean(run["fast"]["test accuracy"] - run["plain"]["test accuracy"] for run in runs)
    print(table([*rows, ("mean gain of test accuracy", f"{gain:+.4f}")]))


if __name__ == "__main__":
    main()
