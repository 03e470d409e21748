"""Knowledge shared between neighboring cells (`search.share: neighbors`): who learns from whom.

The studies of one sender, receiver, receiver layer, combination of factors and repeat form a chain,
ordered by sender layer. The first study of a chain is that of the sender layer whose relative depth is
nearest to the receiver layer's: there the representations are most alike, so its search is the easiest.
From it the chain grows in both directions, and each study learns from the adjacent study nearer to the
first. A study begins when its parents have ended, so its results don't depend on timing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.storage.records import rank
from stitch_sweep.storage.study import Study


class Neighbors:
    """The chains of a sweep's studies.

    Args:
        studies: of the sweep.
        layers: returns the number of layers of a network, by name, without the image.
    """

    def __init__(self, studies: Sequence[Study], layers: Callable[[str], int]) -> None:
        self._studies = studies
        self._parents: dict[str, Study] = {}
        self._distances: dict[str, int] = {}
        chains: dict[str, list[Study]] = {}
        for study in studies:
            key = {name: part for name, part in study.key.items() if name != "sender_layer"}
            chains.setdefault(json.dumps(key, sort_keys=True), []).append(study)
        for chain in chains.values():
            chain.sort(key=lambda study: study.sender_layer)
            offsets = [
                abs(
                    _depth(study.sender_layer, layers(study.sender))
                    - _depth(study.receiver_layer, layers(study.receiver))
                )
                for study in chain
            ]
            first = offsets.index(min(offsets))
            for position, study in enumerate(chain):
                self._distances[study.id] = abs(position - first)
                if position != first:
                    step = -1 if position > first else 1
                    self._parents[study.id] = chain[position + step]

    def parents(self, study: Study) -> list[Study]:
        """Return the studies that must have ended before a study begins, the most important first."""
        parent = self._parents.get(study.id)
        return [] if parent is None else [parent]

    def order(self) -> list[Study]:
        """Return all studies, parents before their children, as near to the given order as possible."""
        return sorted(self._studies, key=lambda study: self._distances[study.id])


def describe_chains(studies: Iterable[Study]) -> dict[str, list[int]]:
    """Return the sender layers of the studies of each sender, receiver and receiver layer.

    They decide who learns from whom, so a resume may not change them.
    """
    chains: dict[str, set[int]] = {}
    for study in studies:
        name = f"{study.sender} -> {study.receiver}:{study.receiver_layer}"
        chains.setdefault(name, set()).add(study.sender_layer)
    return {name: sorted(layers) for name, layers in chains.items()}


def best_record(records: Iterable[Mapping[str, Any]], config: Config) -> Mapping[str, Any] | None:
    """Return the best finished trial, by `storage.records.rank`; None without any."""
    finished = [record for record in records if record["status"] == "finished"]
    return max(finished, key=lambda record: rank(record, config.search.mode), default=None)


def shared_settings(
    parents: Iterable[Iterable[Mapping[str, Any]]], config: Config
) -> list[dict[str, Any]]:
    """Return the settings that a study takes from its parents: the best of each, {dotted path: value}.

    Args:
        parents: for each parent, in the order of `Neighbors.parents`, the records of its ended trials.
        config: the configuration.
    """
    best = [best_record(records, config) for records in parents]
    return [dict(record["params"]) for record in best if record is not None]


def shared_stitch(
    study: Study,
    settings: TrialSettings,
    parents: Iterable[Iterable[Mapping[str, Any]]],
    config: Config,
    shape: Callable[[str, int], Shape],
) -> str | None:
    """Return the trial of a parent whose stitch replaces the random start of a trial's stitch.

    It is the best trial of the first parent whose sender layer has the same shape, if that trial's stitch
    was kept and has the type and options of this trial's stitch. Another start than `random` is kept.

    Args:
        study: of the trial.
        settings: of the trial.
        parents: as for `shared_settings`.
        config: the configuration.
        shape: returns the shape of a network's layer, without the batch, for a name and a layer.

    Returns:
        The id of the parent's trial; None if the stitch starts as its settings say.
    """
    if settings.stitch.start != "random":
        return None
    here = shape(study.sender, study.sender_layer)
    for records in parents:
        best = best_record(records, config)
        if best is None or best.get("stitch") is None:
            continue
        stitch = TrialSettings.model_validate(best["settings"]).stitch
        is_alike = (stitch.name, stitch.options) == (settings.stitch.name, settings.stitch.options)
        if is_alike and shape(study.sender, best["sender_layer"]) == here:
            return str(best["trial"])
    return None


def _depth(layer: int, layers: int) -> float:
    """Return a layer's relative depth: 0 for the stem, 1 for the last block, below 0 for the image."""
    return layer / max(1, layers - 1)
