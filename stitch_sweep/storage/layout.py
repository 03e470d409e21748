"""Names of all files and folders in an experiment folder; `CONTENT` describes them."""

from __future__ import annotations

from pathlib import Path

RESOLVED_CONFIG = "config.resolved.yml"
RESULTS = "results.parquet"
PREDICTIONS = "predictions.parquet"
TRAJECTORIES = "traj.parquet"
PICKLED_TRAJECTORIES = "traj.pkl"
SUMMARY = "summary.json"
OPTUNA_JOURNAL = "optuna.log"
PARETO_FRONT = "pareto.csv"
REPORT_PAGE = "report.html"
VERDICTS = "verdicts.json"
SANITY = "sanity.json"

TENSORBOARD = "tensorboard"

LEDGER = "ledger"
STITCHES = "stitches"
MATRICES = "matrices"
FIGURES = "figures"
TABLES = "tables"
MEASURED = "measured"
OUTPUT_FOLDERS = (STITCHES, MATRICES, FIGURES, TABLES, MEASURED)
"""Folders other than the ledger into which Stitch Sweep writes files."""

# Inside `measured/`.
MEASURED_ABOUT = "about.json"
LONGER = "longer.csv"

# Inside `ledger/`.
DESCRIPTION = "sweep.json"
RECORDS = "trials"
CHECKPOINTS = "checkpoints"
RETRAINED = "retrained"
SET_ASIDE = "set_aside"
LOCK = "lock"
LOCK_HOLDER = "lock.json"
TRACKING_LOCK = "tracking.lock"
SENT = "sent"

ANALYSIS_MANIFEST = ".analysis.json"
REPORT_MANIFEST = ".report.json"
ASSEMBLY_MANIFEST = ".assembly.json"
SWEEP_MANIFEST = ".sweep.json"

FILE_STEM = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
"""Pattern of the names of trials, matrices, figures and tables, without suffix."""


def stitch_path(folder: Path, trial: str) -> Path:
    """Return the path of a trial's stitch in an experiment folder."""
    return folder / STITCHES / f"{trial}.safetensors"


def record_path(folder: Path, trial: str) -> Path:
    """Return the path of a trial's record in an experiment folder."""
    return folder / LEDGER / RECORDS / f"{trial}.json"


def checkpoint_path(folder: Path, trial: str) -> Path:
    """Return the path of a trial's newest checkpoint in an experiment folder."""
    return folder / LEDGER / CHECKPOINTS / trial


CONTENT = {
    "config.yml": "The configuration. Stitch Sweep never changes it.",
    RESOLVED_CONFIG: "The configuration with defaults, and with the networks and pairs that `controls` "
    "adds. This file is a valid configuration itself.",
    f"{LEDGER}/": "The records of all trials, one JSON file each. The tables of results are rebuilt "
    "from these records.",
    RESULTS: "Final metrics: one row per trial.",
    TRAJECTORIES: "Trajectories: one row per logged step.",
    PICKLED_TRAJECTORIES: "The trajectories as a pickled pandas table. Unpickle only files that you "
    "trust.",
    PREDICTIONS: "Predicted classes of the test images: one row per finished trial.",
    SUMMARY: "Numbers of trials by status, for programs.",
    f"{STITCHES}/<trial>.safetensors": "Stored stitches, for `ss.load_stitch`. The ledger doesn't "
    "contain them.",
    f"{MATRICES}/*.csv": "Test accuracies of the best trials: a row per sender layer, a column per "
    "receiver layer. A failed or missing cell is empty.",
    f"{FIGURES}/*": "The matrices and charts as PNG; those of a report as PDF, too.",
    OPTUNA_JOURNAL: "Optuna's studies, for optuna-dashboard; only with a search.",
    PARETO_FRONT: "Trials of the Pareto front; only with several objectives.",
    REPORT_PAGE: "The report: one file that also opens offline.",
    VERDICTS: "Label and indices of each matrix in the report, for programs.",
    f"{TABLES}/*": "The report's tables: as CSV with all digits, and as LaTeX with the digits of the "
    "report.",
    f"{MEASURED}/*": "Tables that are computed from networks, images, stitches and trials: `networks`, "
    "`labels`, `importances`, `representations`, `probes`, `images`. `about.json` contains the origin "
    "of each table.",
    f"{MEASURED}/{LONGER}": "Results of `stitch-sweep longer`.",
    SANITY: "Result of `stitch-sweep sanity`.",
    f"{TENSORBOARD}/": "Event files of TensorBoard; only with `tracking.tensorboard`.",
    "wandb/": "Runs of Weights & Biases; only with `tracking.wandb`.",
    ".<writer>.json": "Manifests: lists of the files that a command wrote. A later run removes listed "
    "files that it no longer writes, and never replaces other files.",
}
"""What each file and folder of an experiment folder contains."""

LEDGER_CONTENT = {
    DESCRIPTION: "Description of the sweep: settings, versions of packages, processor, and hashes of "
    "the networks.",
    f"{RECORDS}/<trial>.json": "Record of a trial, with its status: running, finished, failed or "
    "stopped.",
    f"{CHECKPOINTS}/<trial>": "Newest checkpoint of a running trial.",
    f"{RETRAINED}/<trial>.json": "Earlier record of a trial that runs again because its stitch was "
    "missing or damaged.",
    f"{SET_ASIDE}/": "Damaged files, and files of trials that were run again.",
    f"{SENT}/": "Records of the results that TensorBoard and Weights & Biases received.",
    LOCK: "Lock that lets only one process write; `lock.json` names this process.",
}
"""What each file and folder of `ledger/` contains."""

ASSEMBLY_CONTENT = {
    RESOLVED_CONFIG: "The configuration with defaults.",
    f"{TRAJECTORIES}, {PICKLED_TRAJECTORIES}": "Trajectories, with a column `part`.",
    SUMMARY: "The results.",
    PREDICTIONS: "Predicted classes of the test images.",
    "parts/<position>-*.safetensors": "The trained stitches and pieces.",
    ASSEMBLY_MANIFEST: "List of the files that a later assembly may replace.",
}
"""What `stitch-sweep assemble` writes."""
