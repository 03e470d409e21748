"""Descriptions of the columns and keys in the files of an experiment folder.

`docs/reference/experiment_folder.md` is generated from them. A name with `<...>` stands for several
names: `factor.<path>` for `factor.loss`, for example.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from stitch_sweep.core.measures import (
    AGREEMENTS,
    BEYOND_LOGITS,
    COLUMNS,
    DIFFERENCES,
    MEASURES,
    OUTLIER_SCORES,
)

Columns = Mapping[str, str]

_CELL = {
    "sender": "Name of the sender.",
    "receiver": "Name of the receiver.",
    "sender_layer": "Layer after which the sender is cut; -1 is the image, 0 the stem.",
    "receiver_layer": "Layer after which the receiver continues.",
}
_STUDY = {
    "repeat": "Number of the repetition, from 0.",
    "number": "Number of the trial in its study, from 0.",
}
_FACTOR = {"factor.<path>": "Value of a crossed setting, such as `factor.loss`."}
_SETTING = {"setting.<path>": "Value of a searched setting."}
_SPLITS = {"train": "training", "val": "validation", "test": "test"}

RESULTS: Columns = {
    "trial": "Identity of the trial: cell, repetition, factors, and number.",
    **_CELL,
    "sender_kind": "Kind of the sender's weights: `trained`, `random`, `random_raw`, `class_only`, "
    "`logits_only`, `file`, `named` or `factory`.",
    "receiver_kind": "Kind of the receiver's weights, with the same values.",
    **_STUDY,
    "stitch": "Name of the stitch.",
    "loss": "Loss in short form, such as `task+0.5*mse`.",
    **_FACTOR,
    **_SETTING,
    "training.<path>": "Value of a setting in the section `training`.",
    "status": "`finished`, `failed` (NaN, infinite values or an error), or `stopped` (by the "
    "scheduler).",
    "stopped_at": "Last epoch of a stopped trial.",
    "error": "Error message of a failed trial.",
    "copied_from": "Trial with equal settings whose result was copied instead of a training.",
    "metric": "Value of the metric that `search.metric` names.",
    "val_accuracy": "Accuracy of the stitched network on validation images.",
    "test_accuracy": "Accuracy of the stitched network on test images; empty for a stopped or failed "
    "trial.",
    "penalty": "Stitching penalty: `receiver_accuracy` - `test_accuracy`.",
    "converged": "Whether the training has converged; empty if this isn't known.",
    "sender_accuracy": "The sender's own test accuracy; empty for a sender that doesn't classify.",
    "receiver_accuracy": "The receiver's own test accuracy.",
    "train_accuracy": "Accuracy of the stitched network on training images (all or a sample), without "
    "augmentation.",
    **{
        f"{key}_loss": f"Value of the stitch's loss on {split} images."
        for key, split in _SPLITS.items()
    },
    **{
        f"{key}_loss.<term>": f"One term of the loss on {split} images, before weighting."
        for key, split in _SPLITS.items()
    },
    "accuracy_raw": "The same as `test_accuracy`.",
    "accuracy_calibrated": "Test accuracy after the calibration of the stitch.",
    **{
        f"val_{name}": f"On validation images: {measure.title if measure.direction else measure.formula}."
        for name, measure in MEASURES.items()
    },
    "optimal_train_loss": "Smallest `train_loss` that this stitch can reach, for a loss with a closed "
    "form, except `mse`.",
    "train_relative_mse": "For an affine stitch trained for `mse`: squared error on training images "
    "divided by the variance of the expected representation.",
    "optimal_relative_mse": "Smallest `train_relative_mse` that this stitch can reach.",
    "excess": "`train_relative_mse` - `optimal_relative_mse` (not the excess over a control).",
    "stitch_parameters": "Number of trained parameters of the stitch.",
    "stitch_multiply_adds": "Number of multiply-adds of the stitch for one image.",
    "seconds": "Duration of the trial in seconds.",
}
"""The columns of `results.parquet`."""

TRAJECTORIES: Columns = {
    "trial": "Identity of the trial.",
    **_CELL,
    **_STUDY,
    "step": "Number of training steps so far; 0 is the start.",
    "epoch": "Number of the epoch, from 1; 0 is the start.",
    "split": "`train`: mean over the steps since the previous `train` row. `validation`: all "
    "validation images.",
    "accuracy": "Accuracy of the stitched network; empty in `train` rows if the loss needs no logits.",
    "loss": "Value of the stitch's loss.",
    "loss.<term>": "One term of the loss, before weighting.",
    "lr": "Learning rate of the last step.",
    "time": "Seconds since the trial's start.",
    "kept": "With `training.keep: best`: whether this row's stitch is the result.",
}
"""The columns of `traj.parquet` and `traj.pkl`."""

PREDICTIONS: Columns = {
    "trial": "Identity of the trial.",
    "predictions": "Predicted class of every test image, in the order of the test images.",
}
"""The columns of `predictions.parquet`."""

SUMMARY: Columns = {
    "trials": "Number of trials that ended.",
    "finished": "Number of finished trials.",
    "failed": "Number of failed trials.",
    "stopped": "Number of trials that the scheduler stopped.",
    "copied": "Number of trials whose result was copied from a trial with equal settings.",
    "not_converged": "Number of trials that did not converge.",
    "not_run": "Number of planned trials that have not ended.",
    "compute_seconds": "Sum of the durations of all trials in seconds.",
    "matrices": "Names of the files in `matrices/`, without suffix.",
}
"""The keys of `summary.json`."""

_INDICES = {
    "lower": "L: mean rescaled accuracy below the band of equal depth.",
    "band": "D: mean rescaled accuracy in the band.",
    "upper": "U: mean rescaled accuracy above the band.",
    "triangle": "Triangle index L - U.",
    "diagonal": "Diagonal index D - max(L, U).",
    "order": "Order parameter (L - U) / (D - U).",
}

VERDICTS: Columns = {
    "matrix": "Name of the matrix's file in `matrices/`, without suffix.",
    "mean_accuracy": "Mean accuracy over the cells without layer -1.",
    "sender": "Name of the sender.",
    "receiver": "Name of the receiver.",
    "kind": "`pair`, `self-pair` or `knock-out`.",
    "factors": "Values of the crossed settings.",
    "value": "Column of `results.parquet` whose matrix is judged.",
    "label": "The label in words; for a control, also the control's name.",
    "shape": "`triangle`, `diagonal`, `full`, `none`, `upper`, `gradient` or `unclear`.",
    **_INDICES,
    "cells": "Number of cells below, in and above the band.",
    "intervals": "Confidence interval of each index: `low`, `high`, `level` and `method`.",
    "label_shares": "Share of bootstrap samples with each label.",
    "p_value": "p-value of the null hypothesis: accuracy = row effect + column effect + noise.",
    "reach": "Deepest receiver layer with a rescaled accuracy of at least 0.9, for each sender layer.",
    "chance": "Accuracy of guessing.",
    "best_accuracy": "Accuracy whose rescaled value is 1.",
    "relative": "Whether `best_accuracy` is the maximum of the matrix, because no network's own "
    "accuracy is known.",
    "control": "Name of the control, if the matrix is that of a control.",
    "sound": "`false` if the label is withheld.",
    "withheld": "Reason why the label is withheld: `gaps` (too few cells have a value, or layers were "
    "knocked out) or `unconverged`.",
    "explained_by": "Controls with the same label, or with about the same high accuracies.",
    "notes": "Reasons to doubt the label, a sentence each.",
    "receiver_free": "Receiver layers after which the receiver is linear.",
    "without_receiver_free": "The verdict without the columns in `receiver_free`.",
    "beyond_logits": "The verdict on the excess over the control `logits_only`.",
}
"""The keys of each matrix in `verdicts.json`."""

_KEYS = {"sender": _CELL["sender"], "receiver": _CELL["receiver"], **_FACTOR}
_BY_REGION = {
    **_KEYS,
    "loss": "Loss of the stitch.",
    "similarity_loss": "Loss of the stitch that is compared with the task-trained stitch.",
    "quantity": "Averaged column of `results.parquet` or of `measured/representations.parquet`.",
    "lower": "Mean over the cells below the band of equal depth.",
    "band": "Mean over the cells in the band.",
    "upper": "Mean over the cells above the band.",
    "<region>_standard_error": "Standard error of the mean over the cells of the region.",
}
_LADDER = {
    "series": "Values of the crossed settings of this ladder, as text.",
    "sender": _CELL["sender"],
    "receiver": _CELL["receiver"],
    "measure": "Measure of size: `depth`, `width` or `parameters`.",
    "size": "Geometric mean of the sizes of sender and receiver.",
    "order": _INDICES["order"],
    "low": "Lower end of the interval.",
    "high": "Upper end of the interval.",
    "triangle": _INDICES["triangle"],
    "diagonal": _INDICES["diagonal"],
    "label": "Label of the matrix.",
    "<end>": "Lower or upper end of the interval of `diagonal` or `triangle`.",
    "reason": "Reason why the matrix is not a point of the ladder.",
    "interval": "The interval as text.",
}

TABLES: Mapping[str, Columns] = {
    "verdicts": {
        **_KEYS,
        "value": "Column of `results.parquet` whose matrix is judged, or `beyond_logits`.",
        "label": VERDICTS["label"],
        "mean_accuracy": VERDICTS["mean_accuracy"],
        **_INDICES,
        "<index>_low": "Lower end of the index's interval.",
        "<index>_high": "Upper end of the index's interval.",
        "<index>_interval": "The interval as text.",
        "label_share": "Share of bootstrap samples with this label.",
        "p_value": VERDICTS["p_value"],
        "cells": "Number of cells with a value.",
        "unconverged": "Number of cells whose training did not converge.",
        "failed": "Number of cells that failed.",
        "missing": "Number of cells that were not run.",
        "control": VERDICTS["control"],
        "explained_by": VERDICTS["explained_by"],
        "sender_accuracy": RESULTS["sender_accuracy"],
        "receiver_accuracy": RESULTS["receiver_accuracy"],
        "receiver_free": VERDICTS["receiver_free"],
        "reduced_<index>": "The index (or the label) without the columns in `receiver_free`.",
    },
    "beyond_logits": {
        **_CELL,
        **_FACTOR,
        BEYOND_LOGITS: f"{COLUMNS[BEYOND_LOGITS].formula.capitalize()}.",
        "low": "Lower end of the interval of `beyond_logits`.",
        "high": "Upper end of the interval of `beyond_logits`.",
        "interval": "The interval as text.",
    },
    "ladder_<size>": _LADDER,
    "representations": _BY_REGION,
    "measures": _BY_REGION,
    "decisions": _BY_REGION,
    "losses": {
        **_KEYS,
        "loss": "Loss that is compared with the task loss.",
        "cells": "Number of cells that have a value with both losses.",
        "accuracy": "Mean calibrated test accuracy of the stitches trained with `loss`.",
        "task_accuracy": "The same for the task loss.",
        "difference": "Mean of `accuracy` - `task_accuracy` over cells.",
        "standard_error": "Standard error of `difference` over cells.",
        "lowest": "Smallest difference.",
        "highest": "Largest difference.",
        "behind": "Share of cells whose accuracy with `loss` is more than 0.05 below that with the task "
        "loss.",
        "spearman": "Spearman's rank correlation of the two accuracies over cells.",
    },
    "hacking": {
        **_CELL,
        **_FACTOR,
        "repeat": _STUDY["repeat"],
        "loss": RESULTS["loss"],
        "trial": RESULTS["trial"],
        "status": RESULTS["status"],
        "converged": RESULTS["converged"],
        "sender_accuracy": RESULTS["sender_accuracy"],
        "receiver_accuracy": RESULTS["receiver_accuracy"],
        "accuracy_raw": RESULTS["accuracy_raw"],
        "accuracy_calibrated": RESULTS["accuracy_calibrated"],
        "val_<measure>": "Value of the measure on validation images, after the calibration if the loss "
        "has one.",
        "rescaled": "Rescaled calibrated accuracy: 0 is chance, 1 is the own accuracy of the better "
        "network.",
        "nearest": "Smallest relative squared error that any loss reached in the cell.",
        "nearest_loss": "The loss that reached `nearest`.",
        "well": "Whether `rescaled` is 0.9 or more.",
        "far": "Whether the relative squared error is 1 or more.",
        "hacking": "Whether `well` and `far` are both true; the table lists only such cells.",
        "control": VERDICTS["control"],
    },
    "agreement": {
        **_KEYS,
        "loss": RESULTS["loss"],
        **{name: f"Mean over cells: {m.title}." for name, m in AGREEMENTS.items()},
    },
    "agreement_cells": {
        **_CELL,
        **_FACTOR,
        "repeat": _STUDY["repeat"],
        "loss": RESULTS["loss"],
        "trial": RESULTS["trial"],
        "accuracy_calibrated": RESULTS["accuracy_calibrated"],
        "accuracy_raw": RESULTS["accuracy_raw"],
        "images": "Number of test images.",
        **{name: f"{m.title.capitalize()}." for name, m in AGREEMENTS.items()},
    },
    "networks": {
        "network": "Name of the network.",
        "family": "Architecture.",
        "weights": "Kind of the weights, as in `sender_kind` of `results.parquet`.",
        "seed": "Seed of the weights.",
        "parameters": "Number of parameters.",
        "depth": "Number of layers minus one.",
        "width": "The family's option `width`.",
        "options": "Options of the family, as JSON.",
        "classes": "Number of classes.",
        "receiver_free": VERDICTS["receiver_free"],
        "test_accuracy": "The network's own test accuracy.",
    },
    "probes": {
        "network": "Name of the network.",
        "layer": "Layer that the probe reads.",
        "features": "Number of features after pooling over positions.",
        "c": "Inverse strength of the L2 penalty, chosen on validation images.",
        "train_accuracy": "Accuracy on training images.",
        "val_accuracy": "Accuracy on validation images.",
        "test_accuracy": "Accuracy on test images.",
        "converged": "Whether the logistic regression converged.",
    },
    "importances": {
        **_KEYS,
        "studies": "Number of studies with at least two trials.",
        "trials": "Number of trials in these studies.",
        "best": "Number of trials that count as best.",
        "setting": "Dotted path of the searched setting.",
        "importance": "Importance of the setting; the importances of a group of studies sum to 1.",
        "p_value": "p-value of a permutation test of the importance, from 99 random permutations.",
        "evaluator": "Method, with Optuna's version.",
    },
    "stopped": {
        **_KEYS,
        "trials": "Number of trials.",
        "stopped": "Number of trials that the scheduler stopped.",
        "planned_epochs": "Number of planned epochs of all trials together.",
        "trained_epochs": "Sum of `stopped_at` of the stopped trials, and planned epochs of the others.",
        "share_of_epochs": "Trained epochs divided by planned epochs.",
    },
    "pareto": {
        "trial": RESULTS["trial"],
        **_CELL,
        **_STUDY,
        **_FACTOR,
        **_SETTING,
        "<objective>": "Value of an objective.",
        "test_accuracy": RESULTS["test_accuracy"],
    },
    "knock_out": {
        "network": "Name of the network whose layers are removed.",
        "factors": "Values of the crossed settings, as text.",
        "layers_removed": "Number of removed layers.",
        "mean": "Mean accuracy over all positions of the removed layers.",
        "lowest": "Lowest accuracy over these positions.",
        "lowest_first": "First removed layer in the cell with the lowest accuracy.",
        "highest": "Highest accuracy over these positions.",
    },
    "compared": {
        "sender": _CELL["sender"],
        "receiver": _CELL["receiver"],
        "factors": "Values of the crossed settings, as text.",
        "<experiment>: <value>": "Label, indices and mean accuracy in one experiment.",
    },
}
"""The columns of `tables/*.csv`, by table."""

MEASURED: Mapping[str, Columns] = {
    "networks": {
        **TABLES["networks"],
        "layers": "Names of the layers.",
        "predictions": "Predicted class of every test image.",
    },
    "labels": {"label": "Class of every test image."},
    "importances": TABLES["importances"],
    "representations": {
        **_CELL,
        "repeat": _STUDY["repeat"],
        **_FACTOR,
        "similarity_loss": "Loss of the stitch that is compared with the task-trained stitch.",
        **{name: f"{m.title} representation: {m.formula}." for name, m in DIFFERENCES.items()},
        "es_raw": "ES before the calibration.",
        "sv_raw": "SV before the calibration.",
        "variance": "Variance of the expected representation, averaged over channels.",
        **{name: f"{m.title.capitalize()} representation." for name, m in OUTLIER_SCORES.items()},
        "calibration": "Kind of map that the calibration fits, such as `affine`; or `none`.",
        "task_trial": "Trial of the stitch that was trained for the task.",
        "similarity_trial": "Trial of the stitch with `similarity_loss`.",
    },
    "probes": TABLES["probes"],
}
"""The columns of `measured/*.parquet`, by table."""


def find_undescribed(names: Iterable[str], columns: Columns) -> list[str]:
    """Return the names without a description.

    Example:
        >>> find_undescribed(["factor.loss", "step", "new"], {"factor.<path>": "", "step": ""})
        ['new']
    """
    patterns = [re.sub(r"<[^>]+>", ".+", re.escape(name)) for name in columns]
    return [name for name in names if not any(re.fullmatch(p, name) for p in patterns)]
