"""Measure the error rates of `fit_ladder`: the tables of docs/evidence/transition.md.

    python experiments/calibration/transition.py run [--ladders 400] [--processes 2] [--only TEXT]
    python experiments/calibration/transition.py table

`run` simulates ladders with a known truth, fits them in batches, and appends a row per batch to
`transition.csv`. It skips batches that the file already has, so that it can be stopped and resumed, or
extended with more ladders. `table` prints rates with their 95 % intervals (Clopper and Pearson).

A transition changes the order parameter by 1. Noise is the standard deviation of a point. Pairs of equal
size form a ring (a to b, b to c, c to a), and the networks cause a share of the noise's variance.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from stitch_sweep.analysis.ladder.fit import LadderFit
from stitch_sweep.analysis.ladder.simulation import SIGNIFICANCE
from stitch_sweep.analysis.ladder.transition import fit_ladder

FILE = Path(__file__).with_suffix(".csv")
BATCH = 25  # ladders
LARGEST = 16.0  # of the sizes of most designs; the smallest is 1
TENTHS = 2 * math.log(
    9
)  # a logistic change from one tenth to nine tenths, in units of its argument
SHARED = 0.5  # share of the variance that is due to networks, unless a case says otherwise

Random = np.random.Generator
Curve = Callable[[float], float]


@dataclass(frozen=True)
class Design:
    """The sizes and networks of a ladder.

    Attributes:
        name: as in the tables.
        sizes: number of sizes, in equal ratios.
        networks: number of networks of each size; as many pairs, in a ring.
        largest: the largest size. Around the middle of its logarithms, changes are where they are on a
            ladder up to `LARGEST`.
    """

    name: str
    sizes: int
    networks: int
    largest: float = LARGEST

    def positions(self) -> np.ndarray:
        """Compute log sizes, as shares of a ladder up to `LARGEST` with the same middle."""
        beyond = (math.log(self.largest) / math.log(LARGEST) - 1) / 2
        return np.linspace(-beyond, 1 + beyond, self.sizes)

    def points(self, curve: Curve, noise: float, shared: float, random: Random) -> pd.DataFrame:
        """Simulate points: `curve` maps positions to values."""
        rows = []
        for t in self.positions():
            own = random.standard_normal(self.networks)
            for a in range(self.networks):
                b = (a + 1) % self.networks
                error = math.sqrt(shared / 2) * (own[a] + own[b])
                error += math.sqrt(1 - shared) * random.standard_normal()
                rows.append((LARGEST**t, f"{t}.{a}", f"{t}.{b}", curve(t) + noise * error))
        return pd.DataFrame(rows, columns=["size", "sender", "receiver", "order"])


PLANNED = Design("12 sizes x 3", 12, 3)
DESIGNS = (
    PLANNED,
    Design("12 sizes x 6", 12, 6),
    Design("20 sizes x 3", 20, 3),
    Design("12 sizes x 3, four times the range", 12, 3, 4 * LARGEST),
)
SHORT = (Design("5 points", 5, 1), Design("10 points", 10, 1))


def power(exponent: float) -> Curve:
    """Make a power law of size that falls or rises by 1 over the sizes 1 to `LARGEST`."""
    end = LARGEST**exponent
    return lambda t: (LARGEST ** (t * exponent) - min(1.0, end)) / abs(1 - end)


def change(ratio: float, random: Random) -> tuple[Curve, float]:
    """Draw a fall by 1 between two plateaus, and the size at its middle.

    Args:
        ratio: of the sizes at nine tenths and at one tenth of the change; 1 is a step.
        random: source of the place. The middle 80 % of the change is within the sizes 1 to `LARGEST`,
            and the place is between their second and their last but one twelfth.
    """
    width = math.log(ratio) / math.log(LARGEST)
    margin = max(width / 2, 1 / 11)
    place = random.uniform(margin, 1 - margin)
    if not width:
        return lambda t: float(t < place), LARGEST**place
    return lambda t: 1 / (1 + math.exp(TENTHS * (t - place) / width)), LARGEST**place


def hinge(random: Random) -> tuple[Curve, float]:
    """Draw a curve that is flat and, from a place on, falls in log size, by 1 at `LARGEST`."""
    place = random.uniform(0.2, 0.6)
    return lambda t: -max(0.0, t - place) / (1 - place), math.nan


def hump(random: Random) -> tuple[Curve, float]:
    """Draw a curve that rises by 1 and falls again."""
    middle = random.uniform(0.35, 0.65)
    return lambda t: math.exp(-(((t - middle) / 0.2) ** 2)), math.nan


def fixed(curve: Curve) -> Callable[[Random], tuple[Curve, float]]:
    """Make the draw of a curve without a random part."""
    return lambda _: (curve, math.nan)


TRUTHS: dict[str, Callable[[Random], tuple[Curve, float]]] = {
    "constant": fixed(lambda t: 0.0),
    "line in log size, falls by 0.2": fixed(lambda t: -0.2 * t),
    "line in log size, falls by 1": fixed(lambda t: -t),
    "line in size": fixed(power(1.0)),
    "size^-0.5": fixed(power(-0.5)),
    "size^-1": fixed(power(-1.0)),
    "size^-1.47": fixed(power(-1.47)),
    "size^-3": fixed(power(-3.0)),
    "exponential, exp(-size / 3)": fixed(lambda t: math.exp(-(LARGEST**t) / 3)),
    "hump": hump,
    "step": lambda random: change(1.0, random),
    "logistic over a ratio of 3": lambda random: change(3.0, random),
    "logistic over a ratio of 9": lambda random: change(9.0, random),
    "flat, then a line": hinge,
}
NULLS = list(TRUTHS)[:10]
CHANGES = list(TRUTHS)[10:]
OUTSIDE = ["exponential, exp(-size / 3)", "hump"]  # curves that are no power laws


@dataclass(frozen=True)
class Case:
    """One row of a table: a design, a truth and a noise.

    Attributes:
        table: title of the table.
        design: of the ladder.
        truth: name in `TRUTHS`.
        noise: standard deviation of a point.
        ladders: how many of them to simulate, as a share of the option.
        shared: share of the variance that is due to networks.
    """

    table: str
    design: Design
    truth: str
    noise: float
    ladders: float = 1.0
    shared: float = SHARED

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that identify a case."""
        return (self.table, self.design.name, self.truth, str(self.noise), str(self.shared))


def cases() -> Iterator[Case]:
    """Iterate over all cases, in the order of the document."""
    for truth in NULLS:
        for noise in (0.02, 0.05, 0.2) if truth in ("constant", "size^-1") else (0.02, 0.05):
            yield Case("nulls", PLANNED, truth, noise)
    for shared in (0.0, 0.9):
        for truth in ("constant", "size^-1"):
            yield Case("nulls", PLANNED, truth, 0.05, shared=shared)
    for design in DESIGNS[1:]:
        for truth in ("constant", "size^-1"):
            yield Case("nulls", design, truth, 0.05, 0.5)
    for truth in CHANGES:
        for noise in (0.02, 0.05, 0.1, 0.2):
            yield Case("transitions", PLANNED, truth, noise, 0.5)
    for design in DESIGNS[1:]:
        for truth in CHANGES[2:]:
            for noise in (0.1, 0.2):
                yield Case("transitions", design, truth, noise, 0.5)
    for design in SHORT:
        for truth in ("constant", "line in log size, falls by 1"):
            yield Case("trends", design, truth, 0.2, shared=0.0)


COUNTS = ["transition", "no transition", "no model fits", "step", "place inside", "log length"]
TREND_COUNTS = ["slope inside", "rank found"]
COLUMNS = [
    "table",
    "design",
    "truth",
    "noise",
    "shared",
    "batch",
    "ladders",
    *COUNTS,
    *TREND_COUNTS,
]


def read(case: Case, number: int) -> tuple[LadderFit, float]:
    """Simulate and fit a ladder; returns the fit and the true place."""
    random = np.random.default_rng([number, *"|".join(case.key).encode()])
    curve, place = TRUTHS[case.truth](random)
    return fit_ladder(
        case.design.points(curve, case.noise, case.shared, random), seed=number
    ), place


def count_batch(case: Case, batch: int) -> list[object]:
    """Fit a batch of ladders, and return its row of the file."""
    counts = dict.fromkeys([*COUNTS, *TREND_COUNTS], 0.0)
    for number in range(batch * BATCH, (batch + 1) * BATCH):
        fit, place = read(case, number)
        if fit.status == "trend":
            curve, _ = TRUTHS[case.truth](np.random.default_rng())
            slope = (curve(1.0) - curve(0.0)) * math.log(2) / math.log(LARGEST)
            counts["slope inside"] += fit.slope.low <= slope <= fit.slope.high
            counts["rank found"] += fit.rank_p_value <= SIGNIFICANCE
            continue
        counts[fit.status] += 1
        if fit.transition is not None:
            counts["step"] += fit.selected == "step"
            counts["place inside"] += fit.transition.low <= place <= fit.transition.high
            counts["log length"] += math.log(fit.transition.high / fit.transition.low)
    return [*case.key, batch, BATCH, *(round(count, 4) for count in counts.values())]


def run(ladders: int, processes: int, only: str) -> None:
    """Fit all batches that the file doesn't have, the first batch of every case first."""
    finished = set()
    if FILE.exists():
        rows = pd.read_csv(FILE, dtype=str)[COLUMNS[:6]]
        finished = set(rows.itertuples(index=False, name=None))
    else:
        FILE.write_text(",".join(COLUMNS) + "\n")
    chosen = [case for case in cases() if only in " | ".join(case.key)]
    jobs = [
        (case, batch)
        for batch in range(math.ceil(ladders / BATCH))
        for case in chosen
        if batch * BATCH < ladders * case.ladders and (*case.key, str(batch)) not in finished
    ]
    with (
        ProcessPoolExecutor(processes, get_context("fork")) as pool,
        FILE.open("a", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        for future in as_completed([pool.submit(count_batch, *job) for job in jobs]):
            writer.writerow(future.result())
            file.flush()


def rate(hits: float, n: float) -> str:
    """Format a rate with its interval of Clopper and Pearson."""
    if not n:
        return "-"
    interval = stats.binomtest(round(hits), round(n)).proportion_ci(0.95, "exact")
    return f"{hits / n:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def print_tables() -> None:
    """Print the tables in Markdown, in the order of `cases`."""
    rows = pd.read_csv(FILE, dtype=dict.fromkeys(COLUMNS[:5], str))
    sums = rows.groupby(COLUMNS[:5])[["ladders", *COUNTS, *TREND_COUNTS]].sum()
    title = ""
    for case in cases():
        if case.key not in sums.index:
            continue
        if case.table != title:
            title = case.table
            columns = ["design", "truth", "noise", "n"]
            columns += {
                "nulls": ["claimed a transition", "no model fits"],
                "transitions": [
                    "claimed a transition",
                    "interval holds the place",
                    "ratio of its ends",
                    "step",
                    "no model fits",
                ],
                "trends": ["interval holds the slope", "rank correlation's p <= 0.05"],
            }[title]
            print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        found = sums.loc[case.key]
        n, claimed = found["ladders"], found["transition"]
        truth = case.truth
        if case.shared != SHARED and case.table != "trends":
            truth += f", {case.shared:.0%} of the variance shared"
        cells = [case.design.name, truth, str(case.noise), f"{n:.0f}"]
        if title == "trends":
            cells += [rate(found[name], n) for name in TREND_COUNTS]
        else:
            cells.append(rate(claimed, n))
            if title == "transitions":
                # A line has no middle.
                has_place = claimed and case.truth != "flat, then a line"
                cells.append(rate(found["place inside"], claimed) if has_place else "-")
                cells.append(f"{math.exp(found['log length'] / claimed):.2f}" if claimed else "-")
                cells.append(f"{found['step'] / claimed:.2f}" if claimed else "-")
            cells.append(rate(found["no model fits"], n))
        print(f"| {' | '.join(cells)} |")
    within = sums[
        (sums.index.get_level_values("table") == "nulls")
        & ~sums.index.get_level_values("truth").isin(OUTSIDE)
    ].sum()
    n, claimed, misfits = (within[name] for name in ("ladders", "transition", "no model fits"))
    print(
        f"\nAll {n:.0f} ladders of constants, lines and power laws: claimed {rate(claimed, n)}, "
        f"no model fits {rate(misfits, n)}"
    )


def main() -> None:
    """Run the simulations or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    options = commands.add_parser("run")
    options.add_argument("--ladders", type=int, default=400, help="of each case of the nulls")
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--only", default="", help="cases whose columns contain this text")
    commands.add_parser("table")
    given = parser.parse_args()
    if given.command == "run":
        run(given.ladders, given.processes, given.only)
    else:
        print_tables()


if __name__ == "__main__":
    main()
