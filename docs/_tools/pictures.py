"""Draw the pictures of docs/reference/: a matrix per loss, stitch, measure and control.

    python docs/_tools/pictures.py FOLDER

FOLDER keeps the sweeps, so that interrupted ones are resumed. A new part needs its picture before
`reference.py` can make its page.

It takes about ten minutes on two cores. The numbers are those of one pair of small networks on digits:
they show how losses, stitches, measures and controls differ, and prove nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from reference_pages.stitches import EQUAL_SHAPES

import stitch_sweep as ss
from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.charts.figures import draw, heatmap
from stitch_sweep.charts.networks import describe_probes
from stitch_sweep.config.controls import BUILT_IN
from stitch_sweep.core.registry import LOSSES, STITCHES
from stitch_sweep.losses.measures import MEASURE_INPUTS
from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.reading import load_experiment

IMAGES = Path(__file__).resolve().parents[1] / "images" / "reference"
RESNETS = tuple({"family": "resnet1111", "width": 8, "seed": seed} for seed in (0, 1))
# All its layers have the same shape.
VIT = {"family": "vit", "depth": 4, "width": 32, "heads": 4, "patch": 4}


def main(folder: Path) -> None:
    """Train all cells for every loss, stitch and control, and write the pictures."""
    matplotlib.use("Agg")
    losses = run(folder / "losses", losses=LOSSES.names(), stitch="conv1x1")
    save("losses", ((matrix.factors["loss"], heatmap(matrix)) for matrix in matrices(losses)))
    mse = losses[losses["factor.loss"] == "mse"]
    save("measures", ((m, heatmap(matrices(mse, f"val_{m}")[0])) for m in MEASURE_INPUTS))
    general = [name for name in STITCHES.names() if name not in EQUAL_SHAPES]
    for part, names, networks in (
        ("stitches", general, RESNETS),
        ("stitches_equal_shapes", list(EQUAL_SHAPES), (VIT, VIT)),
    ):
        search = {"cross": {"stitch.name": names}}
        trials = run(folder / part, networks, loss="task", search=search)
        save("stitches", ((m.factors["stitch.name"], heatmap(m)) for m in matrices(trials)))
    controls = run(folder / "controls", loss="task", controls=list(BUILT_IN))
    save("controls", draw_controls(controls, folder / "controls"))


def run(
    folder: Path, networks: tuple[dict[str, object], ...] = RESNETS, **settings: object
) -> pd.DataFrame:
    """Run or resume a sweep over all cells of the pair; returns its trials.

    Raises:
        SystemExit: a trial is missing.
    """
    experiment = ss.matrix(
        *networks,
        data={"name": "digits", "image_size": 16},
        recipe="fast",
        pretraining={"recipe": "fast"},
        keep_stitches="none",
        folder=folder,
        resume=(folder / "ledger").exists(),
        **settings,
    )
    if experiment.status["state"] != "complete":
        raise SystemExit(f"{folder}: the sweep isn't complete; start the script again")
    return experiment.results


def draw_controls(trials: pd.DataFrame, folder: Path) -> Iterable[tuple[str, Figure]]:
    """Draw the matrix of every control, and the accuracies of the probes."""
    verdicts = derive_findings(load_experiment(folder)).verdicts
    kinds = {(v.matrix.sender, v.matrix.receiver): v.control for v in verdicts}
    for matrix in matrices(trials):
        if control := kinds[matrix.sender, matrix.receiver]:
            yield control, heatmap(matrix)
    image = trials[(trials["sender"] == "a") & (trials["sender_layer"] == -1)]
    yield "image", heatmap(matrices(image)[0])
    zoo = Path(__file__).resolve().parents[2] / "zoo"
    ss.measure(folder, only=["probes"], allow=[zoo])
    yield "linear_probe", draw(describe_probes(pd.read_parquet(folder / "measured/probes.parquet")))


def save(kind: str, figures: Iterable[tuple[str, Figure]]) -> None:
    """Write the figures of a kind of pages."""
    (IMAGES / kind).mkdir(parents=True, exist_ok=True)
    for name, figure in figures:
        figure.savefig(IMAGES / kind / f"{name}.png", dpi=80, metadata={"Software": None})
        print(kind, name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
