"""Names of all files and folders in an experiment folder.

config.yml                      written by the user, never by Stitch Sweep
config.resolved.yml             the configuration with defaults filled in
ledger/                         the source of truth, see `storage.ledger`
results.parquet                 one row per trial
predictions.parquet             predicted classes of the test images, one row per trial
traj.parquet, traj.pkl          trajectories
summary.json                    main figures of the sweep
optuna.log                      journal for optuna-dashboard
tensorboard/                    event files of TensorBoard
wandb/                          runs of Weights & Biases
pareto.csv                      non-dominated trials, with several objectives
stitches/<trial>.safetensors    kept stitches
matrices/*.csv                  matrices of test accuracies
figures/*                       PNG and PDF
tables/*                        CSV and LaTeX
measured/                       measures of the kept stitches, with about.json; longer.csv
report.html                     the report
verdicts.json                   label and indices of each matrix in the report
sanity.json                     result of `stitch-sweep sanity`
.<writer>.json                  manifests: the files that each writer made
"""

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
