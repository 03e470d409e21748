"""Controls: how a configuration writes them out, and a sender that knows nothing but the class."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy import stats
from torch import Tensor

from stitch_sweep.config.models import Config, TrialSettings
from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.controls import ClassOnly, ClassOnlySender, freeze
from stitch_sweep.networks.frozen import Examples, FrozenError, FrozenNetwork
from stitch_sweep.plan.cells import Cell, check_cell, choose_cell
from stitch_sweep.plan.estimate import estimate
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.storage.checkpoints import fingerprint
from stitch_sweep.sweep.run import _check_unchanged, _description
from stitch_sweep.sweep.single import run_pair
from stitch_sweep.sweep.views import results_table
from stitch_sweep.training.loop import ActivationCache, StitchTraining, train_stitch
from tests.support.sweeps import figures, run, write_config

ALL = ["untrained_sender", "untrained_receiver", "untrained_both", "class_only", "image"]
ALL += ["linear_probe"]
BASE: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 16, "train_images": 200, "test_images": 100},
    "networks": [
        {"name": "a", "family": "resnet1111", "width": 4},
        {"name": "b", "family": "resnet1111", "width": 4, "seed": 1},
    ],
    "pairs": [{"sender": "a", "receiver": "b"}],
}
# Of a resnet1111 of width 4 on images of 16 x 16.
SHAPES = [(4, 16, 16), (4, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2)]
UNLIKELY = 1e-9
"""How likely a sound implementation is to fail a statistical test, had its seed not been fixed."""


def config(**changes: Any) -> Config:
    return Config.model_validate({**copy.deepcopy(BASE), **changes})


def problems(folder: Path, **changes: Any) -> list[str]:
    """What is wrong with BASE after changes, without the file's name; [] where nothing is."""
    file = folder / "config.yml"
    file.write_text(yaml.safe_dump({**copy.deepcopy(BASE), **changes}))
    try:
        read_config(file)
    except InputError as error:
        return [problem.removeprefix(f"{file}: ") for problem in error.problems]
    return []


def links(of: Config) -> list[tuple[str, str, Any, Any]]:
    return [(p.sender, p.receiver, p.sender_layers, p.receiver_layers) for p in of.pairs]


class TestExpansion:
    @pytest.mark.parametrize(
        ("control", "networks", "pairs"),
        [
            ("untrained_sender", {"a-untrained": "random"}, [("a-untrained", "b", "all", "all")]),
            ("untrained_receiver", {"b-untrained": "random"}, [("a", "b-untrained", "all", "all")]),
            (
                "untrained_both",
                {"a-untrained": "random", "b-untrained": "random"},
                [("a-untrained", "b-untrained", "all", "all")],
            ),
            ("class_only", {"a-class-only": "class_only"}, [("a-class-only", "b", "all", "all")]),
            ("image", {}, [("a", "b", [-1], "all")]),
            ("linear_probe", {}, []),
        ],
    )
    def test_each_control_becomes_networks_and_pairs(self, control, networks, pairs):
        found = config(controls=[control])
        assert {n.name: n.kind for n in found.networks} == {
            "a": "trained",
            "b": "trained",
            **networks,
        }
        assert links(found) == [("a", "b", "all", "all"), *pairs]
        assert found.controls == [control]

    def test_controls_have_the_shape_of_what_they_stand_for(self):
        names = ["relu", "layer1.0", "layer2.0"]
        networks = [{**BASE["networks"][0], "layers": names}, BASE["networks"][1]]
        found = config(networks=networks, controls=ALL)
        made = {network.name: network for network in found.networks}
        for name in ("a-untrained", "a-class-only"):
            assert made[name].options == made["a"].options
            assert made[name].layers == names
        assert made["a-class-only"].noise == 1
        assert made["a-untrained"].noise is None
        outlines = prepare(found).outlines
        assert outlines["a-class-only"].layers == outlines["a"].layers
        assert len(outlines["a-untrained"].layers) == 3

    def test_several_pairs_share_networks(self):
        pairs = [("a", "b"), ("b", "a"), ("a", "a")]
        found = config(pairs=[{"sender": s, "receiver": r} for s, r in pairs], controls=ALL)
        names = [network.name for network in found.networks]
        assert sorted(names) == sorted(
            ["a", "b", "a-untrained", "b-untrained", "a-class-only", "b-class-only"]
        )
        # Six pairs for each: its own, and those of the five controls that are stitched.
        assert len(found.pairs) == 18 == len(set(map(str, links(found))))

    def test_a_self_pair_stays_one(self):
        found = config(pairs=[{"sender": "a", "receiver": "a"}], controls=ALL)
        assert [link[:2] for link in links(found)] == [
            ("a", "a"),
            ("a-untrained", "a"),
            ("a", "a-untrained"),
            ("a-untrained", "a-untrained"),
            ("a-class-only", "a"),
            ("a", "a"),
        ]

    def test_a_control_of_a_pair_that_is_given_twice_is_made_once(self):
        found = config(pairs=[*BASE["pairs"], *BASE["pairs"]], controls=["class_only", "image"])
        assert len(found.pairs) == 4

    def test_seeds_are_new_ones(self):
        """No control begins as the network itself began, and no two are the same network."""
        networks = [
            {"name": name, "family": "resnet1111", "width": 4, "weights": f"./{name}.pt"}
            for name in "ab"  # both with the default seed
        ]
        for given in (networks, BASE["networks"]):
            found = config(networks=given, controls=ALL)
            own = {network.seed for network in found.networks if network.name in "ab"}
            made = [network.seed for network in found.networks if network.name not in "ab"]
            assert len(set(made)) == len(made) == 3
            assert not own & set(made)

    def test_they_keep_the_layers_of_the_pair_but_for_the_image(self):
        pair = {
            "sender": "a",
            "receiver": "b",
            "sender_layers": [-1, 2],
            "receiver_layers": [-1, 3],
        }
        found = links(config(pairs=[pair], controls=ALL))
        assert found == [
            ("a", "b", [-1, 2], [-1, 3]),
            ("a-untrained", "b", [2], [-1, 3]),
            ("a", "b-untrained", [2], [-1, 3]),
            ("a-untrained", "b-untrained", [2], [-1, 3]),
            ("a-class-only", "b", [2], [-1, 3]),
        ]
        only_image = config(pairs=[{**pair, "sender_layers": [-1]}], controls=["image"])
        assert links(only_image) == [("a", "b", [-1], [-1, 3])]
        assert len(only_image.networks) == 2

    def test_untrained_networks_have_no_controls_of_their_own(self):
        random = {**BASE["networks"][1], "name": "r", "weights": "random"}
        found = config(
            networks=[*BASE["networks"], random],
            pairs=[*BASE["pairs"], {"sender": "r", "receiver": "b"}],
            controls=["untrained_sender"],
        )
        assert [link[:2] for link in links(found)] == [
            ("a", "b"),
            ("r", "b"),
            ("a-untrained", "b"),
        ]

    def test_the_resolved_configuration_is_the_same_one(self, tmp_path):
        pairs = [
            {"sender": "a", "receiver": "b"},
            {"sender": "a", "receiver": "a", "sender_layers": [-1, 1]},
        ]
        found = config(pairs=pairs, controls=ALL)
        file = tmp_path / "config.resolved.yml"
        file.write_text(to_yaml(found))
        again = read_config(file)
        assert again == found
        assert to_yaml(again) == to_yaml(found)
        assert [s.id for s in prepare(again).studies] == [s.id for s in prepare(found).studies]

    def test_without_controls_nothing_is_written_that_was_not_there_before(self):
        text = json.dumps(_description(prepare(config())))
        assert "controls" not in text
        assert "noise" not in text
        assert "controls" not in to_yaml(config())

    def test_controls_can_be_added_to_a_sweep(self):
        before = prepare(config())

        class Started:
            folder = root = Path()

            def description(self) -> Any:
                return json.loads(json.dumps(_description(before)))

            def trial_ids(self) -> set[str]:
                return {study.trial(0) for study in before.studies}

        _check_unchanged(Started(), prepare(config(controls=ALL)))  # type: ignore[arg-type]


class TestErrors:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("image", "controls: wants a list of controls: untrained_sender, untrained_receiver, "),
            ({"image": True}, "controls: wants a list of controls"),
            (["imag"], "controls[0]: no control is named 'imag': did you mean 'image'?"),
            (["image", 3], "controls[1]: no control is named 3: allowed: class_only, image"),
            (["image", "image"], 'controls: has "image" twice'),
            ([["image"]], "controls[0]: no control is named a list of 1"),
        ],
    )
    def test_what_is_no_control(self, value, message, tmp_path):
        (found,) = problems(tmp_path, controls=value)
        assert found.startswith(message)

    def test_are_said_beside_others(self, tmp_path):
        found = problems(tmp_path, controls=["imag"], repeats=0)
        assert len(found) == 2

    def test_what_would_control_nothing(self, tmp_path):
        pairs = [{"sender": "a", "receiver": "b", "sender_layers": [-1]}]
        (found,) = problems(tmp_path, pairs=pairs, controls=["class_only", "image"])
        assert found == "controls: class_only: no pair has sender layers that it could control"

    def test_nothing_to_control(self, tmp_path):
        networks = [{**network, "weights": "random"} for network in BASE["networks"]]
        (found,) = problems(tmp_path, networks=networks, controls=["class_only"])
        assert found.startswith("controls: no pair joins two trained networks")
        assert problems(tmp_path, networks=networks, controls=["linear_probe"]) == []

    def test_a_name_that_is_taken(self, tmp_path):
        taken = {**BASE["networks"][1], "name": "a-untrained"}
        changes = {"networks": [*BASE["networks"], taken], "controls": ["untrained_sender"]}
        (found,) = problems(tmp_path, **changes)
        assert found == (
            "networks[2].name: 'a-untrained' is what a control of another network is called; "
            "choose another name"
        )

    def test_a_name_that_gets_too_long(self, tmp_path):
        name = "a" * 80
        (found,) = problems(
            tmp_path,
            networks=[{**BASE["networks"][0], "name": name}],
            pairs=[{"sender": name, "receiver": name}],
            controls=["untrained_both"],
        )
        assert found.startswith("controls: would make a network named 'aaa")
        assert found.endswith("names have at most 80 characters")

    def test_a_sender_without_an_image_can_neither_receive_nor_send_one(self, tmp_path):
        networks = [
            *BASE["networks"],
            {**BASE["networks"][0], "name": "c", "weights": "class_only"},
        ]
        (found,) = problems(tmp_path, networks=networks, pairs=[{"sender": "a", "receiver": "c"}])
        assert found.startswith("pairs[0].receiver: 'c' knows only the class")
        pairs = [{"sender": "c", "receiver": "b", "sender_layers": [-1, 2]}]
        given = config(networks=networks, pairs=pairs)
        with pytest.raises(
            InputError, match=r"pairs\[0\].sender_layers: c has layers 0 \(it knows"
        ):
            prepare(given)

    @pytest.mark.parametrize("value", [-1, float("inf"), "much"])
    def test_noise_is_a_number(self, value, tmp_path):
        networks = [{**BASE["networks"][0], "weights": "class_only", "noise": value}]
        found = problems(tmp_path, networks=[*networks, BASE["networks"][1]])
        assert any(problem.startswith("networks[0].noise: wants a ") for problem in found)

    def test_noise_is_of_no_network(self, tmp_path):
        networks = [{**BASE["networks"][0], "noise": 0.5}, BASE["networks"][1]]
        (found,) = problems(tmp_path, networks=networks)
        assert found == "networks[0].noise: only weights: class_only has noise"

    @pytest.mark.parametrize(
        "changes",
        [
            {"loss": {"soft_task": {"weight": 1.0, "teacher": "sender"}}},
            {"search": {"cross": {"loss": [{"task": 1.0}, {"soft_task": {"teacher": "sender"}}]}}},
            {
                "loss": {"soft_task": 1.0},
                "search": {
                    "space": {
                        "loss.soft_task.teacher": {
                            "type": "categorical",
                            "choices": ["receiver", "sender"],
                        }
                    }
                },
            },
        ],
        ids=["given", "crossed", "searched"],
    )
    def test_a_loss_that_would_learn_from_what_it_predicts(self, changes):
        with pytest.raises(InputError) as caught:
            prepare(config(controls=["class_only"], **changes))
        (found,) = caught.value.problems
        assert found.startswith("network 'a-class-only' knows only the class and predicts nothing")
        prepare(config(controls=["untrained_sender"], **changes))


def some(count: int = 60, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Image numbers and labels."""
    numbers = torch.arange(count)
    return numbers, numbers * 7 % classes


class TestClassOnly:
    @pytest.mark.parametrize("layer", range(len(SHAPES)))
    def test_an_image_has_one_representation_in_every_batch(self, layer):
        module = ClassOnly(SHAPES, seed=3)
        numbers, labels = some()
        whole = module(layer, "train", numbers, labels)
        assert whole.shape == (60, *SHAPES[layer])
        assert whole.dtype == torch.float32
        shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(0))
        for at in (shuffled, shuffled[:7], torch.tensor([5]), torch.tensor([5, 5, 2])):
            found = ClassOnly(SHAPES, seed=3)(layer, "train", numbers[at], labels[at])
            assert torch.equal(found, whole[at])

    def test_nobody_else_draws_other_numbers_because_of_it(self):
        before = torch.get_rng_state()
        ClassOnly(SHAPES)(0, "train", *some())
        assert torch.equal(before, torch.get_rng_state())

    def test_seed_layer_split_number_and_class_each_give_another_one(self):
        numbers, labels = some(2)
        shape = SHAPES[0]  # of layers 0 and 1 alike
        wanted = ClassOnly(SHAPES)(0, "train", numbers, labels)
        others = [
            ClassOnly(SHAPES, seed=1)(0, "train", numbers, labels),
            ClassOnly(SHAPES)(1, "train", numbers, labels),
            ClassOnly(SHAPES)(0, "test", numbers, labels),
            ClassOnly(SHAPES)(0, "train", numbers + 2, labels),
            ClassOnly(SHAPES)(0, "train", numbers, labels + 1),
        ]
        bound = -stats.norm.ppf(UNLIKELY) / np.sqrt(np.prod(shape))
        for other in others:
            assert other.shape == wanted.shape
            # Half of the variance may be shared (noise, or prototype), never all of it.
            r = np.corrcoef(wanted.flatten(), other.flatten())[0, 1]
            assert r < 0.5 + 2 * bound

    def test_the_mean_of_a_class_is_its_prototype(self):
        """n images of class c: every entry of their mean is the prototype's plus N(0, s^2 / n)."""
        layer, noise, n = 2, 0.5, 400
        entries = int(np.prod(SHAPES[layer]))
        numbers, labels = torch.arange(n), torch.full((n,), 4)
        images = ClassOnly(SHAPES, seed=1, noise=noise)(layer, "train", numbers, labels)
        (prototype,) = ClassOnly(SHAPES, seed=1, noise=0)(layer, "test", numbers[:1], labels[:1])
        off = ((images.double().mean(dim=0) - prototype) / noise).square().sum().item() * n
        assert stats.chi2.ppf(UNLIKELY, entries) < off < stats.chi2.isf(UNLIKELY, entries)
        # And what is left is noise of the given size, in every image.
        left = ((images - prototype).double() / noise).square().sum().item()
        every = n * entries
        assert stats.chi2.ppf(UNLIKELY, every) < left < stats.chi2.isf(UNLIKELY, every)

    def test_prototypes_are_standard_normal_and_independent(self):
        layer, classes = 1, 10
        numbers = labels = torch.arange(classes)
        found = ClassOnly(SHAPES, noise=0)(layer, "train", numbers, labels).flatten(1).double()
        assert stats.kstest(found.flatten(), "norm").pvalue > UNLIKELY
        r = torch.corrcoef(found)[~torch.eye(classes, dtype=torch.bool)]
        assert r.abs().max() < -stats.norm.ppf(UNLIKELY / classes**2) / found.shape[1] ** 0.5

    def test_images_of_one_class_differ_by_noise_only(self):
        """Of whatever class an image is, what is added to the prototype is the same."""
        numbers, labels = some()
        module, still = ClassOnly(SHAPES), ClassOnly(SHAPES, noise=0)
        noise = module(3, "train", numbers, labels) - still(3, "train", numbers, labels)
        other = torch.zeros_like(labels)
        again = module(3, "train", numbers, other) - still(3, "train", numbers, other)
        assert torch.allclose(noise, again, atol=1e-5)
        assert len(still(3, "train", numbers, labels).unique(dim=0)) == len(labels.unique())
        assert len(module(3, "train", numbers, labels).unique(dim=0)) == len(numbers)

    @pytest.mark.parametrize("layer", [-1, 5])
    def test_a_layer_that_is_not_there(self, layer):
        with pytest.raises(InputError, match=f"has layers 0 to 4, not {layer}"):
            ClassOnly(SHAPES)(layer, "train", *some(2))

    def test_what_decides_it_identifies_it(self):
        prints = [
            fingerprint(module)
            for module in (
                ClassOnly(SHAPES),
                ClassOnly(SHAPES, seed=2**70),
                ClassOnly(SHAPES, noise=0.1),
                ClassOnly(SHAPES[:-1]),
                ClassOnly([*SHAPES[:-1], (128,)]),
            )
        ]
        assert len(set(prints)) == 5
        assert fingerprint(ClassOnly(SHAPES)) == prints[0]

    @pytest.mark.parametrize("name", ["seed", "noise", "shape2"])
    def test_a_change_is_noticed_and_named(self, name):
        sender = ClassOnlySender(ClassOnly(SHAPES), "network 'c'")
        sender.verify()
        sender.network.get_buffer(name).add_(1)
        with pytest.raises(FrozenError, match=f"network 'c': {name} changed"):
            sender.verify()

    def test_it_has_no_logits(self):
        sender = freeze(ClassOnly(SHAPES), "network 'c'")
        assert isinstance(sender, ClassOnlySender)
        assert not sender.classifies
        with pytest.raises(InputError, match="'c' knows only the class, and has no logits"):
            sender.represent(None, Examples("train", *some(2)[:1], torch.zeros(2), some(2)[1]))

    @pytest.mark.parametrize("layer", range(len(SHAPES)))
    def test_the_class_can_be_read_from_every_layer(self, layer, digits):
        """The nearest class mean of the training images decides every test image right.

        The prototypes of two classes are sqrt(2 D) apart, and the error of the means is small beside the
        noise, so an image is misread with a probability of about Q(sqrt(D / 2)), below 1e-15 at D = 128.
        """
        module = ClassOnly(SHAPES, seed=8)
        x, y = (
            module(layer, split, torch.arange(len(images)), images.labels).flatten(1)
            for split, images in (("train", digits.train), ("test", digits.test))
        )
        labels = digits.train.labels
        means = torch.stack([x[labels == c].mean(dim=0) for c in range(10)])
        assert torch.equal(torch.cdist(y, means).argmin(dim=1), digits.test.labels)


def settings(loss: Any = None, **training: Any) -> TrialSettings:
    return TrialSettings.model_validate({"loss": loss or {"task": 1.0}, "training": training})


def trained_on(
    sender: Any,
    b: Any,
    data: Data,
    chosen: TrialSettings,
    augment: str = "none",
    limit: float = 2**30,
) -> StitchTraining:
    loaders = make_loaders(data, chosen.training.batch_size, seed=0, augment=augment)
    sender = freeze(sender, "sender")
    training = StitchTraining(
        sender, FrozenNetwork(b), 2, 2, loaders, chosen, cache=ActivationCache(limit)
    )
    while not training.done:
        training.run_epoch()
    return training


class TestTraining:
    def test_a_stitch_needs_nothing_but_the_class(self, b, digits):
        """Told the label, it does better than the receiver by itself, which has to look."""
        result = train_stitch(
            ClassOnly(SHAPES),
            b,
            sender_layer=4,
            receiver_layer=4,
            data=digits,
            settings=settings(epochs=20, batch_size=32),
        )
        metrics = result.metrics
        assert result.status == "finished"
        assert metrics["sender_accuracy"] is None
        assert metrics["penalty"] == metrics["receiver_accuracy"] - metrics["test_accuracy"]
        assert metrics["test_accuracy"] > max(0.95, metrics["receiver_accuracy"])

    def test_without_noise_a_prediction_is_a_function_of_the_class(self, b, digits):
        chosen = settings(epochs=1)
        predictions = trained_on(ClassOnly(SHAPES, noise=0), b, digits, chosen).finish().predictions
        for label in range(10):
            assert len(predictions[digits.test.labels == label].unique()) == 1

    def test_nothing_but_the_class_matters(self, b, digits):
        """With other images under the same labels the same stitch is trained, bit for bit."""
        chosen = settings(epochs=2, batch_size=32)
        plain = trained_on(ClassOnly(SHAPES), b, digits, chosen)
        augmented = trained_on(ClassOnly(SHAPES), b, digits, chosen, augment="crop_flip")
        piecemeal = trained_on(ClassOnly(SHAPES), b, digits, chosen, limit=0)
        wanted = plain.stitch.state_dict()
        for other in (augmented, piecemeal):
            assert all(torch.equal(t, wanted[n]) for n, t in other.stitch.state_dict().items())
        assert torch.equal(plain.finish().predictions, piecemeal.finish().predictions)

    def test_a_checkpoint_of_another_one_is_refused(self, b, digits):
        chosen = settings(epochs=1)
        first, same, other = (
            trained_on(ClassOnly(SHAPES, seed=seed), b, digits, chosen) for seed in (0, 0, 1)
        )
        same.restore(first.checkpoint())
        with pytest.raises(Exception, match=r"another training \(sender not the same\)"):
            other.restore(first.checkpoint())

    def test_a_change_in_the_middle_of_a_training_is_noticed(self, b, digits):
        module = ClassOnly(SHAPES)
        training = trained_on(module, b, digits, settings(epochs=1))
        module.noise.fill_(0)
        with pytest.raises(FrozenError, match="noise changed"):
            training.finish()

    def test_similarity_losses_go(self, b, digits):
        result = trained_on(ClassOnly(SHAPES), b, digits, settings({"mse": 1.0}, epochs=1)).finish()
        assert result.status == "finished"
        assert result.metrics["excess"] >= 0

    def test_it_can_neither_teach_nor_receive(self, b, digits):
        taught = settings({"soft_task": {"weight": 1.0, "teacher": "sender"}}, epochs=1)
        with pytest.raises(InputError, match="sender knows only the class and predicts nothing"):
            trained_on(ClassOnly(SHAPES), b, digits, taught)
        with pytest.raises(InputError, match="receiver knows only the class: it can send"):
            train_stitch(b, ClassOnly(SHAPES), sender_layer=0, receiver_layer=0, data=digits)


def test_examples_of_a_network_are_its_images(a, digits):
    frozen = FrozenNetwork(a)
    loader = Loader(digits.test, digits.mean, digits.std, batch_size=8, seed=0, split="test")
    numbers, images, labels = next(loader.batches(0))
    found = frozen.represent(2, Examples(loader.split, numbers, images, labels))
    assert torch.equal(found, frozen.prefix(2)(images))


def test_every_loader_knows_its_split(digits):
    assert {k: loader.split for k, loader in make_loaders(digits, 8, seed=0).items()} == {
        "train": "train",
        "validation": "validation",
        "test": "test",
    }


class TestCommands:
    @pytest.fixture
    def given(self, tmp_path) -> Config:
        training = {"epochs": 1, "batch_size": 32}
        pretraining = {"epochs": 1, "batch_size": 32}
        pairs = [{"sender": "a", "receiver": "b", "sender_layers": [0, 2], "receiver_layers": [2]}]
        return config(
            controls=ALL,
            pairs=pairs,
            training=training,
            pretraining=pretraining,
            zoo=str(tmp_path / "zoo"),
        )

    def test_an_estimate_counts_controls(self, given):
        found = estimate(given)
        # Two cells, and as many of four controls; one of the image.
        assert found.studies == 2 + 4 * 2 + 1
        # Both networks, both untrained.
        assert found.networks_to_train == 4

    def test_one_stitch(self, given):
        result = run_pair(given, "a-class-only:2,b:2")
        assert result["status"] == "finished"
        assert result["sender_accuracy"] is None
        assert json.loads(json.dumps(result)) == result

    def test_what_looks_at_networks_takes_a_pair_of_them(self, given):
        prepared = prepare(given)
        cell, _ = choose_cell(prepared, None)
        assert (cell.sender, cell.receiver) == ("a", "b")
        first = given.model_copy(update={"pairs": given.pairs[::-1]})
        assert choose_cell(prepare(first), None)[0].sender == "a"
        with pytest.raises(
            InputError, match="a-class-only knows only the class; what is looked at"
        ):
            choose_cell(prepared, Cell("a-class-only", 2, "b", 2))
        only = [pair for pair in given.pairs if pair.sender == "a-class-only"]
        with pytest.raises(InputError, match="every sender knows only the class"):
            choose_cell(prepare(given.model_copy(update={"pairs": only})), None)
        settings = TrialSettings.model_validate(given.settings)
        with pytest.raises(InputError, match="a-class-only knows only the class: it can't receive"):
            check_cell(prepared, Cell("a", 2, "a-class-only", 2), settings)


def test_the_table_says_what_each_network_is():
    record = {
        "trial": "t",
        "sender": "a",
        "receiver": "b",
        "sender_layer": 0,
        "receiver_layer": 1,
        "repeat": 0,
        "number": 0,
        "settings": TrialSettings().model_dump(mode="json"),
        "factors": {},
        "params": {},
        "status": "finished",
        "metric": 0.5,
        "metrics": {"sender_accuracy": None},
        "seconds": 1.0,
    }
    kinds = {"a": "class_only", "b": "trained"}
    (row,) = results_table([record], kinds).to_dict("records")
    assert (row["sender_kind"], row["receiver_kind"]) == ("class_only", "trained")
    assert np.isnan(row["sender_accuracy"])


@pytest.mark.long
def test_a_sweep_with_all_controls(tmp_path):
    pairs = [
        {"sender": "a", "receiver": "b", "sender_layers": [0, 4], "receiver_layers": [4]},
        {"sender": "b", "receiver": "b", "sender_layers": [4], "receiver_layers": [4]},
    ]
    path = write_config(
        tmp_path / "sweep",
        tmp_path / "zoo",
        pairs=pairs,
        controls=ALL,
        search={"cross": {"loss": [{"task": 1.0}, {"mse": 1.0}]}},
    )
    status, output = run("sweep", path)
    assert status == 0, output
    folder = path.parent
    results = pd.read_parquet(folder / "results.parquet")
    assert set(results["status"]) == {"finished"}
    # Of each pair its cells, the same four times over, and the image.
    assert len(results) == 2 * ((2 * 5 + 1) + (5 + 1))
    kinds = results.groupby(["sender_kind", "receiver_kind"]).size().to_dict()
    assert kinds == {
        ("trained", "trained"): 2 * (3 + 2),
        ("random", "trained"): 2 * 3,
        ("trained", "random"): 2 * 3,
        ("random", "random"): 2 * 3,
        ("class_only", "trained"): 2 * 3,
    }
    told = results["sender_kind"] == "class_only"
    assert results.loc[told, "sender_accuracy"].isna().all()
    assert results.loc[~told, "sender_accuracy"].notna().all()
    # Where there are channels enough, knowing the class is enough.
    taught = told & (results["loss"] == "task") & (results["sender_layer"] == 4)
    assert results.loc[taught, "test_accuracy"].min() > 0.95
    assert set(results.loc[results["sender_layer"] == -1, "sender"]) == {"a", "b"}

    # What was understood is a configuration, and of the same sweep.
    before = figures(folder)
    (folder / "config.yml").write_text((folder / "config.resolved.yml").read_text())
    status, output = run("sweep", path, "--resume")
    assert status == 0, output
    assert figures(folder) == before
