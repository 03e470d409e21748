"""Add the results of one part of the ladder, or of one size, to the tables of docs/results/ladder.

    python experiments/cifar10/ladder/collect.py FOLDER... [--output docs/results/ladder]

FOLDER is an experiment folder below this one, after `stitch-sweep analyze`. Its rows replace those that
the tables have of it, so the ladder can be run in pieces and on several machines. The tables:

networks.csv    a row per trained network
cells.csv       a row per trial of a stitch
indices.csv     a row per matrix and choice of columns: L, D, U, indices, intervals, label
decisions.csv   a row per pair and region: kappa with sender and with receiver
longer.csv      a row per trial that `stitch-sweep longer` trained again
probes.csv      a row per network and layer: the accuracy of a linear probe; layer -1 is the image
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.core.errors import InputError
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.findings import Findings, derive_findings
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.storage import layout

INDICES = ("lower", "band", "upper", "triangle", "diagonal", "order")
CELL_COLUMNS = [
    *("sender", "receiver", "loss", "sender_layer", "receiver_layer", "test_accuracy"),
    *("accuracy_calibrated", "sender_accuracy", "receiver_accuracy", "converged"),
]


def read_networks(experiment: Experiment) -> pd.DataFrame:
    """Return a row per trained network: blocks per stage, width, parameters, accuracies.

    Raises:
        InputError: `stitch-sweep analyze` has not described the networks yet.
    """
    table = experiment.table("networks")
    if table is None:
        raise InputError(f"{experiment.name}: run `stitch-sweep analyze` on it first")
    networks = table[table["weights"] == "trained"].copy()
    options = [json.loads(text) for text in networks["options"]]
    networks["depth"] = [o["blocks"][0] for o in options]
    networks["skip"] = [o.get("skip", "residual") for o in options]
    return networks[["network", "depth", "width", "skip", "parameters", "test_accuracy"]]


def read_cells(findings: Findings, experiment: Experiment) -> pd.DataFrame:
    """Return a row per trial, with the kind of its pair: `trained`, or the control's."""
    kinds = {
        (v.matrix.sender, v.matrix.receiver): v.control or "trained" for v in findings.verdicts
    }
    free = {(v.matrix.sender, v.matrix.receiver): v.matrix.receiver_free for v in findings.verdicts}
    results = experiment.results
    columns = [name for name in CELL_COLUMNS if name in results]
    pairs = list(zip(results["sender"], results["receiver"], strict=True))
    cells = results[columns].copy()
    cells.insert(0, "kind", [kinds[pair] for pair in pairs])
    cells["receiver_free"] = [
        layer in free[pair] for pair, layer in zip(pairs, results["receiver_layer"], strict=True)
    ]
    return cells.sort_values(columns[:5], ignore_index=True)


def judged(findings: Findings) -> Iterator[tuple[str, Verdict]]:
    """Yield the kind and the verdict of every matrix, and of the excess of every pair."""
    for verdict in findings.verdicts:
        yield verdict.control or "trained", verdict
        if verdict.excess is not None:
            yield "excess", verdict.excess
    for verdict in findings.architectures:
        yield "excess" if verdict.matrix.is_difference else "trained", verdict


def read_indices(findings: Findings, networks: pd.DataFrame) -> pd.DataFrame:
    """Return a row per matrix and choice of columns; `pairs` tells a mean over pairs from a pair."""
    names = set(networks["network"])
    rows = []
    for kind, verdict in judged(findings):
        matrix = verdict.matrix
        is_single = matrix.sender.removesuffix("-logits-only") in names or matrix.receiver in names
        for columns, chosen in (("all", verdict), ("with receiver", verdict.reduced)):
            if chosen is None:
                continue
            row: dict[str, Any] = {"kind": kind, "columns": columns}
            row |= {"sender": matrix.sender, "receiver": matrix.receiver}
            row |= {"pairs": "one" if is_single else "mean", "loss": matrix.factors.get("loss")}
            row |= {name: getattr(chosen.parameters, name) for name in INDICES}
            for name, interval in chosen.intervals.items():
                row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
            row |= {"label": chosen.label, "withheld": chosen.withheld}
            row |= {
                "unconverged": int(chosen.matrix.unconverged.sum().sum()),
                "cells": int(chosen.matrix.values.notna().sum().sum()),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def read_folder(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the tables of one experiment folder.

    Raises:
        InputError: it has no results, or hasn't been analyzed.
    """
    experiment = load_experiment(folder)
    findings = derive_findings(experiment)
    networks = read_networks(experiment)
    tables = {
        "networks": networks,
        "cells": read_cells(findings, experiment),
        "indices": read_indices(findings, networks),
    }
    if findings.decisions is not None:
        tables["decisions"] = findings.decisions
    probes = experiment.table("probes")
    if probes is not None:
        tables["probes"] = probes[["network", "layer", "test_accuracy"]]
    longer = folder / layout.MEASURED / layout.LONGER
    if longer.is_file():
        tables["longer"] = pd.read_csv(longer)
    return tables


def add_rows(file: Path, folder: str, rows: pd.DataFrame) -> None:
    """Replace a folder's rows in a table, which may not exist yet."""
    rows = rows.copy()
    rows.insert(0, "folder", folder)
    if file.is_file():
        old = pd.read_csv(file)
        rows = pd.concat([old[old["folder"] != folder], rows], ignore_index=True)
    rows = rows.sort_values("folder", kind="stable")
    rows.to_csv(file, index=False, float_format="%.6g")


def main() -> None:
    """Add the rows of the named folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path("docs/results/ladder"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for folder in args.folders:
        name = "/".join(folder.resolve().parts[-2:])  # the part and the size
        try:
            tables = read_folder(folder)
        except InputError as error:
            raise SystemExit(f"error: {error}") from None
        for table, rows in tables.items():
            add_rows(args.output / f"{table}.csv", name, rows)
        print(f"{name}: {len(tables['cells'])} trials")


if __name__ == "__main__":
    main()
