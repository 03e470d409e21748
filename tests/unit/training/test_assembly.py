"""Networks assembled from pieces of networks and stitches."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from stitch_sweep.config.loss import LossConfig
from stitch_sweep.config.parts import PartConfig
from stitch_sweep.config.reading import read_config
from stitch_sweep.config.training import TrainingConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.cutting.hooked_part import tensors_of_part
from stitch_sweep.networks.external.preprocessing import Imported
from stitch_sweep.networks.frozen import FrozenError
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.storage.digests import fingerprint
from stitch_sweep.sweep.assemble import run_assembly
from stitch_sweep.training.assembly import Assembly, outline
from stitch_sweep.training.train_assembly import AssemblyResult, train_assembly
from tests.support.assemblies import three_parts, write_assembly
from tests.support.train_stitch import train_stitch

SHAPE = (1, 16, 16)
TASK = LossConfig.model_validate({"task": 1.0})
PAPER = {"stitch": {"name": "paper"}}
BRIEF = TrainingConfig(epochs=2, batch_size=64)


def parts(*trees: dict[str, Any]) -> list[PartConfig]:
    return [PartConfig.model_validate(tree) for tree in trees]


def assembled(networks: dict[str, nn.Module], *trees: dict[str, Any]) -> Assembly:
    return Assembly(outline(parts(*trees), networks, SHAPE), networks)


def trained(assembly: Assembly, data: Data, **options: Any) -> AssemblyResult:
    *_, result = train_assembly(
        assembly, make_loaders(data, 64, seed=0), TASK, options.pop("training", BRIEF), **options
    )
    assert isinstance(result, AssemblyResult)
    return result


# What an assembly is


@pytest.mark.parametrize("cuts", [["relu"], ["layer1.0", "layer3.0"], [0, 2], ["avgpool"]])
def test_the_pieces_of_a_network_are_the_network(a, digits, cuts):
    ends = [None, *cuts, None]
    pieces = [
        {"network": "a", "start": start, "end": end} for start, end in itertools.pairwise(ends)
    ]
    images = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(assembled({"a": a}, *pieces)(images), a(images))


def test_three_parts_are_a_stitch_between_two_networks(a, b, digits):
    """Both start from the same closed form, so both make the same predictions."""
    start = {"name": "conv1x1", "start": "least_squares"}
    assembly = assembled(
        {"a": a, "b": b},
        {"network": "a", "end": 1},
        {"stitch": start},
        {"network": "b", "start": 2},
    )
    found = trained(assembly, digits, training=TrainingConfig(epochs=0, batch_size=64))
    settings = TrialSettings.model_validate({"stitch": start, "training": {"epochs": 0}})
    expected = train_stitch(a, b, sender_layer=1, receiver_layer=2, data=digits, settings=settings)
    assert torch.equal(found.predictions, expected.predictions)
    assert found.metrics["test_accuracy"] == expected.metrics["test_accuracy"]
    assert found.metrics["penalty"] == expected.metrics["penalty"]
    assert found.trajectory == []


def test_training_lowers_the_loss_and_is_the_same_each_time(a, b, digits):
    results = [
        trained(assembled(copy.deepcopy({"a": a, "b": b}), *three_parts()), digits)
        for _ in range(2)
    ]
    first, last = (results[0].trajectory[k]["loss"] for k in (0, -2))
    assert last < first
    assert results[0].metrics == results[1].metrics
    assert torch.equal(results[0].predictions, results[1].predictions)


# What is trained and what is not


def test_only_stitches_are_trained(a, b, digits):
    networks = {"a": a, "b": b}
    before = {name: fingerprint(network) for name, network in networks.items()}
    assembly = assembled(networks, *three_parts())
    stitches = [fingerprint(assembly.parts[k]) for k in (1, 3)]
    assert list(assembly.trained) == [1, 3]
    trained(assembly, digits)
    assert {name: fingerprint(network) for name, network in networks.items()} == before
    assert all(
        fingerprint(assembly.parts[k]) != was for k, was in zip((1, 3), stitches, strict=True)
    )


@pytest.mark.parametrize("fast", [{"frozen": "fused"}, {"precision": "bfloat16"}])
def test_fast_copies_are_refused(a, b, digits, fast):
    assembly = assembled({"a": a, "b": b}, *three_parts())
    settings = BRIEF.model_copy(update=fast)
    with pytest.raises(InputError, match=rf"set training.{next(iter(fast))}: "):
        next(train_assembly(assembly, make_loaders(digits, 64, seed=0), TASK, settings))


def test_a_frozen_part_that_changes_is_found(a, b, digits):
    assembly = assembled({"a": a, "b": b}, *three_parts())
    steps = train_assembly(assembly, make_loaders(digits, 64, seed=0), TASK, BRIEF)
    next(steps)
    with torch.no_grad():
        b.get_submodule("layer2.0.conv1").weight.view(-1)[0] += 1e-3
    with pytest.raises(FrozenError, match=r"network 'b': layer2\.0\.conv1\.weight changed"):
        list(steps)


def test_an_unfrozen_part_is_a_copy_and_nothing_else_of_its_network_is_trained(a, b, digits):
    tree = three_parts()
    tree[2]["frozen"] = False
    before = fingerprint(b)
    assembly = assembled({"a": a, "b": b}, *tree)
    own = {name: t.clone() for name, t in assembly.parts[2].state_dict().items()}
    trained(assembly, digits)
    assert fingerprint(b) == before
    changed = {n for n, t in assembly.parts[2].state_dict().items() if not torch.equal(t, own[n])}
    assert {name.split(".")[0] for name in own} == {"layer2", "layer3"}
    parameters = {name for name, _ in assembly.parts[2].named_parameters()}
    assert changed == parameters, "all weights, and no statistics of BatchNorm"


@pytest.mark.parametrize("start", [{}, {"start": -1}])
def test_a_stitch_can_make_an_image_and_start_from_data(a, b, digits, start):
    """The last part may name the image as its start, or omit the start."""
    stitch = {"stitch": {"name": "conv1x1", "start": "least_squares"}}
    trees = {"network": "a", "end": "relu"}, stitch, {"network": "b", **start}
    found = trained(assembled({"a": a, "b": b}, *trees), digits)
    assert found.status == "finished"
    expected = trained(
        assembled({"a": a, "b": b}, *trees[:2], {"network": "b", "start": -1}), digits
    )
    assert found.metrics == expected.metrics


class Branching(nn.Module):
    """A network that can be cut with hooks only, so its parts contain the whole network."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.isnan().any():
            raise ValueError("no numbers")
        return self.fc(self.norm(self.two(self.one(x).relu())).mean((2, 3)))


@pytest.mark.parametrize(
    ("ends", "names"),
    [
        ({"end": "one"}, {"one.weight", "one.bias"}),
        ({"start": "one", "end": "two"}, {"two.weight", "two.bias"}),
        ({"start": "two"}, {"norm.weight", "norm.bias", "fc.weight", "fc.bias"}),
    ],
)
def test_an_unfrozen_part_with_hooks_is_no_more_than_itself(digits, ends, names):
    network = Imported(Branching(), None, SHAPE).eval()
    network.layer_names = ["one", "two"]
    cuts = [None, "one", "two", None]
    trees = [
        {
            "network": "n",
            "start": start,
            "end": end,
            "frozen": {"start": start, "end": end} != {"start": None, "end": None} | ends,
        }
        for start, end in itertools.pairwise(cuts)
    ]
    assembly = assembled({"n": network}, *trees)
    (position,) = assembly.trained
    module = assembly.parts[position]
    own = {
        name for name, tensor in tensors_of_part(module).items() if isinstance(tensor, nn.Parameter)
    }
    assert own == names
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert set(tensors_of_part(module)) - own == (statistics if "fc.bias" in names else set())
    inner = network.network.state_dict()
    found = trained(assembly, digits)
    assert found.metrics["parameters"] == sum(inner[name].numel() for name in names)
    assert all(not torch.equal(tensors_of_part(module)[name], inner[name]) for name in names)


def test_in_turn_each_part_learns_while_the_others_stay(a, b, digits):
    assembly = assembled({"a": a, "b": b}, *three_parts())
    seen = [[fingerprint(assembly.parts[k]) for k in (1, 3)]]
    loaders = make_loaders(digits, 64, seed=0)
    found = []
    for step in train_assembly(assembly, loaders, TASK, BRIEF, order="in_turn"):
        found.append(step)
        seen.append([fingerprint(assembly.parts[k]) for k in (1, 3)])
    assert found[:-1] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    first, second = zip(*seen[:-1], strict=True)
    assert len(set(first[:3])) == 3
    assert len(set(first[2:])) == 1, "the first stitch is left alone once it has had its turn"
    assert len(set(second[:3])) == 1, "the second waits for its turn"
    assert len(set(second[2:])) == 3
    rows = pd.DataFrame(found[-1].trajectory)
    assert rows[rows["split"] == "train"]["part"].tolist() == [1, 1, 3, 3]


# What is refused


@pytest.mark.parametrize(
    ("trees", "messages"),
    [
        (
            [{"network": "a", "end": "layer1.O"}, {"network": "a", "start": "layer1.0"}],
            ["parts[0]: ", "layer1.0"],
        ),
        (
            [{"network": "a", "end": "layer1.0.conv1"}, {"network": "a", "start": 2}],
            ["parts[0]: ", "layer1.0"],
        ),
        (
            [{"network": "a", "end": 1}, {"network": "b", "start": 2}],
            [
                "parts[1]: takes 8x8x8, but the part before it gives 4x16x16; stitches that",
                "conv1x1",
            ],
        ),
        (
            [
                {"network": "a", "end": 1},
                {"stitch": {"name": "identity"}},
                {"network": "b", "start": 2},
            ],
            ["parts[1]: stitch 'identity' can't join 4x16x16 to 8x8x8"],
        ),
    ],
)
def test_parts_that_can_not_be_joined_are_named(a, b, trees, messages):
    with pytest.raises(InputError) as error:
        outline(parts(*trees), {"a": a, "b": b}, SHAPE)
    for message in messages:
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("trees", "message"),
    [
        ([{"network": "a"}, {"stitch": {"name": "paper"}}], "parts[1]: a stitch needs a piece of"),
        (
            [
                {"network": "a", "end": 1},
                *[{"stitch": {"name": "paper"}}] * 2,
                {"network": "a", "start": 1},
            ],
            "parts[2]: a stitch needs a piece of a network before it and after it",
        ),
        ([{"network": "a", "start": 1}], "parts[0].start: the first part begins at the image"),
        ([{"network": "a", "end": 1}], "parts[0].end: the last part ends at the logits"),
        ([{"network": "c"}], "parts[0].network: no network is named 'c': allowed: a, b"),
        (
            [{"network": "a", "stitch": {"name": "paper"}}],
            "needs either network or stitch, not both",
        ),
        (
            [
                {"network": "a", "end": 1},
                {"stitch": {"name": "paper"}, "frozen": True},
                {"network": "a", "start": 1},
            ],
            "parts[1].frozen: only allowed with network",
        ),
        ([{"network": "a", "form": 1}], "parts[0].form: unknown key"),
    ],
)
def test_what_is_no_list_of_parts_is_said(tmp_path, trees, message):
    with pytest.raises(InputError) as error:
        read_config(write_assembly(tmp_path, tmp_path / "zoo", trees))
    assert any(message in problem for problem in error.value.problems), error.value.problems


def test_a_loss_that_needs_one_receiver_is_refused_before_anything_is_trained(tmp_path):
    config = read_config(
        write_assembly(tmp_path, tmp_path / "zoo", three_parts(), loss={"task": 1.0, "mse": 1.0})
    )
    with pytest.raises(InputError, match=r"loss\.mse: compares with .*; allowed: task"):
        run_assembly(config, tmp_path)
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("pairs", [[], [{"sender": "a", "receiver": "b"}]])
def test_a_fast_copy_is_refused_before_anything_is_trained(tmp_path, pairs):
    def problems(**training: Any) -> list[str]:
        folder, zoo = tmp_path / "assembly", tmp_path / "zoo"
        folder.mkdir(exist_ok=True)
        file = write_assembly(folder, zoo, three_parts(), pairs=pairs, training=training)
        with pytest.raises(InputError) as error:
            run_assembly(read_config(file), folder)
        assert not zoo.exists()
        return error.value.problems

    (problem,) = problems(recipe="fast")
    assert "training.frozen: is fused by training.recipe: fast, and" in problem
    assert "set training.frozen: exact" in problem
    both = problems(recipe="fast", frozen="fused", precision="bfloat16")
    assert ["by training.recipe" in problem for problem in both] == [False, False]
    assert ["set training.precision: float32" in problem for problem in both] == [False, True]


def test_of_a_recipe_an_assembly_ignores_what_it_has_no_use_for(zoo, tmp_path):
    exact = {"recipe": "fast", "frozen": "exact"}
    file = write_assembly(tmp_path, zoo, three_parts(), training=exact)
    assert run_assembly(read_config(file), tmp_path)["status"] == "finished"
    file = write_assembly(tmp_path, zoo, three_parts(), training={**exact, "keep": "best"})
    with pytest.raises(InputError) as error:
        run_assembly(read_config(file), tmp_path)
    (problem,) = error.value.problems
    assert problem.startswith("training.keep: is best, and has no effect on an assembly")


def test_what_an_assembly_would_leave_out_is_refused_and_what_a_sweep_would_is_noted(tmp_path):
    cross = {"training.epochs": [1, 2]}
    config = read_config(
        write_assembly(
            tmp_path, tmp_path / "zoo", three_parts(), repeats=2, search={"cross": cross}
        )
    )
    with pytest.raises(InputError) as error:
        run_assembly(config, tmp_path)
    assert [problem.partition(":")[0] for problem in error.value.problems] == [
        "repeats",
        "search.cross",
    ]
    pairs = [{"sender": "a", "receiver": "b"}]
    both = read_config(write_assembly(tmp_path, tmp_path / "zoo", three_parts(), pairs=pairs))
    assert any("`stitch-sweep assemble` trains them" in note for note in prepare(both).notes)
    alone = read_config(write_assembly(tmp_path, tmp_path / "zoo", [], pairs=pairs))
    assert not any("assemble" in note for note in prepare(alone).notes)


# From a configuration


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def test_a_folder_with_a_sweep_in_it_is_left_alone(zoo, tmp_path):
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "sweep.json").write_text("{}")
    config = read_config(write_assembly(tmp_path, zoo, three_parts()))
    with pytest.raises(InputError, match="contains a sweep"):
        run_assembly(config, tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_one_whose_loss_explodes_has_failed(zoo, tmp_path):
    wild = {"epochs": 3, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 1e30}}
    found = run_assembly(
        read_config(write_assembly(tmp_path, zoo, three_parts(), training=wild)), tmp_path
    )
    assert found["status"] == "failed"
    assert "test_accuracy" not in found
    assert not (tmp_path / "predictions.parquet").exists()
