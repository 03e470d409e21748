"""Small search spaces, and the searcher driven without Ray Tune."""

import importlib.util
import itertools
import json
import math
import random
from pathlib import Path

import pytest

from stitch_sweep.config.root import Config
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.searcher import SweepSearcher

LR = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}


SPACE = {
    # Deliberately before its parent: the order in a file has no effect.
    "training.optimizer.momentum": {
        "type": "categorical",
        "choices": [0.0, 0.9],
        "when": {"training.optimizer.name": "sgd"},
    },
    "training.optimizer.name": {"type": "categorical", "choices": ["sgd", "adam"]},
    "training.optimizer.lr": LR,
    "training.epochs": {"type": "int", "low": 1, "high": 9},
}


FLAT = {
    "training.optimizer.lr": LR,
    "training.schedule.warmup": {"type": "float", "low": 0, "high": 0.5},
}


GRID = {
    "stitch.name": {"type": "categorical", "choices": ["paper", "conv1x1"]},
    "training.schedule.warmup": {
        "type": "categorical",
        "choices": [0.1, 0.2, 0.3],
        "when": {"stitch.name": "paper"},
    },
    "training.epochs": {
        "type": "int",
        "low": 2,
        "high": 3,
        "when": {"training.schedule.warmup": [0.1, 0.2]},
    },
}


def make_config(space: dict | None = None, **search: object) -> Config:
    return Config.model_validate(
        {
            "data": {"name": "digits"},
            "networks": [
                {"name": "a", "family": "resnet1111"},
                {"name": "b", "family": "resnet1111", "seed": 1},
            ],
            "pairs": [{"sender": "a", "receiver": "b"}],
            "search": {"space": space, **search},
        }
    )


STUDIES = [Study("a", i, "b", j) for i, j in itertools.product(range(2), range(2))]


def score(study: str, params: dict) -> float:
    """Return a random metric that depends on study and parameters."""
    text = json.dumps([study, params], sort_keys=True)
    return random.Random(text).random()


def only_spec(suggestion: dict) -> dict:
    """The recorded content of the only trial of a suggested group."""
    (entry,) = json.loads(suggestion["group"])["trials"]
    return entry["spec"]


def curve(spec: dict, epochs: int) -> list[dict]:
    """Return the validation rows of a training that depends on study and parameters only."""
    return [
        {
            "step": 10 * epoch,
            "epoch": epoch,
            "split": "validation",
            "accuracy": score(f"{spec['study']} {epoch}", spec["params"]),
            "loss": score(f"{spec['study']} loss {epoch}", spec["params"]),
            "time": 1.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def run_searcher(
    config: Config,
    folder: Path,
    *,
    studies: list[Study] = STUDIES,
    slots: int = 1,
    shuffle: int = 0,
    crash_after: float = math.inf,
    fails: int = 0,
    deaths: float = 0.0,
    width: int = 1,
    log: list[dict] | None = None,
    **options: object,
) -> dict[str, dict]:
    """Drive a searcher as Tune does: keep `slots` groups running, end or pause one trial at a time.

    Args:
        config: the configuration.
        folder: of the ledger.
        studies: the studies.
        slots: number of groups that run at once.
        shuffle: seed of the order in which trials end.
        crash_after: stop after this number of ended or paused trials; the others stay `running`.
        fails: trials whose number is a multiple of it fail; 0 for none.
        deaths: probability that a worker dies instead of ending a trial.
        width: number of places of a pack.
        log: gets every group that was handed out.
        **options: further arguments of the searcher.

    Returns:
        The params of every trial.
    """
    ledger = Ledger(folder)
    searcher = SweepSearcher(
        studies, config, ledger, limit=lambda: slots, width=lambda *_: width, **options
    )
    order, running, ids, ended = random.Random(shuffle), {}, itertools.count(), 0
    while True:
        while len(running) < slots:
            suggestion = searcher.suggest(trial_id := f"t{next(ids)}")
            if suggestion is None or suggestion == SweepSearcher.FINISHED:
                break
            running[trial_id] = json.loads(suggestion["group"])["trials"]
            if log is not None:
                log.append({"entries": list(running[trial_id]), "width": width})
        if not running:
            assert suggestion == SweepSearcher.FINISHED
            assert searcher.exhausted
            break
        trial_id = order.choice(sorted(running))
        entries = running[trial_id]
        if order.random() < deaths:
            del running[trial_id]
            searcher.on_trial_complete(trial_id, error=True)
            continue
        entry = entries.pop(order.randrange(min(width, len(entries))))
        _end_or_pause(config, ledger, entry, fails)
        if ended == crash_after:
            break
        ended += 1
        result = {"left": [entry["spec"]["trial"]]}
        if entries:
            searcher.on_trial_result(trial_id, result)
        else:
            del running[trial_id]
            searcher.on_trial_complete(trial_id, result)
    return {record["trial"]: record["params"] for record in ledger.records()}


def _end_or_pause(config: Config, ledger: Ledger, entry: dict, fails: int) -> None:
    spec, until = entry["spec"], entry["until"]
    failed = fails and spec["number"] % fails == 0
    if until is not None and not failed:
        progress = {"paused_at": until, "trajectory": curve(spec, until), "seconds": 1.0}
        ledger.pause(spec["trial"], {**progress, "started": 1.0}, b"checkpoint")
        return
    metrics = {
        name: score(spec["study"] + name, spec["params"])
        for name in config.search.goals
        if not failed
    }
    epochs = 1 if failed else spec["settings"]["training"]["epochs"]
    trained = {"trajectory": curve(spec, epochs)} if config.search.scheduler else {}
    outcome = {
        "status": "failed" if failed else "finished",
        "metrics": metrics,
        "metric": metrics.get(config.search.metric),
        **TRAINED,
        **trained,
    }
    ledger.finish(spec["trial"], outcome, None)


def needs(sampler: str) -> object:
    missing = sampler == "CmaEsSampler" and importlib.util.find_spec("cmaes") is None
    return pytest.param(
        sampler, marks=pytest.mark.skipif(missing, reason="CmaEsSampler needs the package cmaes")
    )


SAMPLERS = [
    needs(name)
    for name in ("tpe", "random", "QMCSampler", "NSGAIISampler", "GPSampler", "CmaEsSampler")
]


OPTIONS = {
    "tpe": {"n_startup_trials": 3},
    "GPSampler": {"n_startup_trials": 3},
    "NSGAIISampler": {"population_size": 3},
}


def sampler_config(name: str, space: dict, samples: int, **search: object) -> Config:
    options = {"name": name, **OPTIONS.get(name, {})}
    return make_config(space, sampler=options, samples=samples, **search)


def by_number(found: dict[str, dict], studies: list[Study], count: int) -> list[list[dict]]:
    return [[found[study.trial(n)] for study in studies] for n in range(count)]


TRAINED = {"trajectory": [], "seconds": 1.0}


ENDED = {"status": "finished", "metric": 0.5, "metrics": {"val_accuracy": 0.5}, **TRAINED}


GOALS = {"val_accuracy": "max", "val_relative_mse": "min"}


FINITE = {"training.optimizer.lr": {"type": "categorical", "choices": [0.01, 0.03, 0.1]}}


ONE = {"training.optimizer.lr": {"type": "categorical", "choices": [0.01]}}


def finish_trial(folder: Path, spec: dict, **changes: object) -> None:
    outcome = {**ENDED, "trajectory": [], "seconds": 1.0, "started": 1.0, **changes}
    Ledger(folder).finish(spec["trial"], outcome, None)


def records_of(folder: Path) -> list[dict]:
    """Read all records in the order of studies and numbers, without their start time."""
    records = sorted(Ledger(folder).records(), key=lambda r: (r["study"], r["number"]))
    return [{k: v for k, v in record.items() if k != "started"} for record in records]
