"""Measure the error rates of `fit_ladder`: the tables of docs/transition.md.

    python experiments/calibration/transition.py [--ladders 400] [--processes 2] [--seed 0] [--only TEXT]

Ladders with a known truth are simulated and fitted. Sizes go from 1 to 4 in equal ratios. With a
transition, the order parameter changes by 1. Noise is normal with the given standard deviation, unless a
row says otherwise. Rates come with their standard errors.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd

from stitch_sweep.analysis.ladder import transition
from stitch_sweep.analysis.ladder.fit import LadderFit
from stitch_sweep.analysis.ladder.transition import fit_ladder

LARGEST = 4.0  # of the sizes; the smallest is 1
LADDERS = {12: (6, 2), 20: (5, 4), 30: (6, 5)}  # points: (sizes, pairs of each)
SHORT = {5: (5, 1), 10: (5, 2)}
COLUMNS = {
    "transitions": [
        "truth",
        "claimed a transition",
        "interval holds the place",
        "would hold it, of all ladders",
        "length",
        "step",
    ],
    "trends": ["truth", "interval holds the slope", "rank correlation's p <= 0.05"],
}
SIGNIFICANCE = transition.SIGNIFICANCE
Random = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
        table: title of the table.
        name: title of the row.
        draw: simulates a ladder, and returns the place of its transition or, without one, its slope per
            doubling.
    """

    table: str
    name: str
    draw: Callable[[Random], tuple[pd.DataFrame, float]]


def ladder(sizes: int, each: int, missing: float, random: Random) -> pd.DataFrame:
    """Make points of `each` pairs at every size, a share of them missing at random."""
    t = np.repeat(np.linspace(0, 1, sizes), each)
    points = pd.DataFrame({"t": t, "size": LARGEST**t})
    if missing:
        kept = random.permutation(len(points))[: round((1 - missing) * len(points))]
        points = points.iloc[np.sort(kept)].reset_index(drop=True)
    return points


def flat(
    random: Random,
    *,
    points: int,
    noise: float,
    drop: float = 0.0,
    heavy: bool = False,
    uneven: bool = False,
    bent: bool = False,
) -> tuple[pd.DataFrame, float]:
    """Simulate a constant, or a line that falls by `drop` over the ladder.

    Args:
        random: source of the noise.
        points: number of points.
        noise: standard deviation of the noise.
        drop: fall of the line.
        heavy: draw noise from Student's t with 3 degrees of freedom, of the same variance.
        uneven: half of the variance is between networks, half is measurement error, whose known
            standard deviation varies tenfold.
        bent: the line is straight in size itself, not in its logarithm.
    """
    found = ladder(*(LADDERS | SHORT)[points], 0.0, random)
    along = (found["size"] - 1) / (LARGEST - 1) if bent else found["t"]
    errors = random.standard_normal(points)
    if heavy:
        errors = random.standard_t(3, points) / math.sqrt(3)
    if uneven:
        own = 10 ** random.uniform(-0.5, 0.5, points)
        own /= math.sqrt(np.mean(own**2))
        errors = math.sqrt(0.5) * (errors + own * random.standard_normal(points))
        reach = 1.645 * math.sqrt(0.5) * noise * own
    found["order"] = 1 - drop * along + noise * errors
    if uneven:
        found["low"], found["high"] = found["order"] - reach, found["order"] + reach
    return found, -drop * math.log(2) / math.log(LARGEST)


def linked(
    random: Random, *, sizes: int, pairs: list[tuple[int, int]], shared: float, noise: float
) -> tuple[pd.DataFrame, float]:
    """Simulate a constant; pairs of one size share networks, which cause a share of the variance."""
    rows = []
    for k in range(sizes):
        own = random.standard_normal(1 + max(map(max, pairs)))
        for a, b in pairs:
            of_networks = math.sqrt(shared / 2) * (own[a] + own[b])
            error = of_networks + math.sqrt(1 - shared) * random.standard_normal()
            rows.append((LARGEST ** (k / (sizes - 1)), f"{k}.{a}", f"{k}.{b}", 1 + noise * error))
    return pd.DataFrame(rows, columns=["size", "sender", "receiver", "order"]), 0.0


def change(
    random: Random, *, points: int, noise: float, width: float, missing: float = 0.0
) -> tuple[pd.DataFrame, float]:
    """Simulate a change from 1 to 0 whose middle 80 % take `width` of the ladder (0: a step).

    Its place is uniform in the logarithm of size, with at least two points on either side.
    """
    while True:
        found = ladder(*LADDERS[points], missing, random)
        place = random.uniform(width / 2, 1 - width / 2)
        t = found["t"].to_numpy()
        if min((t < place).sum(), (t > place).sum()) >= 2:
            break
    with np.errstate(over="ignore"):
        share = t > place if width == 0 else 1 / (1 + np.exp(-4.394 * (t - place) / width))
    found["order"] = 1 - share + noise * random.standard_normal(len(t))
    return found, LARGEST**place


def cases() -> Iterator[Case]:
    """Iterate over all cases, in the order of the document."""
    table = "false positives: independent points"
    for points in LADDERS:
        for noise in (0.05, 0.2):
            for drop in (0.0, 0.2, 1.0):
                name = f"{points} points, noise {noise}, " + (
                    f"line that falls by {drop}" if drop else "constant"
                )
                yield Case(table, name, partial(flat, points=points, noise=noise, drop=drop))
    table = "false positives: where the assumptions fail"
    for points in (12, 30):
        given = partial(flat, points=points, noise=0.1)
        yield Case(table, f"{points} points, heavy-tailed noise (t, 3)", partial(given, heavy=True))
        yield Case(table, f"{points} points, known uneven errors", partial(given, uneven=True))
        for noise in (0.05, 0.2):
            name = f"{points} points, noise {noise}, falls by 1 in size, not in its logarithm"
            bent = partial(flat, points=points, noise=noise, drop=1.0, bent=True)
            yield Case(table, name, bent)
    table = "false positives: pairs that share networks"
    both, ring = [(0, 1), (1, 0)], [(0, 1), (1, 2), (2, 0)]
    every = [(a, b) for a in range(3) for b in range(3) if a != b]
    layouts = {"both directions, 6 sizes": (6, both), "ring of 3, 5 sizes": (5, ring)}
    layouts["all 6 pairs of 3, 5 sizes"] = (5, every)
    for name, (sizes, pairs) in layouts.items():
        for shared in (0.0, 0.5, 0.9):
            drawn = partial(linked, sizes=sizes, pairs=pairs, shared=shared, noise=0.1)
            yield Case(table, f"{name}, {shared:.0%} of the variance shared", drawn)
    table = "transitions"
    for width in (0.0, 0.4, 0.8):
        shape = f"logistic over {width:.0%}" if width else "step"
        for points in LADDERS:
            for noise in (0.05, 0.2, 0.4) if points == max(LADDERS) else (0.05, 0.2):
                drawn = partial(change, points=points, noise=noise, width=width)
                yield Case(table, f"{shape}, {points} points, noise {noise}", drawn)
    for width in (0.0, 0.4):
        shape = f"logistic over {width:.0%}" if width else "step"
        drawn = partial(change, points=30, noise=0.2, width=width, missing=0.5)
        yield Case(table, f"{shape}, 30 points, half of them missing, noise 0.2", drawn)

    table = "trends"
    for points in SHORT:
        for drop in (0.0, 0.5):
            truth = f"line that falls by {drop}" if drop else "constant"
            given = partial(flat, points=points, noise=0.1, drop=drop)
            yield Case(table, f"{truth}, {points} points", given)
            uneven = partial(given, uneven=True)
            yield Case(table, f"{truth}, {points} points, known uneven errors", uneven)


def read(case: Case, seed: int, number: int) -> tuple[LadderFit, float]:
    """Simulate and fit a ladder."""
    random = np.random.default_rng([seed, number, *case.name.encode()])
    points, place = case.draw(random)
    # Fit a place in every ladder, so that coverage is known with and without the selection.
    transition.SIGNIFICANCE = 1.0 if case.table == "transitions" else SIGNIFICANCE
    return fit_ladder(points, seed=number), place


def share(hits: list[bool]) -> str:
    """Format a rate with its standard error."""
    if not hits:
        return "-"
    rate = float(np.mean(hits))
    return f"{rate:.3f} ± {math.sqrt(rate * (1 - rate) / len(hits)):.3f}"


def row(case: Case, found: list[tuple[LadderFit, float]]) -> str:
    """Format a row of a table in Markdown."""
    if case.table == "trends":
        inside = [fit.slope.low <= slope <= fit.slope.high for fit, slope in found]
        ranked = [fit.rank_p_value <= SIGNIFICANCE for fit, _ in found]
        return f"| {case.name} | {share(inside)} | {share(ranked)} |"
    claimed = [fit.p_value <= SIGNIFICANCE for fit, _ in found]
    if case.table != "transitions":
        return f"| {case.name} | {share(claimed)} |"
    held = [fit.transition.low <= place <= fit.transition.high for fit, place in found]
    of_claimed = [hit for hit, yes in zip(held, claimed, strict=True) if yes]
    fits = [fit for (fit, _), yes in zip(found, claimed, strict=True) if yes]
    lengths = [math.log(fit.transition.high / fit.transition.low, LARGEST) for fit in fits]
    steps = [fit.selected == "step" for fit in fits]
    rates = " | ".join(map(share, (claimed, of_claimed, held)))
    return f"| {case.name} | {rates} | {np.median(lengths):.2f} | {np.mean(steps):.2f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ladders", type=int, default=400, help="of each case")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose table or name holds this text")
    given = parser.parse_args()
    title = ""
    with get_context("fork").Pool(given.processes) as pool:
        for case in cases():
            if given.only not in f"{case.table}: {case.name}":
                continue
            if case.table != title:
                title = case.table
                print(f"\n{title}\n")
                columns = COLUMNS.get(title, ["truth", "claimed a transition"])
                print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
            numbers = range(given.ladders)
            print(row(case, pool.map(partial(read, case, given.seed), numbers, 10)), flush=True)


if __name__ == "__main__":
    main()
