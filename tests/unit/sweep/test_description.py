"""What a resume may change in the section `search`: nothing that decides a recorded trial."""

import json
from pathlib import Path

import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.loading import load
from stitch_sweep.plan.outlines import Outline
from stitch_sweep.plan.prepare import Prepared
from stitch_sweep.plan.studies import enumerate_studies
from stitch_sweep.sweep.description import check_unchanged, describe_sweep
from tests.support.searches import LR, make_config


def prepared(pairs=(("a", "b", [0, 2]),), **search: object) -> Prepared:
    config = make_config({"training.optimizer.lr": LR}, **{"samples": 4, **search})
    tree = config.model_dump(mode="json")
    tree["data"] |= {"image_size": 16, "train_images": 100, "test_images": 20}
    tree["pairs"] = [
        {"sender": a, "receiver": b, "sender_layers": layers, "receiver_layers": [1]}
        for a, b, layers in pairs
    ]
    config = type(config).model_validate(tree)
    outlines = {name: Outline((1, 16, 16), [(4, 8, 8)] * 5, 10) for name in ("a", "b")}
    return Prepared(config, load(config.data), outlines, enumerate_studies(config, outlines))


def resume(before: Prepared, after: Prepared) -> None:
    """Check a resume of a sweep whose first trial is recorded."""
    stored = json.loads(json.dumps(describe_sweep(before)))

    class Started:
        folder = root = Path()

        def description(self) -> object:
            return stored

        def trial_ids(self) -> set[str]:
            return {before.studies[0].trial(0)}

    check_unchanged(Started(), after)  # type: ignore[arg-type]


def test_a_sweep_without_them_is_described_as_before():
    described = describe_sweep(prepared())
    assert list(described["decides"]["search"]) == [
        "space",
        "sampler",
        "metric",
        "mode",
        "parallel_per_study",
    ]
    assert "chains" not in described["decides"]
    assert not {"scheduler", "share", "enqueue"} & described["config"]["search"].keys()


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ({}, {"scheduler": "asha"}, "search.scheduler"),
        ({"scheduler": "asha"}, {"scheduler": "median_stopping"}, "search.scheduler.name"),
        ({"enqueue": [{"training.optimizer.lr": 0.01}]}, {}, "search.enqueue"),
        ({}, {"share": "neighbors"}, "search.share"),
    ],
)
def test_a_resume_may_not_change_them(before, after, named):
    resume(prepared(**before), prepared(**before))
    with pytest.raises(InputError, match=named.replace(".", r"\.")):
        resume(prepared(**before), prepared(**after))


def test_pairs_may_be_added_to_neighbors_and_layers_may_not():
    """A new layer between two others would change who learns from whom."""
    share = {"share": "neighbors"}
    before = prepared(**share)
    resume(before, prepared([("a", "b", [0, 2]), ("b", "a", [0, 1])], **share))
    with pytest.raises(InputError, match=r"chains\.a -> b:1: was \[0, 2\], is \[0, 1, 2\]"):
        resume(before, prepared([("a", "b", [0, 1, 2])], **share))


def test_samples_may_be_added_unless_other_trials_learned_from_the_best():
    resume(prepared(samples=4), prepared(samples=6))
    share = {"share": "neighbors"}
    before = prepared(samples=4, **share)
    resume(before, prepared(samples=4, **share))
    with pytest.raises(InputError) as caught:
        resume(before, prepared(samples=6, **share))
    assert "samples" not in caught.value.problems[0]
    assert caught.value.problems[1:] == ["search.samples: was 4, is 6"]
