"""The pictures and tables of docs/results/cifar10_families.md, from finished sweeps.

    python experiments/cifar10/families/results.py [--folder FOLDER]

FOLDER holds the folders `across` and `knock_out` of the two sweeps. Writes docs/images/cifar10_across.png
and cifar10_knock_out.png, and the matrices as CSV into docs/results/cifar10_families/.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from stitch_sweep.analysis.matrix.files import write_matrix
from stitch_sweep.analysis.matrix.knock_out import gap_matrices
from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.results import load_results
from stitch_sweep.charts.figures import grid, save_figure

SWEEPS = ("across", "knock_out")
TITLES = {
    "residual": "R1111",
    "plain": "R1111 without skips",
    "none": "DenseNet without skips",
    "class-token": "ViT",
}
"""What the pictures call the networks of the configurations."""


def shown(folder: Path) -> list[Matrix]:
    """A sweep's matrices; those of a knock-out by what was removed."""
    found = matrices(load_results(folder))
    return list(gap_matrices(found)) or found


def main() -> None:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    args = parser.parse_args()
    tables = args.output / "results" / "cifar10_families"
    tables.mkdir(parents=True, exist_ok=True)
    for name in SWEEPS:
        found = shown(args.folder / name)
        for matrix in found:
            print(write_matrix(matrix, tables))
        titled = [replace(m, sender=TITLES[m.sender], receiver=TITLES[m.receiver]) for m in found]
        picture = grid(titled, columns=len(titled))
        print(save_figure(picture, args.output / "images", f"cifar10_{name}"))


if __name__ == "__main__":
    main()
