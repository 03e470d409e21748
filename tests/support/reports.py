"""Experiment folders like those of a sweep, written in a fraction of a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from stitch_sweep.analysis.results import check_results
from stitch_sweep.measuring.pictures import Picture, Pictures, write_pictures
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.result_tables import predictions_table, results_table, trajectory_table

CLASSES, IMAGES = 10, 200
OWN = 0.9


def accuracy(i: int, j: int, last: int, loss: str) -> float:
    """Return an accuracy of a lower-left triangle; a low one for the loss `mse`."""
    falls = 0.15 * max(0, j - i) * 4 / last
    return OWN - falls if loss == "task" else max(0.1, 0.5 - falls)


def predictions(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return predicted classes, of which the share `share` is right."""
    generator = np.random.default_rng(seed)
    wrong = generator.permutation(len(labels)) >= round(share * len(labels))
    return np.where(wrong, (labels + 1) % CLASSES, labels)


def make_folder(
    folder: Path,
    *,
    pairs: tuple[tuple[str, str], ...] = (("a", "b"),),
    layers: int = 4,
    losses: tuple[str, ...] = ("task", "mse"),
    crossed: bool = True,
    samples: int = 1,
    ended: int | None = None,
    tables: bool = True,
    measured: bool = False,
    sanity: bool = False,
    seed: int = 0,
    failed: tuple[tuple[int, int], ...] = (),
    unconverged: tuple[tuple[int, int], ...] = (),
    error: str = "the loss is not finite",
    data: str = "fingerprint",
    tracking: dict[str, Any] | None = None,
    objectives: dict[str, str] | None = None,
    stopped: tuple[int, ...] = (),
) -> Path:
    """Write a folder.

    Args:
        folder: where to write.
        pairs: sender and receiver of each pair.
        layers: number of layers of every network.
        losses: losses of the stitches.
        crossed: whether the loss is a factor; if not, all trials have the first of `losses`.
        samples: trials of each study, searched over the learning rate.
        ended: number of ended trials; the others are running; None: all have ended.
        tables: whether to write the tables, or only the ledger.
        measured: whether to write `measured/`.
        sanity: whether to write `sanity.json`.
        seed: seed of the sweep.
        failed: cells (sender layer, receiver layer) whose trials failed.
        unconverged: cells whose stitches did not converge.
        error: error message of the failed trials.
        data: fingerprint of the images.
        tracking: the section of the configuration.
        objectives: objectives of the search, if there are several.
        stopped: numbers of the trials of each study that a scheduler stopped after 2 of 5 epochs.
    """
    names = sorted({name for pair in pairs for name in pair})
    labels = np.arange(IMAGES) % CLASSES
    networks = [
        {
            "name": n,
            "family": "resnet",
            "seed": k,
            "weights": "trained",
            "blocks": [1] * (layers - 1),
        }
        for k, n in enumerate(names)
    ]
    settings: dict[str, Any] = {
        "stitch": {"name": "paper", "start": "random"},
        "loss": {losses[0]: 1.0},
        "training": {"epochs": 5, "batch_size": 32, "optimizer": {"name": "adam", "lr": None}},
    }
    space = {"training.optimizer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
    config = {
        **settings,
        "seed": seed,
        "data": {"name": "digits", "image_size": 16, "split_seed": 0},
        "networks": networks,
        "pairs": [{"sender": a, "receiver": b} for a, b in pairs],
        "search": {
            "cross": {"loss": [{loss: 1.0} for loss in losses]} if crossed else {},
            "space": space if samples > 1 else None,
            "samples": samples,
            "metric": "val_accuracy",
            "mode": "max",
            "objectives": objectives or {},
        },
        "resources": {"cpu": 1, "gpu": 0.0},
        "tracking": tracking or {"enabled": False},
    }
    folder.mkdir(parents=True)
    (folder / "config.resolved.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    ledger = Ledger(folder)
    studies = [
        Study(a, i, b, j, {"loss": {loss: 1.0}} if crossed else {})
        for a, b in pairs
        for loss in losses
        for i in range(layers)
        for j in range(layers)
    ]
    trials = [(study, k) for study in studies for k in range(samples)]
    ledger.start(
        {
            "decides": {
                "seed": seed,
                "data": data,
                "augment": "none",
                "networks": {
                    n["name"]: {"weights": {**n, "data": {"classes": CLASSES}}} for n in networks
                },
            },
            "config": {k: v for k, v in config.items() if k != "tracking"},
            "trials": len(trials),
            "versions": {"python": "3.12.1", "torch": "2.12.0"},
            "processor": "a CPU of our own",
            "networks": dict.fromkeys(names, "0" * 64),
        }
    )
    for position, (study, k) in enumerate(trials):
        loss = next(iter(study.factors.get("loss", {losses[0]: 1.0})))
        params = {"training.optimizer.lr": 0.01 * (k + 1)} if samples > 1 else {}
        trial = study.trial(k)
        key = study.key
        key.pop("factors")
        own = {**settings, "loss": {loss: 1.0}}
        ledger.begin(trial, {**key, "factors": study.factors, "study": study.id, "number": k,
                             "params": params, "settings": own,
                             "started": 1.7e9 + position})  # fmt: skip
        if ended is not None and position >= ended:
            continue
        cell = (study.sender_layer, study.receiver_layer)
        share = accuracy(*cell, layers - 1, loss) - 0.05 * k
        if cell in failed:
            outcome = {"status": "failed", "metric": None, "metrics": {}, "error": error}
            ledger.finish(trial, {**outcome, "trajectory": [], "seconds": 1.0}, None)
            continue
        if k in stopped:
            path = _outcome(share, True, labels, labels)["trajectory"][:4]
            outcome = {"status": "stopped", "stopped_at": 2, "metric": path[-1]["accuracy"]}
            ledger.finish(
                trial, {**outcome, "metrics": {}, "trajectory": path, "seconds": 1.0}, None
            )
            continue
        classes = predictions(labels, share, position)
        ledger.finish(trial, _outcome(share, cell not in unconverged, labels, classes), classes)
    if tables:
        records = [record for record in ledger.records() if record["status"] != "running"]
        for name, table in {
            "results": check_results(results_table(records)),
            "predictions": predictions_table(records),
            "traj": trajectory_table(records),
        }.items():
            table.to_parquet(folder / f"{name}.parquet")
    if measured:
        _measured(folder, names, layers, labels, pairs, losses)
    if sanity:
        _sanity(folder)
    return folder


def _outcome(
    share: float, converged: bool, labels: np.ndarray, classes: np.ndarray
) -> dict[str, Any]:
    test = float((labels == classes).mean())
    alike = min(1.0, share + 0.05)
    metrics = {
        "val_accuracy": share,
        "val_loss": 1 - share,
        "test_accuracy": test,
        "accuracy_raw": test,
        "accuracy_calibrated": test,
        "penalty": OWN - test,
        "sender_accuracy": OWN,
        "receiver_accuracy": OWN,
        "converged": converged,
        "val_relative_mse": 1.6 * (1 - alike) + 0.1,
        "val_mse": 2 * (1 - alike),
        "val_cosine": alike,
        "val_cka": alike**2,
    }
    path = [
        row
        for epoch in range(1, 6)
        for row in (
            {"step": 8 * epoch - 4, "epoch": epoch, "split": "train", "loss": 2 / epoch,
             "accuracy": share * epoch / 6, "lr": 0.1, "time": epoch - 0.5},
            {"step": 8 * epoch, "epoch": epoch, "split": "validation", "loss": 2.2 / epoch,
             "accuracy": share * (epoch + 1) / 6, "lr": 0.1, "time": float(epoch)},
        )
    ]  # fmt: skip
    return {
        "status": "finished",
        "metric": share,
        "metrics": metrics,
        "trajectory": path,
        "seconds": 2.5,
    }


def _measured(
    folder: Path,
    names: list[str],
    layers: int,
    labels: np.ndarray,
    pairs: tuple[tuple[str, str], ...],
    losses: tuple[str, ...],
) -> None:
    target = folder / "measured"
    target.mkdir()
    blocks = layers - 1
    pd.DataFrame(
        [
            {
                "network": name,
                "family": "resnet",
                "weights": "trained",
                "seed": k,
                # The networks of each further pair are larger.
                "parameters": 1000 * (1 + k // 2),
                "depth": blocks,
                "width": 4 * (1 + k // 2),
                "layers": [f"layer{n}" for n in range(layers)],
                "options": json.dumps({"width": 4 * (1 + k // 2)}),
                "classes": CLASSES,
                "test_accuracy": OWN,
                "predictions": predictions(labels, OWN, 1000 + k).tolist(),
            }
            for k, name in enumerate(names)
        ]
    ).to_parquet(target / "networks.parquet")
    pd.DataFrame({"label": labels}).to_parquet(target / "labels.parquet")
    cells = [(i, j) for i in range(layers) for j in range(layers)]
    others = [loss for loss in losses if loss != "task"]
    if others:
        pd.DataFrame(
            [
                {
                    "sender": a, "receiver": b, "sender_layer": i, "receiver_layer": j, "repeat": 0,
                    "similarity_loss": loss,
                    "ev": 1.0 + i, "es": 0.5 + 0.1 * j, "sv": 0.7 + 0.1 * i,
                    "ev_relative": 1.0 + i, "es_relative": 0.5 + 0.1 * j, "sv_relative": 0.7,
                    "ood_task": 0.9 - 0.1 * j, "ood_similarity": 0.5,
                    "task_trial": Study(a, i, b, j, {"loss": {"task": 1.0}}).trial(0),
                    "similarity_trial": Study(a, i, b, j, {"loss": {loss: 1.0}}).trial(0),
                }
                for a, b in pairs
                for loss in others
                for i, j in cells
            ]
        ).to_parquet(target / "representations.parquet")  # fmt: skip
    pd.DataFrame(
        [
            {"network": name, "layer": k, "train_accuracy": 0.5 + 0.1 * k, "val_accuracy": 0.45 + 0.1 * k,
             "test_accuracy": 0.4 + 0.1 * k}
            for name in names
            for k in range(layers)
        ]
    ).to_parquet(target / "probes.parquet")  # fmt: skip
    pd.DataFrame(
        [
            {"sender": a, "receiver": b, "factor.loss": loss, "studies": len(cells),
             "trials": 2 * len(cells), "setting": setting, "importance": share, "p_value": 0.01,
             "evaluator": "PED-ANOVA"}
            for a, b in pairs
            for loss in losses
            for setting, share in (("training.optimizer.lr", 0.8), ("training.batch_size", 0.2))
        ]
    ).to_parquet(target / "importances.parquet")  # fmt: skip
    (target / "about.json").write_text(
        json.dumps({"trials": len(list((folder / "ledger" / "trials").glob("*")))})
    )
    generator = np.random.default_rng(0)
    stack = generator.integers(0, 256, size=(4, 1, 8, 8), dtype=np.uint8)
    about = {"trial": "t", "sender": names[0], "sender_layer": 1, "receiver": names[-1], "repeat": 0,
             "factors": {}, "calibrated": False, "minimum": 0.0, "maximum": 1.0, "clipped": 0.0,
             "predicted": [0, 1, 2, 3]}  # fmt: skip
    kinds = (("mse", "reconstruction"), ("task", "shown"))
    write_pictures(
        target / "images.safetensors",
        Pictures(
            numbers=[0, 1, 2, 3],
            labels=[0, 1, 2, 3],
            classes=[str(k) for k in range(CLASSES)],
            predicted={name: [0, 1, 2, 3] for name in names},
            originals=stack,
            pictures=[
                Picture({**about, "loss": loss, "kind": kind}, 255 - stack) for loss, kind in kinds
            ],
        ),
    )


def _sanity(folder: Path) -> None:
    checks = [
        {"name": "copies", "compared": "a copy with its original", "difference": 0.0,
         "verdict": "pass", "detail": "", "figures": {}},
        {"name": "order", "compared": "two orders of the images", "difference": "inf",
         "verdict": "fail", "detail": "images 3 and 4 changed places", "figures": {}},
    ]  # fmt: skip
    about = {"pair": "a:1 -> b:2", "seconds": 3.0, "versions": {"torch": "2.11.0"}}
    (folder / "sanity.json").write_text(json.dumps({**about, "checks": checks}))
