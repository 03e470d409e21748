"""Networks of a user's file: stitched, refused, with other heads, and in the zoo."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.augmentation import normalize_images
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.measuring.networks import find_networks
from stitch_sweep.measuring.permissions import Permissions
from stitch_sweep.networks import construction
from stitch_sweep.networks.cutting.points import CutError
from stitch_sweep.networks.describe import cut_table, describe, describe_cut
from stitch_sweep.networks.evaluation import evaluate
from stitch_sweep.networks.external import python as python_factories
from stitch_sweep.networks.external.naming import build_by_name
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.networks.pretraining import train_network
from stitch_sweep.networks.weights.fitting import load_from_file
from stitch_sweep.networks.zoo import Zoo, load
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.storage.digests import fingerprint
from stitch_sweep.sweep.single import run_pair
from tests.support.documents import code_blocks
from tests.support.networks_external import MINE, Trap, config, python, refused
from tests.support.paths import ROOT


def test_a_network_in_a_file_is_stitched_by_config_alone(mine, tmp_path):
    # Its author trains it without Stitch Sweep, on pixels with another normalization.
    torch.manual_seed(0)
    author = python_factories.find(f"{mine}:make")(6)
    chosen = config(
        tmp_path,
        {"name": "ours", "family": "resnet1111", "width": 2, "weights": "random"},
        {
            "name": "mine",
            "source": "python",
            "factory": "./mine.py:make",
            "arguments": {"channels": 6},
            "weights": "mine.pt",
            "layers": ["blocks.0", "blocks.1"],
            "normalisation": {"mean": [0.5], "std": [0.5]},
        },
        resources={"cache_gb": 0.1},
    )
    data = load_data(chosen.data)
    x = data.train.images.float() / 255
    optimizer = torch.optim.Adam(author.parameters(), lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        functional.cross_entropy(author((x - 0.5) / 0.5), data.train.labels).backward()
        optimizer.step()
    author.eval()
    torch.save(author.state_dict(), tmp_path / "mine.pt")
    chosen = read_config(tmp_path / "config.yml")
    with torch.no_grad():
        logits = author((data.test.images.float() / 255 - 0.5) / 0.5)
    by_hand = (logits.argmax(1) == data.test.labels).double().mean().item()
    result = run_pair(chosen, "ours:1,mine:0")
    assert result["status"] == "finished"
    assert result["receiver_accuracy"] == pytest.approx(by_hand, abs=0.021)
    assert by_hand > 0.2


def test_the_walk_through_of_the_guide(tmp_path):
    text = (ROOT / "docs/guides/external_networks.md").read_text()
    (_, program), (_, config_file) = code_blocks(text, "python", "yaml")
    (tmp_path / "net.py").write_text(program)
    (tmp_path / "config.yml").write_text(config_file)
    net = build_by_name(f"{tmp_path}/net.py:make", 1, 10, {"channels": 8})
    torch.save(net.state_dict(), tmp_path / "net.pt")
    rows = describe(net, (1, 8, 8)).cut_points
    assert "\n".join(cut_table(rows)) in text
    with pytest.raises(CutError, match="Nearest places that work"):
        describe_cut(net, "blocks.1.conv", (1, 8, 8))
    small = {
        "data.train_images": 100,
        "data.test_images": 50,
        "pretraining.epochs": 1,
        "training.epochs": 1,
        "zoo": str(tmp_path / "zoo"),
    }
    chosen = read_config(tmp_path / "config.yml", small)
    assert run_pair(chosen, "a:1,mine:1")["status"] == "finished"


def test_files_of_every_format_are_read_and_what_they_wrap_is_said(mine, tmp_path, digits):
    torch.manual_seed(1)
    chosen = config(tmp_path, python(f"{mine}:make"))
    state = construction.build(chosen.networks[0], digits).network.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "b.ckpt")
    prefixed = {f"module.{name}": value for name, value in state.items()}
    torch.save({"model": prefixed, "optimizer": {"a": 1}}, tmp_path / "c.pt")
    for name, keys in {
        "a.safetensors": {},
        "b.ckpt": {},
        "c.pt": {"weights_key": "model", "weights_prefix": "module."},
    }.items():
        network = python(f"{mine}:make", **keys) | {"weights": name}
        chosen_network = config(tmp_path, network).networks[0]
        found = load_from_file(chosen_network, digits).network.state_dict()
        assert all(torch.equal(found[k], state[k]) for k in state), name
    c = python(f"{mine}:make", weights="c.pt")
    assert "set weights_key to one of: model, optimizer" in refused(tmp_path, c)
    assert "has no 'modle': did you mean 'model'?" in refused(
        tmp_path, c | {"weights_key": "modle"}
    )
    assert "weights_prefix: module." in refused(tmp_path, c | {"weights_key": "model"})


def test_a_state_dict_of_another_network_is_refused_with_the_differences(mine, tmp_path, digits):
    chosen = config(tmp_path, python(f"{mine}:make"))
    state = dict(construction.build(chosen.networks[0], digits).network.state_dict())
    del state["head.bias"]
    state["extra"] = torch.zeros(1)
    state["stem.weight"] = torch.zeros(5, 1, 3, 3)
    torch.save(state, tmp_path / "w.pt")
    message = refused(tmp_path, python(f"{mine}:make", weights="w.pt"))
    for part in (
        "lacks head.bias",
        "unknown extra",
        "stem.weight is [5, 1, 3, 3], not [4, 1, 3, 3]",
    ):
        assert part in message
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": Trap(sprung)}, tmp_path / "w.pt")
    assert "w.pt: contains code or a whole module (getattr), which is not run" in refused(
        tmp_path, python(f"{mine}:make", weights="w.pt")
    )
    assert not sprung.exists()


def test_a_factory_that_is_of_no_use_says_why(subtests, mine, tmp_path):
    for factory, message in (
        ("{file}:mak", "has no function 'mak': did you mean 'make'?"),
        ("{folder}/other.py:make", "other.py: there is no such file"),
        ("no_such_package.at_all:make", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("{file}:fails", "RuntimeError: no such luck"),
        ("{file}:exits", "could not be made: SystemExit: 2"),
        (
            "{file}:counts",
            "changes its own mean, var in eval mode too",
        ),
        ("{file}:nothing", "returned a dict, not a torch.nn.Module"),
        ("{file}:pair", "returns a tuple, but logits [B, K] are required"),
        ("{file}:noisy_inside", "differ from blocks.2 (DropsAlways) on"),
        ("{file}:noisy", "differ from head (Linear) on"),
    ):
        with subtests.test(f"{factory}, {message}"):
            path = factory.format(file=mine, folder=tmp_path)
            assert message in refused(tmp_path, python(path))


def test_a_file_that_does_not_import_is_named_with_the_line(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import torch\nraise ValueError('not today')\n")
    message = refused(tmp_path, python("./broken.py:make"))
    assert "can't be imported: ValueError: not today" in message
    assert "broken.py:2" in message
    (tmp_path / "exits.py").write_text("raise SystemExit(0)\n")
    assert "SystemExit" in refused(tmp_path, python("./exits.py:make"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_package_that_exits.py").write_text("raise SystemExit(0)\n")
    assert "SystemExit" in refused(tmp_path, python("a_package_that_exits:make"))


def test_a_cut_point_that_does_not_exist_has_the_nearest_name(mine, tmp_path):
    assert "did you mean 'blocks.0'" in refused(
        tmp_path, python(f"{mine}:make", layers=["blocks.00"])
    )
    message = refused(tmp_path, python(f"{mine}:make", layers=["blocks.1.conv"]))
    assert "'blocks.0' is used again after it" in message


@pytest.mark.parametrize("factory", ["make", "branches"])
def test_all_wrong_layers_are_said_at_once(factory, mine, tmp_path):
    layers = ["stem", "blocks.00", "blocks.1.conv", "hed"]
    with pytest.raises(InputError) as caught:
        prepare(config(tmp_path, python(f"{mine}:{factory}", layers=layers)))
    assert len(caught.value.problems) == 3
    for name, problem in zip(layers[1:], caught.value.problems, strict=True):
        assert problem.startswith(f"networks[0]: python:{factory}: ")
        assert repr(name) in problem


def test_auto_is_one_layer_per_block_of_our_own_families_too(tmp_path):
    plain = {
        "name": "n",
        "family": "resnet1111",
        "width": 2,
        "skip": "none",
        "weights": "random_raw",
    }
    default, auto = (
        prepare(config(tmp_path, {**plain, "layers": layers})).outlines["n"].layers
        for layers in (None, "auto")
    )
    assert len(default) == 5
    assert len(auto) == 9, "without skips every convolution is a block"
    assert (
        run_pair(config(tmp_path, {**plain, "layers": "auto"}), "n:8,n:8")["status"] == "finished"
    )


def test_keys_that_do_not_go_together(subtests, tmp_path):
    for keys, where, message in (
        ({"source": "torchvision"}, "model", "is missing"),
        ({"source": "python"}, "factory", "is missing"),
        ({"source": "elsewhere"}, "source", "expected 'family', 'torchvision'"),
        ({"source": "torchvision", "model": "resnet18", "width": 3}, "width", "unknown key"),
        (
            {"source": "torchvision", "model": "resnet18", "family": "resnet18"},
            "family",
            "not allowed with source",
        ),
        ({"source": "python", "factory": "make"}, "factory", "expected package.module:function"),
        (
            {"family": "resnet1111", "image_size": 8},
            "image_size",
            "only for external networks",
        ),
        ({"family": "resnet1111", "weights": "DEFAULT"}, "weights", "or the path of a file"),
        ({"source": "torchvision", "model": "resnet18", "weights": "factory"}, "weights", "python"),
        ({"family": "resnet1111", "weights_key": "model"}, "weights_key", "only for weights from"),
        (
            {"source": "torchvision", "model": "x", "normalisation": {"mean": [0.5], "std": [0]}},
            "normalisation.std[0]",
            "expected a number of at least 1e-06",
        ),
    ):
        with subtests.test(f"{keys}, {where}, {message}"):
            with pytest.raises(InputError) as caught:
                config(tmp_path, {"name": "n", **keys})
            assert any(
                f"networks[0].{where}: " in p and message in p for p in caught.value.problems
            )


def test_a_configuration_reads_back_and_older_ones_stay_what_they_were(mine, tmp_path):
    network = python(f"{mine}:make", normalisation={"mean": [0.5], "std": [0.5]}, layers="auto")
    chosen = config(tmp_path, {"name": "o", "family": "resnet1111", "width": 2}, network)
    (tmp_path / "again.yml").write_text(to_yaml(chosen))
    assert read_config(tmp_path / "again.yml") == chosen
    old, new = (network.model_dump() for network in chosen.networks)
    assert list(old) == ["name", "family", "seed", "weights", "layers", "blocks", "width"]
    assert "family" not in new


def test_a_head_for_other_classes_can_send_and_not_receive(mine, tmp_path):
    many = {"name": "many", **python(f"{mine}:make", arguments={"classes": 17})} | {"name": "many"}
    ours = {"name": "ours", "family": "resnet1111", "width": 2, "weights": "random_raw"}
    chosen = config(tmp_path, many, ours)
    result = run_pair(chosen, "many:1,ours:2")
    assert result["sender_accuracy"] is None
    assert result["status"] == "finished"
    message = refused(tmp_path, many)
    assert "pairs[0].receiver: 'many' has a head for 17 classes, and the data has 10" in message
    with pytest.raises(InputError, match="--pair ours:1,many:1: 'many' has a head for 17 classes"):
        run_pair(chosen, "ours:1,many:1")
    teaching = {"soft_task": {"weight": 1.0, "teacher": "sender"}}
    with pytest.raises(
        InputError, match="has a head for other classes than the data's, so it can't"
    ):
        prepare(config(tmp_path, many, ours, loss=teaching))


@pytest.mark.parametrize("classes", [5, 17])
def test_a_head_for_other_classes_can_answer_for_no_cell_and_no_assembly(classes, mine, tmp_path):
    many = python(f"{mine}:make", arguments={"classes": classes})
    refusal = f"'n' has a head for {classes} classes, and the data has 10"
    knocked = config(tmp_path, many, pairs=[], knock_out=[{"network": "n"}])
    with pytest.raises(InputError, match=rf"^knock_out\[0\].network: {refusal}"):
        prepare(knocked)
    ours = {"name": "ours", "family": "resnet1111", "width": 2, "weights": "random_raw"}
    stitch = {"stitch": {"name": "conv1x1"}}
    parts = [{"network": "ours", "end": 1}, stitch, {"network": "n", "start": 1}]
    with pytest.raises(InputError, match=rf"^parts\[2\].network: {refusal}"):
        prepare(config(tmp_path, ours, many, pairs=[], parts=parts), cells=False)
    parts = [{"network": "n", "end": 1}, stitch, {"network": "ours", "start": 1}]
    prepare(config(tmp_path, ours, many, pairs=[], parts=parts), cells=False)


def test_the_zoo_trains_a_network_of_a_file_and_runs_no_code_that_a_recipe_names(mine, tmp_path):
    made = python(f"{mine}:make", arguments={"channels": 6})
    chosen = config(tmp_path, made | {"weights": "trained", "seed": 3})
    prepared = prepare(chosen)
    (recipe,) = prepared.recipes()
    assert recipe.folder.startswith("python-make-digits-seed3-")
    zoo = Zoo(tmp_path / "zoo")
    entry = zoo.ensure(recipe, lambda r, resume: train_network(r, prepared.data, threads=1))
    assert [listed.options for listed in zoo.entries()] == [{"channels": 6}]
    module = prepared.networks({"n": entry})["n"]
    with pytest.raises(InputError, match="code that a stored file names is not run"):
        load(entry.folder)
    again = load(entry.folder, into=construction.build(chosen.networks[0], prepared.data))
    assert fingerprint(again) == fingerprint(module)
    found = find_networks(chosen, prepared.data, {}, Permissions(tmp_path))
    assert found.modules == {}
    assert "which is run only with --run-code" in found.notes[0]
    permitted = Permissions(tmp_path, run_code=True)
    assert set(find_networks(chosen, prepared.data, {}, permitted).modules) == {"n"}
    mine.write_text(MINE + "\n# another version\n")
    assert prepare(chosen).recipes()[0].hash != recipe.hash


def test_a_network_that_cannot_be_traced_is_cut_with_hooks(mine, tmp_path):
    chosen = config(tmp_path, python(f"{mine}:branches"))
    prepared = prepare(chosen)
    module = provide_networks(prepared)["n"]
    frozen = FrozenNetwork(module)
    assert frozen.layer_names == ["stem", "blocks.0", "blocks.1"]
    x = normalize_images(prepared.data.test.images[:5], prepared.data.mean, prepared.data.std)
    with torch.no_grad():
        expected = module(x)
        for layer in (-1, 0, 1, 2):
            at_cut = frozen.prefix(layer)(x)
            kept = at_cut.clone()
            assert torch.equal(frozen.suffix(layer)(at_cut), expected)
            assert torch.equal(at_cut, kept)
        assert torch.equal(frozen.part(0, 2)(frozen.prefix(0)(x)), frozen.prefix(2)(x))
    stitched = frozen.prefix(1)(x).requires_grad_()
    frozen.suffix(1)(stitched).sum().backward()
    assert stitched.grad.abs().sum() > 0
    assert evaluate(module, make_loaders(prepared.data, 32, seed=0)["test"]).predictions.shape == (
        50,
    )
    frozen.verify()
    message = refused(tmp_path, python(f"{mine}:branches", layers=["blocks.0.conv"]))
    assert "no cut behind 'blocks.0.conv': other tensors cross there" in message
    assert "torch.fx can't trace Branches" in message
    assert "x.sum() > 1e9" in message


def test_cuts_with_hooks_are_tried_on_the_datas_own_images(mine, tmp_path):
    message = refused(tmp_path, python(f"{mine}:remembers", layers=["stem"]))
    assert "python:remembers: no cut behind 'stem': other tensors cross there" in message
    assert "for the data's images, though not for noise" in message
