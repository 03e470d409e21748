"""The pictures and tables of docs/results/cifar10_ladder.md, from the folders that `run.sh` filled.

    python experiments/cifar10/ladder_cpu/results.py [--folder FOLDER] [--set data.download=true]

Writes docs/images/cifar10_ladder.png and cifar10_ladder_controls.png, and into
docs/results/cifar10_ladder/ the tables of the report that `run.sh` wrote, and `representations.csv`: EV,
ES and SV by region, between the best stitches that there are. These lie in two folders: trained for the
task from least squares on (`task`), and least squares itself (`closed_form`).
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.progress import Progress

from stitch_sweep.analysis.comparison.regional import regional
from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.order_parameters import regions
from stitch_sweep.analysis.results import CELL, PAIR, best_trials, load_results
from stitch_sweep.charts.figures import grid, save_figure
from stitch_sweep.config.reading import parse_value, read_config
from stitch_sweep.measuring.representations import compare_representations
from stitch_sweep.measuring.stored_stitches import StoredStitch, StoredStitches
from stitch_sweep.plan.cells import Cell
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.training.workbench import Workbench

SIZES = ("r1111", "r1112", "r1122", "r1222", "r2222")
CONTROLS = ("class-only sender", "untrained sender", "untrained receiver")
PARTS = {"task": "task", "closed_form": "MSE, closed form"}
TABLES = ("verdicts", "losses", "hacking", "agreement", "agreement_cells", "ladder_depth", "probes")


class Shelves:
    """The stitches of several folders, whose trials may share names: `folder:trial`."""

    def __init__(self, shelves: Mapping[str, StoredStitches]) -> None:
        self._shelves = shelves

    def load(self, cell: Cell, trials: list[str]) -> dict[str, StoredStitch]:
        """As `StoredStitches.load`."""
        found: dict[str, StoredStitch] = {}
        for part, shelf in self._shelves.items():
            own = [t.removeprefix(f"{part}:") for t in trials if t.startswith(f"{part}:")]
            found |= {f"{part}:{name}": stitch for name, stitch in shelf.load(cell, own).items()}
        return found


def controls(size: str) -> dict[str, tuple[str, str]]:
    """What stands in the places of sender and receiver, by the control's name."""
    a, b = f"{size}-a", f"{size}-b"
    pairs = ((f"{a}-class-only", b), (f"{a}-untrained", b), (a, f"{b}-untrained"))
    return dict(zip(CONTROLS, pairs, strict=True))


def titled(matrix: Matrix, title: str) -> Matrix:
    """The rows of real layers, with what the picture calls them."""
    return replace(matrix.without_image(), factors={"loss": title})


def draw(folder: Path, images: Path) -> None:
    """The ladder's matrices, and those of its controls."""
    found = {
        part: {(m.sender, m.receiver): m for m in matrices(load_results(folder / part))}
        for part in PARTS
    }
    ladder = [
        titled(found[part][f"{size}-a", f"{size}-b"], title)
        for part, title in PARTS.items()
        for size in SIZES
    ]
    save_figure(grid(ladder, columns=len(SIZES)), images, "cifar10_ladder")
    shown = [
        titled(found[part][pair], title)
        for part, title in PARTS.items()
        for size in (SIZES[0], SIZES[-1])
        for pair in controls(size).values()
    ]
    save_figure(grid(shown, columns=2 * len(CONTROLS)), images, "cifar10_ladder_controls")


def representations(folder: Path, overrides: dict[str, object]) -> pd.DataFrame:
    """EV, ES and SV by region, of every pair of the ladder."""
    config = read_config(Path(__file__).parent / "task" / "config.yml", overrides)
    prepared = prepare(config)
    bench = Workbench(config, prepared.data, provide_networks(prepared))
    best, shelves = [], {}
    for part in PARTS:
        results = best_trials(load_results(folder / part))
        pairs = results["sender"].str.removesuffix("-a") == results["receiver"].str.removesuffix(
            "-b"
        )
        trained = (results["sender_kind"] == "trained") & (results["receiver_kind"] == "trained")
        real = (results["sender_layer"] >= 0) & (results["status"] == "finished")
        kept = results[pairs & trained & real][[*PAIR, *CELL, "repeat", "loss", "trial"]]
        best.append(kept.assign(trial=f"{part}:" + kept["trial"]))
        ledger = Ledger(folder / part)
        records = {record["trial"]: record for record in ledger.records()}
        shelves[part] = StoredStitches(ledger, records, bench)
    with Progress() as progress:
        task = progress.add_task("EV, ES and SV")
        found = compare_representations(
            pd.concat(best, ignore_index=True),
            bench,
            Shelves(shelves),  # type: ignore[arg-type]
            lambda done, total: progress.update(task, completed=done + 1, total=total),
        )
    table = pd.DataFrame(found.rows)
    depths = {name: len(network.layer_names) for name, network in bench.networks.items()}
    where = {}
    for size in SIZES:
        sender, receiver = f"{size}-a", f"{size}-b"
        cells = table[table["sender"] == sender]
        square = cells.pivot(index="sender_layer", columns="receiver_layer", values="ev")
        where[sender, receiver] = regions(
            square, sender_layers=depths[sender], receiver_layers=depths[receiver]
        )
    return regional(table, where)


def main() -> None:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--report", type=Path, help="the report's folder; default: FOLDER/task")
    parser.add_argument("--output", type=Path, default=Path("docs"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE")
    args = parser.parse_args()
    overrides = {key: parse_value(value) for key, _, value in (s.partition("=") for s in args.set)}
    draw(args.folder, args.output / "images")
    target = args.output / "results" / "cifar10_ladder"
    target.mkdir(parents=True, exist_ok=True)
    report = args.report or args.folder / "task"
    for name in TABLES:
        shutil.copy(report / "tables" / f"{name}.csv", target)
    table = representations(args.folder, overrides)
    table.to_csv(target / "representations.csv", index=False, float_format="%.4f")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
