"""Four trials on one GPU side by side, compared with one at a time.

    python benchmarks/gpu_sharing.py [--side-by-side 4] [--trials 8] [--width 64] [--json]

Every process trains stitches between two untrained R1111 on random 3 x 32 x 32 images, as a worker of a
sweep does, within its share of the GPU's memory less the measured context. The result is the joint
throughput of the processes divided by that of one process alone, without start-up. The script needs
neither Ray nor data; `--device cpu` tries it without a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch
from _common import machine, table


def work(asked: argparse.Namespace) -> None:
    """Run a process that reports that it is ready, waits for a line, trains, and reports its times."""
    from stitch_sweep.config.root import Config
    from stitch_sweep.data.images import Data, Images
    from stitch_sweep.networks.families.building import build
    from stitch_sweep.sweep.gpu_memory import limit_memory
    from stitch_sweep.training.workbench import Workbench

    if asked.device == "cuda":
        limit_memory(1 / asked.side_by_side, asked.context)
    network = {"family": "resnet1111", "width": asked.width, "weights": "random"}
    config = Config.model_validate(
        {
            "data": {"name": "digits"},
            "networks": [{"name": "a", "seed": 0, **network}, {"name": "b", "seed": 1, **network}],
            "pairs": [{"sender": "a", "receiver": "b"}],
            "training": {"epochs": asked.epochs, "batch_size": 256},
        }
    )
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Images:
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Images(pixels, torch.randint(0, 10, (count,), generator=generator))

    data = Data(
        name="made up", train=images(asked.images), validation=images(512), test=images(512),
        classes=tuple("0123456789"), mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25),
        fingerprint="",
    )  # fmt: skip
    networks = {of.name: build(of.family, 3, 10, of.options).eval() for of in config.networks}
    bench = Workbench(config, data, networks, asked.device)
    settings = config.trial_settings({})

    def train(sender_layer: int, receiver_layer: int) -> None:
        training = bench.training("a", sender_layer, "b", receiver_layer, settings)
        while not training.done:
            training.run_epoch()
        training.finish()

    train(0, 0)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.time()
    for k in range(asked.trials):
        train(k % 5, (k // 5) % 5)
    print(json.dumps([began, time.time()]), flush=True)


def throughput(processes: int, asked: argparse.Namespace, context: int) -> float:
    """Return the trials per second of several processes at once: the sum of their rates."""
    command = [sys.executable, __file__, "--work", f"--context={context}"]
    for name in ("trials", "width", "device", "epochs", "images"):
        command.append(f"--{name}={getattr(asked, name)}")
    command.append(f"--side-by-side={processes}")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    for process in running:
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("a process could not train: see above")
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    spans = [json.loads(process.communicate()[0]) for process in running]
    # All have the same work, so while they overlap their rates add up.
    return sum(asked.trials / (end - began) for began, end in spans)


def context_bytes(device: str) -> int:
    """Measure in a new process the memory that a process takes of the GPU before it computes."""
    if device != "cuda":
        return 0
    code = "from stitch_sweep.sweep.gpu_memory import measure_context as m; print(m().context)"
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    return int(found.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--side-by-side", type=int, default=4, help="processes on one GPU")
    parser.add_argument("--trials", type=int, default=8, help="of each process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--context", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked)
        return
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here, so there is nothing to measure.")
        return
    context = context_bytes(asked.device)
    alone, together = [], []
    for _ in range(asked.repeats):  # in turn, so that other load on the machine affects both
        alone.append(throughput(1, asked, context))
        together.append(throughput(asked.side_by_side, asked, context))
    ratio = median(together) / median(alone)
    found = {
        "context_mib": context / 2**20,
        "alone_trials_per_second": alone,
        "together_trials_per_second": together,
        "ratio": ratio,
    }
    if asked.json:
        print(json.dumps({"machine": machine(), **found}))
        return
    print(table([(key, str(value)) for key, value in found.items()]))
    print(", ".join(f"{key} {value}" for key, value in machine().items()))


if __name__ == "__main__":
    main()
