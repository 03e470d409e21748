"""Workers that train groups of trials, with the searcher and the ledger, in this process."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data
from stitch_sweep.sweep.trainable import StitchTrainable
from stitch_sweep.training.pack import Pack
from stitch_sweep.training.workbench import Workbench
from tests.support.local_sweeps import LocalSweep, local_config, records

LR = {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}
SEARCH = {"space": {"training.optimizer.lr": LR}, "samples": 4, "sampler": "random"}
HALVING = {**SEARCH, "parallel_per_study": 4, "scheduler": {"name": "asha", "reduction_factor": 2}}


@pytest.fixture
def sweep(
    monkeypatch: pytest.MonkeyPatch, digits: Data, trained: dict[str, nn.Module]
) -> LocalSweep:
    return LocalSweep(monkeypatch, digits, trained)


def stitches(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (folder / "stitches").glob("*")}


def test_a_pack_has_the_same_results_whoever_shares_it(sweep, tmp_path):
    """Two workers, other orders, and fewer neighbors, all with four places."""
    config = local_config([0, 2, 3], [2], search={**SEARCH, "samples": 2})
    wanted = sweep.run(config, tmp_path / "one", width=4)
    assert {record["status"] for record in wanted.values()} == {"finished"}
    assert sweep.run(config, tmp_path / "two", width=4, slots=2, shuffle=1) == wanted
    assert stitches(tmp_path / "two") == stitches(tmp_path / "one")
    fewer = sweep.run(
        local_config([2], [2], search={**SEARCH, "samples": 2}), tmp_path / "few", width=4
    )
    assert fewer == {trial: wanted[trial] for trial in fewer}


def test_a_trial_that_diverges_leaves_its_neighbors_alone(sweep, tmp_path):
    def config(rates: list[float]):
        return local_config(
            [0, 2],
            [2],
            loss={"mse": 1.0},
            training={"epochs": 3, "optimizer": {"name": "sgd"}},
            search={"cross": {"training.optimizer.lr": rates}},
        )

    found = sweep.run(config([0.01, 1e30]), tmp_path / "both", width=4)
    assert Counter(record["status"] for record in found.values()) == {"finished": 2, "failed": 2}
    tame = sweep.run(config([0.01]), tmp_path / "tame", width=4)
    assert tame == {trial: found[trial] for trial in tame}
    for record in found.values():
        if record["status"] == "failed":
            assert record["error"] == "the loss stopped being finite"


def test_the_next_trial_takes_the_place_of_one_that_ends(sweep, tmp_path, monkeypatch):
    """Trials of one, two and five epochs in a pack of two: a free place is taken at once."""
    sizes = []
    run_epoch = StitchTrainable._run_epoch

    def watched(worker: StitchTrainable) -> None:
        sizes.append((len(worker._pack.members), len(worker._waiting)))
        run_epoch(worker)

    monkeypatch.setattr(StitchTrainable, "_run_epoch", watched)
    config = local_config([0, 2], [2], search={"cross": {"training.epochs": [1, 2, 5]}})
    wanted = sweep.run(config, tmp_path / "one", width=2)
    assert all(members == 2 or not waiting for members, waiting in sizes)
    assert any(waiting for _, waiting in sizes)
    assert sweep.run(config, tmp_path / "two", width=2, slots=3, shuffle=2) == wanted


def test_a_sweep_that_is_killed_at_every_step_resumes_bit_for_bit(sweep, tmp_path):
    sweep.checkpoint_seconds = 0.0
    config = local_config([0, 2], [2], search=HALVING)
    wanted = sweep.run(config, tmp_path / "whole", width=4)
    statuses = Counter(record["status"] for record in wanted.values())
    assert statuses["stopped"] >= 2
    assert statuses["finished"] >= 2
    sweep.run(config, tmp_path / "two", width=4, slots=2)
    for steps in range(1, sweep.steps_taken, 2):
        folder = tmp_path / str(steps)
        sweep.run(config, folder, width=4, slots=2, steps=steps)
        assert any(record["status"] == "running" for record in records(folder).values())
        assert sweep.run(config, folder, width=4, shuffle=steps) == wanted, steps
        assert stitches(folder) == stitches(tmp_path / "whole")


def test_a_lost_checkpoint_of_a_waiting_trial_costs_only_time(sweep, tmp_path):
    config = local_config([2], [2], search=HALVING)
    wanted = sweep.run(config, tmp_path / "whole", width=4)
    # All four trials wait after the first epoch; the decision is still to be made.
    sweep.run(config, tmp_path / "part", width=4, steps=1)
    assert [r.get("paused_at") for r in records(tmp_path / "part").values()] == [1] * 4
    checkpoints = sorted((tmp_path / "part" / "ledger" / "checkpoints").iterdir())
    assert len(checkpoints) == 4
    for path in checkpoints[:3]:
        path.unlink()
    checkpoints[3].write_bytes(b"damaged")
    assert sweep.run(config, tmp_path / "part", width=4) == wanted


def test_a_worker_continues_a_training_that_it_still_has(sweep, tmp_path, monkeypatch):
    """It isn't built again; where it was lost, the records are the same."""
    built = []
    training = Workbench.training

    def counted(bench, *arguments, **options):
        built.append(arguments)
        return training(bench, *arguments, **options)

    monkeypatch.setattr(Workbench, "training", counted)
    config = local_config([2], [2], search=HALVING)
    held = sweep.run(config, tmp_path / "held", width=4)
    assert len(built) == 4
    monkeypatch.setattr("stitch_sweep.sweep.trainable.HELD", 0)
    assert sweep.run(config, tmp_path / "rebuilt", width=4) == held
    assert len(built) > 8


def test_an_error_in_one_trial_is_the_failure_of_that_trial(sweep, tmp_path, monkeypatch):
    """Of its stitch's own step, and of its beginning; the trials beside it go on."""
    config = local_config([0, 2, 3], [2], search={**SEARCH, "samples": 1})
    wanted = sweep.run(config, tmp_path / "whole", width=4)
    training = Workbench.training

    def faulty(bench, sender, sender_layer, *arguments, **options):
        if sender_layer == 0:
            raise ValueError("no such stitch")
        built = training(bench, sender, sender_layer, *arguments, **options)
        if sender_layer == 3:

            def refuse(module, inputs):
                raise RuntimeError("a fault in the stitch")

            built.stitch.register_forward_pre_hook(refuse)
        return built

    monkeypatch.setattr(Workbench, "training", faulty)
    found = sweep.run(config, tmp_path / "faulty", width=4)
    for trial, record in found.items():
        if record["sender_layer"] == 2:
            assert record == wanted[trial]
        else:
            assert record["status"] == "failed"
            why = {0: "ValueError: no such stitch", 3: "RuntimeError: a fault in the stitch"}
            assert record["error"] == why[record["sender_layer"]]
            assert "Traceback" in record["traceback"]


def test_an_error_of_the_pass_is_retried_trial_by_trial(sweep, tmp_path, monkeypatch):
    """A GPU that has too little memory for four trials at once: each goes alone, at last with success."""
    config = local_config([0, 2], [2], search={**SEARCH, "samples": 2, "parallel_per_study": 2})
    wanted = sweep.run(config, tmp_path / "whole", width=4)
    run_epoch = StitchTrainable._run_epoch

    def small(worker: StitchTrainable) -> None:
        if len(worker._pack.members) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        run_epoch(worker)

    monkeypatch.setattr(StitchTrainable, "_run_epoch", small)
    found = sweep.run(config, tmp_path / "small", width=4, checks=False)
    assert sweep.searcher.lost == []
    for trial, record in found.items():
        assert {k: v for k, v in record.items() if k not in ("error", "out_of_memory")} == wanted[
            trial
        ]


def test_what_a_node_lacks_is_no_result_of_a_trial(sweep, tmp_path, monkeypatch):
    """Another node, or a later run, trains the trial; its record is the same."""
    config = local_config([2], [2], search={**SEARCH, "samples": 1})
    wanted = sweep.run(config, tmp_path / "whole")
    refusals = iter(range(2))

    def lacks(*arguments):
        if next(refusals, None) is not None:
            raise InputError("training.frozen: compiled needs a compiler")

    monkeypatch.setattr("stitch_sweep.sweep.worker_trial.check_machine", lacks)
    found = sweep.run(config, tmp_path / "mixed", checks=False)
    assert sweep.searcher.lost == []
    assert found == wanted

    refusals = iter(range(100))
    found = sweep.run(config, tmp_path / "none", checks=False)
    ((trial, record),) = found.items()
    assert sweep.searcher.lost == [trial]
    assert record["status"] == "running"
    assert re.fullmatch(r"NodeError: node \S+: training.frozen: compiled.*", record["error"])


def test_an_error_of_the_pass_that_stays_is_a_failure(sweep, tmp_path, monkeypatch):
    def refuse(pack: Pack) -> None:
        raise RuntimeError("the receiver can't be run")

    monkeypatch.setattr(Pack, "run_epoch", refuse)
    for width in (1, 4):
        config = local_config([0, 2], [2])
        found = sweep.run(config, tmp_path / str(width), width=width, checks=False)
        assert sweep.searcher.lost == []
        assert len(found) == 2
        for record in found.values():
            assert record["status"] == "failed"
            assert record["error"] == "RuntimeError: the receiver can't be run"


def test_a_study_starts_from_its_neighbors_stitch(sweep, tmp_path):
    """The first validation of a child's trial is near its parent's last; a resume changes nothing."""
    search = {**SEARCH, "samples": 2, "share": "neighbors"}
    config = local_config([0, 1], [1], search=search, training={"epochs": 2})
    wanted = sweep.run(config, tmp_path / "whole", width=2)
    children = [r for r in wanted.values() if r["sender_layer"] == 0]
    parents = [r for r in wanted.values() if r["sender_layer"] == 1]
    best = max(parents, key=lambda record: record["metric"])
    for child in children:
        assert child["start"]["trial"] == best["trial"]
    plain = local_config([0, 1], [1], search={**search, "share": "none"}, training={"epochs": 2})
    without = sweep.run(plain, tmp_path / "plain", width=2)
    for child in children:
        assert child["trajectory"] != without[child["trial"]]["trajectory"]
    for steps in (1, 2, 3, 4):
        folder = tmp_path / str(steps)
        sweep.run(config, folder, width=2, steps=steps)
        assert sweep.run(config, folder, width=2, slots=2) == wanted
        assert stitches(folder) == stitches(tmp_path / "whole")
