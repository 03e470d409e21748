"""Four simultaneous trials on one GPU, compared with one trial at a time.

    python benchmarks/gpu_sharing.py [--side-by-side 4] [--trials 8] [--width 64] [--json]

Every process trains stitches between two untrained R1111 on random 3 x 32 x 32 images, as a worker of a
sweep does, within its share of the GPU's memory without the measured context. The result is the joint
throughput of the processes divided by that of one process alone, without start-up. The script needs
neither Ray nor data. `--device cpu` runs it without a GPU, to test the script.
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


def work(arguments: argparse.Namespace) -> None:
    """Run a process that reports that it is ready, waits for a line, trains, and reports its times."""
    from stitch_sweep.config.root import Config
    from stitch_sweep.data.images import Data, Images
    from stitch_sweep.networks.families.building import build
    from stitch_sweep.sweep.gpu_memory import limit_memory
    from stitch_sweep.training.workbench import Workbench

    if arguments.device == "cuda":
        limit_memory(1 / arguments.side_by_side, arguments.context)
    architecture = {"family": "resnet1111", "width": arguments.width, "weights": "random"}
    config = Config.model_validate(
        {
            "data": {"name": "digits"},
            "networks": [
                {"name": "a", "seed": 0, **architecture},
                {"name": "b", "seed": 1, **architecture},
            ],
            "pairs": [{"sender": "a", "receiver": "b"}],
            "training": {"epochs": arguments.epochs, "batch_size": 256},
        }
    )
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Images:
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Images(pixels, torch.randint(0, 10, (count,), generator=generator))

    data = Data(
        name="made up", train=images(arguments.images), validation=images(512), test=images(512),
        classes=tuple("0123456789"), mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25),
        fingerprint="",
    )  # fmt: skip
    networks = {
        network.name: build(network.family, 3, 10, network.options).eval()
        for network in config.networks
    }
    bench = Workbench(config, data, networks, arguments.device)
    settings = config.trial_settings({})

    def train(sender_layer: int, receiver_layer: int) -> None:
        training = bench.training("a", sender_layer, "b", receiver_layer, settings)
        while not training.done:
            training.run_epoch()
        training.finish()

    train(0, 0)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.time()
    for k in range(arguments.trials):
        train(k % 5, (k // 5) % 5)
    print(json.dumps([start, time.time()]), flush=True)


def throughput(processes: int, arguments: argparse.Namespace, context: int) -> float:
    """Return the trials per second of several processes at once: the sum of their rates."""
    command = [sys.executable, __file__, "--work", f"--context={context}"]
    for name in ("trials", "width", "device", "epochs", "images"):
        command.append(f"--{name}={getattr(arguments, name)}")
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
    # All processes have the same work, so their rates add up while they overlap.
    return sum(arguments.trials / (end - start) for start, end in spans)


def context_bytes(device: str) -> int:
    """Measure, in a new process, the GPU memory that a process occupies before it computes."""
    if device != "cuda":
        return 0
    code = "from stitch_sweep.sweep.gpu_memory import measure_context as m; print(m().context)"
    process = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    return int(process.stdout)


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
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("This machine has no GPU, so there is nothing to measure.")
        return
    context = context_bytes(arguments.device)
    alone, together = [], []
    for _ in range(arguments.repeats):  # alternate, so that other load on the machine affects both
        alone.append(throughput(1, arguments, context))
        together.append(throughput(arguments.side_by_side, arguments, context))
    ratio = median(together) / median(alone)
    result = {
        "context_mib": context / 2**20,
        "alone_trials_per_second": alone,
        "together_trials_per_second": together,
        "ratio": ratio,
    }
    if arguments.json:
        print(json.dumps({"machine": machine(), **result}))
        return
    print(table([(key, str(value)) for key, value in result.items()]))
    print(", ".join(f"{key} {value}" for key, value in machine().items()))


if __name__ == "__main__":
    main()
