"""Neighboring cells: who learns from whom, and what."""

import itertools
import random

import pytest

from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.plan.neighbors import (
    Neighbors,
    best_record,
    describe_chains,
    shared_settings,
    shared_stitch,
)
from stitch_sweep.storage.study import Study
from tests.support.searches import FLAT, make_config

LAYERS = {"a": 5, "b": 5, "deep": 9}


def grid(sender="a", receiver="b", rows=range(5), columns=range(5), **other):
    return [Study(sender, i, receiver, j, **other) for i, j in itertools.product(rows, columns)]


def steps_to_first(neighbors, study):
    count = 0
    while parents := neighbors.parents(study):
        (study,) = parents
        count += 1
        assert count < 100, "a circle"
    return study, count


class TestChains:
    def test_the_first_study_is_that_of_the_nearest_depth(self):
        neighbors = Neighbors(grid(), LAYERS.get)
        for study in grid():
            first, count = steps_to_first(neighbors, study)
            assert first.sender_layer == first.receiver_layer == study.receiver_layer
            assert count == abs(study.sender_layer - study.receiver_layer)

    def test_depths_of_unequal_networks_are_relative(self):
        studies = grid("deep", "b", range(9), range(5))
        neighbors = Neighbors(studies, LAYERS.get)
        for study in studies:
            first, _ = steps_to_first(neighbors, study)
            assert first.sender_layer == 2 * study.receiver_layer

    def test_a_parent_is_an_adjacent_layer_of_the_sweep_and_differs_in_nothing_else(self):
        studies = [
            study
            for factors, repeat in itertools.product([{"loss": {"mse": 1.0}}, {}], range(2))
            for study in grid(
                rows=(-1, 0, 2, 4), columns=(-1, 1, 4), factors=factors, repeat=repeat
            )
        ]
        neighbors = Neighbors(studies, LAYERS.get)
        rows = [-1, 0, 2, 4]
        first_count = 0
        for study in studies:
            parents = neighbors.parents(study)
            first_count += not parents
            for parent in parents:
                distance = rows.index(parent.sender_layer) - rows.index(study.sender_layer)
                assert abs(distance) == 1
                assert {**parent.key, "sender_layer": study.sender_layer} == study.key
        assert first_count == 2 * 2 * 3  # one for every chain

    def test_the_order_of_studies_changes_nothing(self):
        studies = grid() + grid("deep", "b", range(9))
        shuffled = random.Random(0).sample(studies, len(studies))
        one, two = Neighbors(studies, LAYERS.get), Neighbors(shuffled, LAYERS.get)
        assert all(one.parents(study) == two.parents(study) for study in studies)

    def test_parents_come_before_children(self):
        studies = grid(rows=range(-1, 5), columns=range(-1, 5))
        neighbors = Neighbors(studies, LAYERS.get)
        order = neighbors.order()
        places = {study.id: place for place, study in enumerate(order)}
        assert sorted(places) == sorted(study.id for study in studies)
        for study in studies:
            assert all(places[p.id] < places[study.id] for p in neighbors.parents(study))

    def test_a_network_of_one_layer_has_a_depth(self):
        assert Neighbors([Study("one", 0, "b", 3)], {"one": 1, "b": 5}.get).order()

    def test_the_description_lists_what_a_resume_must_keep(self):
        studies = [*grid(rows=(2, 0), columns=(1,)), Study("a", 1, "b", 1, repeat=1)]
        assert describe_chains(studies) == {"a -> b:1": [0, 1, 2]}


def record(number, metric, status="finished", stitch=True, **changes):
    settings = make_config().trial_settings({}).model_dump(mode="json")
    return {
        "trial": f"a.0-b.1-r0-x-n{number}",
        "number": number,
        "sender_layer": 0,
        "status": status,
        "metric": metric,
        "params": {"training.optimizer.lr": number / 100},
        "settings": settings,
        "stitch": {"sha256": "0" * 64, "bytes": 1} if stitch else None,
        **changes,
    }


class TestBest:
    def test_of_equal_trials_the_earliest_counts(self):
        records = [record(0, 0.5), record(1, 0.7), record(2, 0.7)]
        assert best_record(records, make_config())["number"] == 1
        assert best_record(records[::-1], make_config())["number"] == 1
        loss = make_config(metric="val_loss")
        assert best_record(records, loss)["number"] == 0

    def test_stopped_and_failed_trials_never_count(self):
        records = [record(0, 0.5), record(1, 0.9, "stopped"), record(2, None, "failed")]
        assert best_record(records, make_config())["number"] == 0
        assert best_record(records[1:], make_config()) is None
        assert shared_settings([records[1:], records], make_config(FLAT)) == [
            {"training.optimizer.lr": 0.0}
        ]


class TestStitch:
    CHILD = Study("a", 1, "b", 1)

    def start(self, records, overrides=None, shapes=None):
        shapes = shapes or {0: (4, 8, 8), 1: (4, 8, 8)}
        config = make_config()
        settings = TrialSettings.model_validate(config.trial_settings(overrides or {}))
        return shared_stitch(
            self.CHILD, settings, [records], config, lambda network, layer: shapes[layer]
        )

    def test_the_best_trials_stitch_replaces_a_random_start(self):
        assert self.start([record(0, 0.5), record(1, 0.7)]) == "a.0-b.1-r0-x-n1"

    @pytest.mark.parametrize(
        ("records", "overrides", "shapes"),
        [
            ([], {}, None),
            ([record(0, 0.5, stitch=False)], {}, None),
            ([record(0, 0.5)], {}, {0: (4, 8, 8), 1: (8, 4, 4)}),
            ([record(0, 0.5)], {"stitch.name": "conv1x1"}, None),
            ([record(0, 0.5)], {"stitch.start": "least_squares"}, None),
        ],
        ids=["no result", "not kept", "other shape", "other stitch", "other start"],
    )
    def test_otherwise_the_stitch_starts_as_configured(self, records, overrides, shapes):
        assert self.start(records, overrides, shapes) is None
