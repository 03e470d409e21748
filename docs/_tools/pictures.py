"""Draw the pictures of docs/reference/: a matrix per loss, on handwritten digits.

    python docs/_tools/pictures.py [FOLDER]

FOLDER keeps the sweep, so that an interrupted one is resumed. `reference.py` shows existing pictures.

It takes some minutes on one core. The numbers are those of one pair of small networks: they show how
losses differ, and prove nothing.
"""

from __future__ import annotations

import os
import sys

# This folder's math.py would hide Python's own module from a script that is started here.
TOOLS = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
sys.path = [path for path in sys.path if path != TOOLS]

from pathlib import Path  # noqa: E402

import matplotlib  # noqa: E402

import stitch_sweep as ss  # noqa: E402
from stitch_sweep.analysis.matrix.matrices import matrices  # noqa: E402
from stitch_sweep.charts.figures import heatmap  # noqa: E402
from stitch_sweep.core.registry import LOSSES  # noqa: E402

IMAGES = Path(TOOLS).parent / "images" / "reference"


def main() -> None:
    """Train all cells for every loss, and write a picture per loss."""
    matplotlib.use("Agg")
    IMAGES.mkdir(parents=True, exist_ok=True)
    networks = [{"family": "resnet1111", "width": 8, "seed": seed} for seed in (0, 1)]
    experiment = ss.matrix(
        *networks,
        data={"name": "digits", "image_size": 16},
        losses=LOSSES.names(),
        recipe="fast",
        stitch="conv1x1",
        pretraining={"recipe": "fast"},
        keep_stitches="none",
        workers=1,
        folder=sys.argv[1] if len(sys.argv) > 1 else None,
        resume=len(sys.argv) > 1 and (Path(sys.argv[1]) / "ledger").exists(),
    )
    drawn = matrices(experiment.results)
    if any(matrix.missing.to_numpy().any() for matrix in drawn) or len(drawn) < len(LOSSES.names()):
        raise SystemExit("the sweep isn't complete: give a folder, and start the script again")
    for matrix in drawn:
        figure = heatmap(matrix)
        figure.savefig(
            IMAGES / f"{matrix.factors['loss']}.png", dpi=80, metadata={"Software": None}
        )
        print(matrix.factors["loss"], flush=True)


if __name__ == "__main__":
    main()
