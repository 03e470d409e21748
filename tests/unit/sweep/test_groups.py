"""Groups of trials that one worker trains side by side."""

import itertools
import json
from collections import Counter

import pytest

from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep import rounds
from stitch_sweep.sweep.groups import LONGEST, MOST_MISFITS, choose_size
from stitch_sweep.sweep.retries import RETRIES
from stitch_sweep.sweep.searcher import SweepSearcher
from stitch_sweep.sweep.slots import describe_slots
from tests.support.searches import (
    FLAT,
    STUDIES,
    finish_trial,
    make_config,
    records_of,
    run_searcher,
    sampler_config,
)


def test_a_group_is_within_its_limits_for_every_load():
    for width, column, others, slots in itertools.product(
        (1, 2, 8), (1, 3, 8, 40, 1000), (0, 5, 500), (1, 2, 7)
    ):
        for idle in range(1, slots + 1):
            size = choose_size(width, column, column + others, idle, slots)
            load = (width, column, others, idle, slots)
            assert 1 <= size <= LONGEST * width, load
            assert width > 1 or size == 1, load
            # The trials of the other idle workers aren't taken away.
            assert size == 1 or (size - 1) * idle < column + others, load


def test_a_worker_with_a_pack_is_not_called_one_trial():
    assert describe_slots(2, widest=1) == "2 trials at a time"
    assert describe_slots(2, widest=8) == "workers: 2, each with up to 8 trials at a time"


def specs(log):
    return [[entry["spec"] for entry in group["entries"]] for group in log]


def test_a_group_has_one_receiver_layer_and_one_batch_size(tmp_path):
    space = {"training.batch_size": {"type": "categorical", "choices": [16, 32, 64]}, **FLAT}
    log = []
    config = make_config(space, sampler="random", samples=8, parallel_per_study=4)
    run_searcher(config, tmp_path, width=4, slots=2, log=log)
    kinds = [
        {
            (s["receiver"], s["receiver_layer"], s["settings"]["training"]["batch_size"])
            for s in group
        }
        for group in specs(log)
    ]
    assert all(len(kind) == 1 for kind in kinds)
    assert max(map(len, specs(log))) > 1


class TestOpenedStudies:
    """A group opens the searches of few studies: thousands of them would take time and memory."""

    COLUMN = tuple(Study("a", layer, "b", 0, repeat=r) for layer in range(5) for r in range(60))

    @pytest.fixture
    def opened(self, monkeypatch) -> list[str]:
        opened: list[str] = []

        class Watched(StudySearch):
            def __init__(self, study, *arguments):
                opened.append(study.id)
                super().__init__(study, *arguments)

        monkeypatch.setattr(rounds, "StudySearch", Watched)
        return opened

    def searcher(self, folder, studies=COLUMN):
        config = make_config(FLAT, sampler="random", samples=2)
        return SweepSearcher(studies, config, Ledger(folder), limit=lambda: 2, width=lambda *_: 4)

    def test_by_a_group_that_is_full(self, opened, tmp_path):
        group = json.loads(self.searcher(tmp_path).suggest("a")["group"])["trials"]
        assert len(group) == len(opened) == LONGEST * 4

    def test_by_a_trial_that_goes_alone(self, opened, tmp_path):
        searcher = self.searcher(tmp_path)
        for k in range(2):
            searcher.suggest(str(k))
            searcher.on_trial_complete(str(k), error=True)
        before = len(opened)
        group = json.loads(searcher.suggest("x")["group"])["trials"]
        assert len(group) == 1
        assert len(opened) == before

    def test_by_a_group_that_nothing_fits(self, opened, tmp_path):
        studies = [
            Study("a", 0, "b", 0, {"training.batch_size": size}, repeat)
            for size, repeats in ((16, 1), (32, 300))
            for repeat in range(repeats)
        ]
        group = json.loads(self.searcher(tmp_path, studies).suggest("a")["group"])["trials"]
        assert len(group) == 1
        assert len(opened) == 1 + MOST_MISFITS


def test_every_trial_is_handed_out_once(tmp_path):
    log = []
    config = sampler_config("random", FLAT, 6, parallel_per_study=3)
    run_searcher(config, tmp_path, width=4, slots=3, shuffle=1, log=log)
    counts = Counter(spec["trial"] for group in specs(log) for spec in group)
    assert set(counts.values()) == {1}
    assert len(counts) == 6 * len(STUDIES)
    assert max(map(len, specs(log))) <= LONGEST * 4


def test_places_are_filled_and_no_worker_is_left_without_trials(tmp_path):
    """One study of eight trials at a time: a pack of eight for one worker, two of four for two."""
    config = sampler_config("random", FLAT, 8, parallel_per_study=8)
    for slots, sizes in ((1, [8]), (2, [4, 4]), (8, [1] * 8)):
        log = []
        run_searcher(
            config, tmp_path / str(slots), studies=STUDIES[:1], width=8, slots=slots, log=log
        )
        assert sorted(map(len, specs(log))) == sizes, slots


def test_with_one_place_a_group_is_one_trial(tmp_path):
    log = []
    run_searcher(sampler_config("random", FLAT, 6, parallel_per_study=3), tmp_path, log=log)
    assert {len(group) for group in specs(log)} == {1}


@pytest.mark.parametrize("scheduler", [None, {"name": "asha", "reduction_factor": 2}])
def test_neither_width_nor_workers_nor_deaths_change_a_record(scheduler, tmp_path):
    search = {"parallel_per_study": 4, **({"scheduler": scheduler} if scheduler else {})}
    config = sampler_config("tpe", FLAT, 8, **search)
    studies = STUDIES[:2]
    run_searcher(config, tmp_path / "alone", studies=studies)
    wanted = records_of(tmp_path / "alone")
    variants = [(1, 4, 0.1), (3, 1, 0.1), (3, 4, 0.0), (8, 1, 0.0), (8, 4, 0.1)]
    for number, (width, slots, deaths) in enumerate(variants):
        folder = tmp_path / str(number)
        options = {"width": width, "slots": slots, "deaths": deaths, "shuffle": number}
        run_searcher(config, folder, studies=studies, **options)
        assert records_of(folder) == wanted, (width, slots, deaths)


def test_a_trial_that_kills_its_worker_is_tried_alone_in_the_end(tmp_path):
    """It dies in every group; the other trials of its group end all the same."""
    config = sampler_config("random", FLAT, 6, parallel_per_study=6)
    searcher = SweepSearcher(
        STUDIES[:1], config, Ledger(tmp_path), limit=lambda: 1, width=lambda *_: 6
    )
    deadly, sizes = STUDIES[0].trial(2), []
    for attempt in itertools.count():
        suggestion = searcher.suggest(str(attempt))
        if suggestion == SweepSearcher.FINISHED:
            break
        trials = json.loads(suggestion["group"])["trials"]
        kills = deadly in {entry["spec"]["trial"] for entry in trials}
        sizes.append((len(trials), kills))
        for entry in () if kills else trials:
            finish_trial(tmp_path, entry["spec"])
        searcher.on_trial_complete(str(attempt), {}, error=kills)
    assert searcher.lost == [deadly]
    statuses = Counter(record["status"] for record in records_of(tmp_path))
    assert statuses == {"finished": 5, "running": 1}
    assert [size for size, kills in sizes if kills] == [6, 6] + [1] * (RETRIES - 1)


def test_a_reason_spares_the_trials_that_were_not_begun(tmp_path):
    """The worker notes its error in the records of the trials in its pack, not of those that wait."""
    config = sampler_config("random", FLAT, 6, parallel_per_study=6)
    events, limit = [], 1
    searcher = SweepSearcher(
        STUDIES[:1],
        config,
        Ledger(tmp_path),
        lambda event, record: events.append((event, record["trial"])),
        limit=lambda: limit,
        width=lambda *_: 4,
    )
    trials = json.loads(searcher.suggest("a")["group"])["trials"]
    assert len(trials) == 6
    begun = [entry["spec"]["trial"] for entry in trials[:4]]
    writer = LedgerWriter(str(tmp_path), "all", "max")
    for trial in begun:
        writer.note(trial, "FrozenError: a network changed")
    events.clear()
    searcher.on_trial_complete("a", error=True)
    assert sorted(events) == [("retried", trial) for trial in begun]
    limit = 5
    groups = [json.loads(searcher.suggest(str(k))["group"])["trials"] for k in range(5)]
    assert [len(group) for group in groups] == [1, 1, 1, 1, 2]
    assert searcher.suggest("x") is None
