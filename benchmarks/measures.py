"""The time of CCA and CKA compared with the covariance products that they need.

    python benchmarks/measures.py [--samples 10000] [--units 512] [--repeats 5] [--threads 1]

CCA needs x'x, y'y and x'y of centered rows; debiased CKA needs three products too. Both are timed with
the accumulators that trials use, in float64, and compared with these three products of the same matrices,
alternately and in one run. The ratio is that of the medians. The goal is a ratio below 2.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from _common import machine, table
from torch import Tensor

from stitch_sweep.losses.cca import cca, pwcca, svcca
from stitch_sweep.losses.cka import CenteredKernelAlignment
from stitch_sweep.losses.moments import Moments

CHUNK = 1000


def products(x: Tensor, y: Tensor) -> None:
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    for first, second in ((x, x), (y, y), (x, y)):
        first.T @ second


def canonical(measure: Callable[[Moments], Tensor | None]) -> Callable[[Tensor, Tensor], None]:
    def run(x: Tensor, y: Tensor) -> None:
        moments: Moments | None = None
        for part in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
            chunk = Moments.of(*part)
            moments = chunk if moments is None else moments.merged(chunk)
        assert moments is not None
        measure(moments)

    return run


def kernel(x: Tensor, y: Tensor) -> None:
    accumulated = CenteredKernelAlignment()
    for part in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        accumulated.add(*part)
    accumulated.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(table([*machine().items(), ("threads", arguments.threads)]))

    generator = torch.Generator().manual_seed(0)
    shape = (arguments.samples, arguments.units)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    y = x + torch.randn(shape, generator=generator, dtype=torch.float64)
    jobs: dict[str, Callable[[Tensor, Tensor], None]] = {
        "covariance products": products,
        "CCA": canonical(cca),
        "CKA": kernel,
        "SVCCA": canonical(svcca),
        "PWCCA": canonical(pwcca),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(arguments.repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job(x, y)
            if turn:  # the first call warms up
                seconds[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{shape[0]} samples, {shape[1]} units, median of {arguments.repeats}:")
    print(table([(f"{name}, s", median) for name, median in medians.items()]))
    base = medians.pop("covariance products")
    print(table([(f"{name} / products", median / base) for name, median in medians.items()]))


if __name__ == "__main__":
    main()
