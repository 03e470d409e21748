"""How a configuration expands controls into networks and pairs, and refuses wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.cells import Cell, check_cell, choose_cell
from stitch_sweep.plan.estimate import estimate
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.sweep.description import check_unchanged, describe_sweep
from stitch_sweep.sweep.result_tables import results_table
from stitch_sweep.sweep.single import run_pair
from tests.support.networks_controls import ALL, BASE, config, problems

SUFFIXES = ("-untrained", "-class-only", "-logits-only")


def links(config: Config) -> list[tuple[str, str, Any, Any]]:
    return [(p.sender, p.receiver, p.sender_layers, p.receiver_layers) for p in config.pairs]


class TestExpansion:
    def test_each_control_becomes_networks_and_pairs(self, subtests):
        for control, networks, pairs in (
            ("untrained_sender", {"a-untrained": "random"}, [("a-untrained", "b", "all", "all")]),
            ("untrained_receiver", {"b-untrained": "random"}, [("a", "b-untrained", "all", "all")]),
            (
                "untrained_both",
                {"a-untrained": "random", "b-untrained": "random"},
                [("a-untrained", "b-untrained", "all", "all")],
            ),
            ("class_only", {"a-class-only": "class_only"}, [("a-class-only", "b", "all", "all")]),
            (
                "logits_only",
                {"a-logits-only": "logits_only"},
                [("a-logits-only", "b", "all", "all")],
            ),
            ("image", {}, [("a", "b", [-1], "all")]),
            ("linear_probe", {}, []),
        ):
            with subtests.test(f"{control}, {networks}, {pairs}"):
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
        for name in ("a-untrained", "a-class-only", "a-logits-only"):
            assert made[name].options == made["a"].options
            assert made[name].layers == names
        assert made["a-class-only"].noise == 1
        assert made["a-untrained"].noise is None
        assert made["a-logits-only"].probes_of == "a"
        outlines = prepare(found).outlines
        assert outlines["a-class-only"].layers == outlines["a"].layers
        assert len(outlines["a-untrained"].layers) == 3

    def test_several_pairs_share_networks(self):
        pairs = [("a", "b"), ("b", "a"), ("a", "a")]
        found = config(pairs=[{"sender": s, "receiver": r} for s, r in pairs], controls=ALL)
        names = [network.name for network in found.networks]
        assert sorted(names) == sorted(
            [f"{name}{suffix}" for name in "ab" for suffix in ("", *SUFFIXES)]
        )
        # Each pair becomes seven: itself, and one for each of the six stitched controls.
        assert len(found.pairs) == 21 == len(set(map(str, links(found))))

    def test_a_self_pair_stays_one(self):
        found = config(pairs=[{"sender": "a", "receiver": "a"}], controls=ALL)
        assert [link[:2] for link in links(found)] == [
            ("a", "a"),
            ("a-untrained", "a"),
            ("a", "a-untrained"),
            ("a-untrained", "a-untrained"),
            ("a-class-only", "a"),
            ("a-logits-only", "a"),
            ("a", "a"),
        ]

    def test_a_control_of_a_pair_that_is_given_twice_is_made_once(self):
        found = config(pairs=[*BASE["pairs"], *BASE["pairs"]], controls=["class_only", "image"])
        assert len(found.pairs) == 4

    def test_seeds_are_new_ones(self):
        """Every control has another seed than its network, and than every other control."""
        networks = [
            {"name": name, "family": "resnet1111", "width": 4, "weights": f"./{name}.pt"}
            for name in "ab"  # both with the default seed
        ]
        for given in (networks, BASE["networks"]):
            found = config(networks=given, controls=ALL)
            given_seeds = {network.seed for network in found.networks if network.name in "ab"}
            made = [network.seed for network in found.networks if network.name not in "ab"]
            assert len(set(made)) == len(made) == 4
            assert not given_seeds & set(made)

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
            ("a-logits-only", "b", [2], [-1, 3]),
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
        found = config(pairs=pairs, controls=ALL, zoo=str(tmp_path / "zoo"))
        file = tmp_path / "config.resolved.yml"
        file.write_text(to_yaml(found))
        again = read_config(file)
        assert again == found
        assert to_yaml(again) == to_yaml(found)
        assert [s.id for s in prepare(again).studies] == [s.id for s in prepare(found).studies]

    def test_without_controls_nothing_is_written_that_was_not_there_before(self):
        text = json.dumps(describe_sweep(prepare(config())))
        assert "controls" not in text
        assert "noise" not in text
        assert "controls" not in to_yaml(config())

    def test_controls_can_be_added_to_a_sweep(self):
        before = prepare(config())

        class Started:
            folder = root = Path()

            def description(self) -> Any:
                return json.loads(json.dumps(describe_sweep(before)))

            def trial_ids(self) -> set[str]:
                return {study.trial(0) for study in before.studies}

        check_unchanged(Started(), prepare(config(controls=ALL)))  # type: ignore[arg-type]


class TestErrors:
    def test_what_is_no_control(self, subtests, tmp_path):
        for value, message in (
            (
                "image",
                "controls: expected a list of controls: untrained_sender, untrained_receiver, ",
            ),
            ({"image": True}, "controls: expected a list of controls"),
            (["imag"], "controls[0]: no control is named 'imag': did you mean 'image'?"),
            (["image", 3], "controls[1]: no control is named 3: allowed: class_only, image"),
            (["image", "image"], 'controls: contains "image" twice'),
            ([["image"]], "controls[0]: no control is named a list of 1"),
        ):
            with subtests.test(f"{value}, {message}"):
                (found,) = problems(tmp_path, controls=value)
                assert found.startswith(message)

    def test_are_said_beside_others(self, tmp_path):
        found = problems(tmp_path, controls=["imag"], repeats=0)
        assert len(found) == 2

    def test_what_would_control_nothing(self, tmp_path):
        pairs = [{"sender": "a", "receiver": "b", "sender_layers": [-1]}]
        (found,) = problems(tmp_path, pairs=pairs, controls=["class_only", "image"])
        assert found == "controls: class_only: no pair has sender layers for this control"

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
            "networks[2].name: 'a-untrained' is the name of another network's control; "
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
        assert found.startswith("controls: would add a network named 'aaa")
        assert found.endswith("names have at most 80 characters")

    def test_a_sender_without_an_image_can_neither_receive_nor_send_one(self, tmp_path):
        networks = [
            *BASE["networks"],
            {**BASE["networks"][0], "name": "c", "weights": "class_only"},
        ]
        (found,) = problems(tmp_path, networks=networks, pairs=[{"sender": "a", "receiver": "c"}])
        assert found.startswith("pairs[0].receiver: 'c' is a control that only sends")
        pairs = [{"sender": "c", "receiver": "b", "sender_layers": [-1, 2]}]
        given = config(networks=networks, pairs=pairs)
        with pytest.raises(
            InputError, match=r"pairs\[0\].sender_layers: c has layers 0 \(this control"
        ):
            prepare(given)

    @pytest.mark.parametrize("value", [-1, float("inf"), "much"])
    def test_noise_is_a_number(self, value, tmp_path):
        networks = [{**BASE["networks"][0], "weights": "class_only", "noise": value}]
        found = problems(tmp_path, networks=[*networks, BASE["networks"][1]])
        assert any(problem.startswith("networks[0].noise: expected a ") for problem in found)

    def test_noise_is_of_no_network(self, tmp_path):
        networks = [{**BASE["networks"][0], "noise": 0.5}, BASE["networks"][1]]
        (found,) = problems(tmp_path, networks=networks)
        assert found == "networks[0].noise: only for weights: class_only"

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

    def test_probes_of_a_network_that_lacks(self, tmp_path):
        probes = {**BASE["networks"][0], "name": "p", "weights": "logits_only"}
        for given, expected in (
            ({}, "networks[2].probes_of: is missing; weights: logits_only needs it"),
            ({"probes_of": "x"}, "networks[2].probes_of: no network is named 'x'"),
            ({"probes_of": "p"}, "networks[2].probes_of: 'p' is a control that only sends"),
        ):
            networks = [*BASE["networks"], {**probes, **given}]
            (found,) = problems(tmp_path, networks=networks)
            assert found.startswith(expected)
        wide = {**probes, "probes_of": "a", "width": 8}
        with pytest.raises(
            InputError, match=r"networks\[2\].probes_of: the layers of a have other"
        ):
            prepare(config(networks=[*BASE["networks"], wide]))


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
        # Two cells, two for each of five controls, and one for the image.
        assert found.studies == 2 + 5 * 2 + 1
        # Two networks and two untrained controls.
        assert found.networks_to_train == 4

    def test_one_stitch(self, given):
        result = run_pair(given, "a-class-only:2,b:2")
        assert result["status"] == "finished"
        assert result["sender_accuracy"] is None
        assert json.loads(json.dumps(result)) == result

    def test_one_stitch_from_probes_has_the_network_that_they_probe(self, given):
        result = run_pair(given, "a-logits-only:2,b:2")
        assert result["status"] == "finished"
        assert result["sender_accuracy"] > 0.1

    def test_what_looks_at_networks_takes_a_pair_of_them(self, given):
        prepared = prepare(given)
        cell, _ = choose_cell(prepared, None)
        assert (cell.sender, cell.receiver) == ("a", "b")
        first = given.model_copy(update={"pairs": given.pairs[::-1]})
        assert choose_cell(prepare(first), None)[0].sender == "a"
        with pytest.raises(InputError, match="a-class-only is a control that only sends"):
            choose_cell(prepared, Cell("a-class-only", 2, "b", 2))
        only = [pair for pair in given.pairs if pair.sender == "a-class-only"]
        with pytest.raises(InputError, match="every sender is a control that only sends"):
            choose_cell(prepare(given.model_copy(update={"pairs": only})), None)
        settings = TrialSettings.model_validate(given.settings)
        with pytest.raises(InputError, match="a-class-only is a control that only sends: it can't"):
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
