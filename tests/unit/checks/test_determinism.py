"""Two recordings of one configuration agree entirely; a planted fault is named, where it began."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from stitch_sweep.checks.determinism import comparison, recording
from stitch_sweep.checks.determinism.comparison import COMPUTED, Stage, compare
from stitch_sweep.checks.determinism.recording import KEPT, Recording, read_recording, record
from stitch_sweep.checks.inspection import inspect_outputs, inspect_weights, sha256_of, summarise
from stitch_sweep.cli.main import app
from stitch_sweep.config.models import Config
from stitch_sweep.config.paths import replaced
from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.families.building import build
from stitch_sweep.training.loop import StitchTraining

BASE: dict[str, Any] = {
    "seed": 3,
    "data": {"name": "digits", "image_size": 16, "train_images": 100, "test_images": 40},
    "networks": [
        {"name": name, "family": "resnet1111", "width": 4, "seed": k, "weights": "random_raw"}
        for k, name in enumerate("ab")
    ],
    "pairs": [{"sender": "a", "receiver": "b", "sender_layers": [1], "receiver_layers": [2]}],
    "training": {"epochs": 2, "batch_size": 32},
}
FILES = {
    *("batch_info.json", "model_weights.json", "model_inspection.csv", "training.json"),
    *("generators.json", "environment.json", "tensors.safetensors", "recording.json"),
}


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture
def recorded(tmp_path, zoo) -> Callable[..., Path]:
    """Record BASE, dotted settings replaced, and say where."""
    count = iter(range(100))

    def recorded(settings: dict[str, Any] | None = None, pair: str | None = None) -> Path:
        folder = tmp_path / f"recording{next(count)}"
        record(configured({"zoo": str(zoo), **(settings or {})}), folder, pair)
        return folder

    return recorded


@pytest.fixture(scope="session")
def base(tmp_path_factory, zoo) -> Path:
    """A recording of BASE as it is."""
    folder = tmp_path_factory.mktemp("base") / "recording"
    record(configured({"zoo": str(zoo)}), folder)
    return folder


def configured(settings: dict[str, Any]) -> Config:
    return Config.model_validate(replaced(copy.deepcopy(BASE), settings))


def differs(first: Path, second: Path, stage: str) -> Stage:
    """The first difference, which must be in `stage`, all stages before it being equal."""
    found = compare(first, second)
    assert found.first is not None
    assert found.first.name == stage, found.first
    assert not found.agree
    states = {each.name: each.differing for each in found.stages}
    assert not any(states[name] for name in COMPUTED[: COMPUTED.index(stage)])
    json.dumps(found.to_dict(), allow_nan=False)
    return found.first


class TestTwoRecordings:
    # Another hash seed, other modules before ours, other settings, random numbers drawn.
    DISTURBED = """
import random, sklearn.datasets, torchvision, pandas, numpy, torch
random.random(); numpy.random.rand(7); torch.rand(5)
torch.set_num_threads(2); torch.set_flush_denormal(True); torch.backends.cudnn.benchmark = True
torch.set_float32_matmul_precision("medium"); torch.use_deterministic_algorithms(False)
"""

    def test_of_two_processes_agree_to_the_last_byte(self, tmp_path):
        settings = {"networks.0.weights": "trained", "networks.1.weights": "random",
                    "pretraining.epochs": 1, "data.augment": "crop_flip"}  # fmt: skip
        processes = []
        for k, before in enumerate(("", self.DISTURBED)):
            home = tmp_path / f"home{k}"
            home.mkdir()
            # A zoo each: the networks are trained twice.
            config = configured(settings)
            (home / "config.yml").write_text(config.model_dump_json())
            command = f"{before}\nfrom stitch_sweep.cli.main import main; main()"
            arguments = ["determinism", "record", "config.yml", "--output-dir", "recorded"]
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", command, *arguments],
                    cwd=home,
                    env={**os.environ, "PYTHONHASHSEED": str(1 + 4710 * k)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        for process in processes:
            output, _ = process.communicate()
            assert process.returncode == 0, output
        first, second = (tmp_path / f"home{k}" / "recorded" for k in range(2))
        assert {path.name for path in first.iterdir()} == FILES
        for name in sorted(FILES):
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
            assert str(tmp_path).encode() not in (first / name).read_bytes()
            assert b"auto" not in (first / name).read_bytes() or name == "tensors.safetensors"
        assert compare(first, second).agree

    def test_in_one_process_agree_too(self, base, recorded):
        found = compare(base, recorded())
        assert found.agree
        assert found.first is None
        assert found.changes == ()
        assert not any(stage.differing for stage in found.stages)

    def test_have_one_hash(self, base, recorded):
        other = recorded({"training.optimizer.lr": 0.01})
        again = recorded()
        hashes = [read_recording(folder).sha256 for folder in (base, again, other)]
        assert hashes[0] == hashes[1] != hashes[2]

    def test_of_another_loader_agree_in_what_was_computed(self, base, recorded, tmp_path):
        pytest.importorskip("ffcv")
        other = recorded({"data.loader": "ffcv", "data.beton_folder": str(tmp_path / "beton")})
        found = compare(base, other)
        assert found.changes == ("data.loader is 'ffcv', was 'torch'",)
        assert found.first.name == "configuration"


class TestWhatIsWritten:
    @pytest.fixture
    def found(self, base) -> Recording:
        return read_recording(base)

    def test_batches_are_those_a_training_gets(self, found):
        from stitch_sweep.data.loading import load, make_loaders

        config = configured({})
        data = load(config.data)
        loaders = make_loaders(data, 32, seed=3)
        places = {entry["place"]: entry for entry in found.batches["batches"]}
        epochs = [list(loaders["train"].batches(epoch)) for epoch in (0, 1)]
        expected = {
            "training batch 0 of epoch 0": epochs[0][0],
            "training batch 3 of epoch 0": epochs[0][3],
            "training batch 0 of epoch 1": epochs[1][0],
        }
        assert list(places) == [*expected, "validation chunk 0", "test chunk 0"]
        for place, batch in expected.items():
            entry = places[place]
            assert entry["indices"] == batch.indices.tolist()
            assert entry["labels"] == batch.labels.tolist()
            raw = data.train.images[batch.indices].numpy()
            assert entry["images_sha256"] == hashlib.sha256(raw.tobytes()).hexdigest()
            changed = batch.images.numpy()
            assert entry["transformed_sha256"] == hashlib.sha256(changed.tobytes()).hexdigest()
        test = places["test chunk 0"]
        assert test["indices"] == list(range(40))
        assert test["images_sha256"] == hashlib.sha256(data.test.images.numpy()).hexdigest()
        assert test["labels"] == data.test.labels.tolist()
        assert test["files"] is None

    def test_the_last_of_several_chunks_is_there_without_its_filling(self, recorded):
        entries = read_recording(recorded({"data.test_images": 300})).batches["batches"]
        assert [e["place"] for e in entries][-2:] == ["test chunk 0", "test chunk 1"]
        assert entries[-1]["indices"] == list(range(256, 300))
        assert entries[-1]["shape"] == [44, 1, 16, 16]

    def test_transforms_are_resolved(self, found, recorded):
        train = found.batches["transforms"]["train"]
        assert train["image_shape"] == [1, 16, 16]
        assert train["augmentation"]["name"] == "none"
        other = read_recording(recorded({"data.augment": "crop_flip"})).batches["transforms"]
        assert other["train"]["augmentation"]["smallest"] == [0, 0, 0]
        assert other["train"]["augmentation"]["largest"] == [4, 4, 1]
        assert other["test"] == found.batches["transforms"]["test"]

    def test_every_network_and_the_stitch_have_their_weights(self, found):
        assert list(found.weights) == ["network 'a'", "network 'b'", "stitch"]
        module = build("resnet", 1, 10, {"blocks": [1, 1, 1, 1], "width": 4})
        names = [*dict(module.named_parameters()), *dict(module.named_buffers())]
        assert list(found.weights["network 'b'"]) == names
        assert found.weights["network 'b'"]["bn1.running_mean"]["kind"] == "buffer"

    def test_steps_are_those_of_a_training(self, found, zoo):
        from stitch_sweep.config.models import TrialSettings
        from stitch_sweep.plan.prepare import prepare, provide_networks
        from stitch_sweep.training.workbench import Workbench

        config = configured({"zoo": str(zoo)})
        prepared = prepare(config)
        bench = Workbench(config, prepared.data, provide_networks(prepared))
        training = bench.training("a", 1, "b", 2, TrialSettings.model_validate(config.settings))
        for k, step in enumerate(found.training["steps"]):
            training.advance(1)
            assert step["step"] == k + 1
            for name, parameter in training.stitch.named_parameters():
                assert step["parameters"][name]["sha256"] == sha256_of(parameter)
                assert step["gradients"][name]["sha256"] == sha256_of(parameter.grad)
        assert len(found.training["steps"]) == 3

    def test_a_stitch_without_parameters_has_no_steps(self, recorded):
        folder = recorded({"stitch.name": "identity", "pairs.0.sender_layers": [2]}, "a:2,b:2")
        assert read_recording(folder).training["steps"] == []

    def test_a_loss_that_is_not_finite_is_recorded(self, base, recorded):
        folder = recorded({"training.optimizer": {"name": "sgd", "lr": 1e38}})
        steps = read_recording(folder).training["steps"]
        assert steps[-1]["loss"] is None
        assert "learning rate" in differs(base, folder, "backward").difference

    def test_kept_values_are_the_beginning_of_each_tensor(self, recorded):
        found = read_recording(recorded({"data.image_size": 64}))
        sizes = {tensor.numel() for tensor in found.tensors.values()}
        assert max(sizes) == KEPT
        first = found.tensors["transformed/training batch 0 of epoch 0"]
        assert first.shape == (KEPT,)

    def test_the_middle_cell_is_the_default_and_another_may_be_named(self, base, recorded):
        assert read_recording(recorded({"pairs.0.sender_layers": "all"})).about["pair"] == "a:2,b:2"
        for pair in ("b:0,a:3", "a:1,a:1", "a:-1,b:0", "a:0,b:-1"):
            found = read_recording(recorded(pair=pair))
            assert found.about["pair"] == pair
            assert len(found.training["steps"]) == 3


@pytest.fixture
def tampered(monkeypatch) -> Callable[[Callable[[StitchTraining, Any, Any], None]], None]:
    """Do something to a training (and its sender and receiver) once it is made."""

    def tampered(change: Callable[[StitchTraining, Any, Any], None]) -> None:
        begin = StitchTraining.__init__

        def changed(self: StitchTraining, sender: Any, receiver: Any, *rest: Any, **more: Any):
            begin(self, sender, receiver, *rest, **more)
            change(self, sender.network, receiver.network)

        monkeypatch.setattr(StitchTraining, "__init__", changed)

    return tampered


class TestAFaultInTheData:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        """40 training and 8 test images of two classes."""
        generator = np.random.default_rng(0)
        for split, count in (("train", 20), ("test", 4)):
            for label in ("cat", "dog"):
                (tmp_path / "images" / split / label).mkdir(parents=True)
                for k in range(count):
                    pixels = generator.integers(0, 256, (16, 16), dtype=np.uint8)
                    Image.fromarray(pixels).save(
                        tmp_path / "images" / split / label / f"{k:02}.png"
                    )
        return tmp_path / "images"

    @pytest.fixture
    def of_folder(self, folder, recorded) -> Callable[..., Path]:
        def of_folder(**settings: Any) -> Path:
            data = {"name": "image_folder", "path": str(folder), **settings}
            return recorded({"data": data, "training.batch_size": 64})

        return of_folder

    def test_another_subset(self, base, recorded):
        other = recorded({"data.split_seed": 1})
        first = differs(base, other, "data")
        assert first.place == "training batch 0 of epoch 0"
        assert "data.split_seed" in first.cause

    def test_another_seed(self, base, recorded):
        folder = recorded({"seed": 4})
        one, other = (read_recording(f).batches for f in (base, folder))
        first = differs(base, folder, "data")
        pairs = zip(one["batches"][0]["indices"], other["batches"][0]["indices"], strict=True)
        k, (was, now) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
        assert first.place == "training batch 0 of epoch 0"
        assert first.difference == f"index {k} is {now}, was {was}"
        assert "configurations differ in seed" in first.cause

    def test_an_order_of_its_own(self, base, recorded, monkeypatch):
        from stitch_sweep.data import loader

        monkeypatch.setattr(loader.torch, "randperm", lambda n, generator: torch.arange(n))
        first = differs(base, recorded(), "data")
        assert "index 0 is 0, was " in first.difference
        assert "shuffles on its own" in first.cause

    def test_another_batch_size(self, base, recorded):
        first = differs(base, recorded({"training.batch_size": 16}), "data")
        assert first.difference == "has 16 images, had 32"
        assert "training.batch_size" in first.cause

    def test_one_pixel(self, folder, of_folder):
        before = of_folder()
        file = folder / "train" / "dog" / "07.png"
        pixels = np.array(Image.open(file))
        pixels[3, 5] = pixels[3, 5] + 9 if pixels[3, 5] < 128 else pixels[3, 5] - 9
        Image.fromarray(pixels).save(file)
        # A batch is larger than the split, so the image is in the first one of its split.
        entry, k = next(
            (entry, entry["files"].index("train/dog/07.png"))
            for entry in read_recording(before).batches["batches"]
            if "train/dog/07.png" in entry["files"]
        )
        first = differs(before, of_folder(), "data")
        assert first.place == entry["place"]
        assert first.difference == f"image {k} (index {entry['indices'][k]}) has other pixels"
        assert (first.largest, first.values) == (9, first.total)

    def test_one_pixel_outside_the_recorded_batches(self, base, recorded, monkeypatch):
        from stitch_sweep.checks.determinism import recording
        from stitch_sweep.data.images import Data

        seen = {
            index
            for entry in read_recording(base).batches["batches"]
            if entry["split"] == "train"
            for index in entry["indices"]
        }
        unseen = min(set(range(100)) - seen)
        real = recording.prepare

        def changed(config: Config) -> Any:
            prepared = real(config)
            assert isinstance(prepared.data, Data)
            prepared.data.train.images[unseen, 0, 0, 0] += 1
            return prepared

        monkeypatch.setattr(recording, "prepare", changed)
        first = differs(base, recorded(), "data")
        assert first.place == "splits.train.images_sha256"
        assert "outside the recorded batches" in first.cause

    def test_a_file_that_got_another_name(self, folder, of_folder):
        before = of_folder()
        (folder / "train" / "cat" / "00.png").rename(folder / "train" / "cat" / "99.png")
        first = differs(before, of_folder(), "data")
        assert ".png', was '" in first.difference
        assert "renamed" in first.cause

    def test_a_label(self, base, recorded, monkeypatch):
        from stitch_sweep.checks.determinism import recording

        real = recording.prepare

        def changed(config: Config) -> Any:
            prepared = real(config)
            labels = prepared.data.train.labels
            labels[:] = (labels + 1) % 10
            return prepared

        monkeypatch.setattr(recording, "prepare", changed)
        first = differs(base, recorded(), "data")
        assert first.difference.startswith("label 0 is ")

    def test_another_image_size(self, base, recorded):
        first = differs(base, recorded({"data.image_size": 20}), "data")
        assert "[32, 1, 20, 20], was [32, 1, 16, 16]" in first.difference


class TestAFaultInTheTransforms:
    def test_another_augmentation(self, base, recorded):
        first = differs(base, recorded({"data.augment": "crop_flip"}), "transform")
        assert first.place == "train.augmentation.name"
        assert first.difference == "is 'crop_flip', was 'none'"
        assert "data.augment" in first.cause

    def test_another_normalisation(self, base, recorded, monkeypatch):
        from stitch_sweep.data import loader

        real = loader.normalise
        monkeypatch.setattr(
            loader, "normalise", lambda images, mean, std: real(images, mean, std) + 0.25
        )
        first = differs(base, recorded(), "transform")
        assert first.place == "training batch 0 of epoch 0"
        assert first.difference.endswith(" and 31 more have other values after transforms")
        assert first.largest == pytest.approx(0.25, rel=1e-5)
        assert first.values == first.total == 32 * 256

    def test_random_numbers_from_elsewhere(self, recorded, monkeypatch):
        from stitch_sweep.data import augmentation, loader

        before = recorded({"data.augment": "crop_flip"})
        real = augmentation.AUGMENTATIONS["crop_flip"]

        def draw(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
            return real.draw(count, size, generator).flip(0)

        noisy = augmentation.Augmentation(draw, real.apply)
        monkeypatch.setitem(loader.AUGMENTATIONS, "crop_flip", noisy)
        differs(before, recorded({"data.augment": "crop_flip"}), "transform")


class TestAFaultInTheWeights:
    @pytest.fixture
    def with_weights(self, recorded, tmp_path) -> Callable[[dict[str, torch.Tensor]], Path]:
        def with_weights(state: dict[str, torch.Tensor]) -> Path:
            save_file(state, tmp_path / "w.safetensors")
            return recorded({"networks.1.weights": str(tmp_path / "w.safetensors")})

        return with_weights

    @pytest.fixture
    def state(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        network = build("resnet", 1, 10, {"blocks": [1, 1, 1, 1], "width": 4})
        return {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def test_one_weight_moved_by_one_ulp(self, with_weights, state):
        before = with_weights(state)
        values = state["layer3.0.conv2.weight"].reshape(-1)
        nudged = np.nextafter(values[11].numpy(), np.float32(np.inf))
        ulp = float(nudged) - float(values[11])
        values[11] = float(nudged)
        first = differs(before, with_weights(state), "weights")
        assert first.place == "network 'b': layer3.0.conv2.weight"
        assert (first.largest, first.values) == (ulp, values.numel())
        assert first.differing == 1

    def test_a_statistic_of_batch_norm(self, with_weights, state):
        before = with_weights(state)
        state["layer2.0.bn1.running_mean"][2] += 0.5
        first = differs(before, with_weights(state), "weights")
        assert first.place == "network 'b': layer2.0.bn1.running_mean"
        assert first.largest == 0.5
        assert "train mode" in first.cause

    def test_a_nan(self, with_weights, state, monkeypatch):
        before = with_weights(state)
        provide = recording.provide_networks

        def spoilt(*args: Any, **options: Any) -> dict[str, Any]:
            networks = provide(*args, **options)
            with torch.no_grad():  # in memory: a file with such weights is refused
                networks["b"].fc.bias[0] = math.nan
            return networks

        monkeypatch.setattr(recording, "provide_networks", spoilt)
        folder = with_weights(state)
        first = differs(before, folder, "weights")
        assert (first.place, first.largest) == ("network 'b': fc.bias", math.inf)
        assert first.to_dict()["largest"] == "inf"
        assert read_recording(folder).weights["network 'b'"]["fc.bias"]["not_finite"] == 1

    def test_the_stitch_at_its_start(self, base, recorded, tampered):
        def nudge(training: StitchTraining, *networks: Any) -> None:
            with torch.no_grad():
                training.stitch.conv.bias[0] += 1.0

        tampered(nudge)
        first = differs(base, recorded(), "weights")
        assert first.place == "stitch: conv.bias"
        assert first.largest == pytest.approx(1)
        assert "initial weights" in first.cause

    def test_another_architecture(self, base, recorded):
        first = differs(base, recorded({"networks.0.width": 8}), "weights")
        assert first.place == "network 'a': conv1.weight"
        assert first.difference == "shape is [8, 1, 3, 3], was [4, 1, 3, 3]"
        assert "networks.a.width" in first.cause

    def test_another_name(self, base, recorded):
        settings = {"networks.1.name": "c", "pairs.0.receiver": "c"}
        first = differs(base, recorded(settings), "weights")
        assert (first.place, first.difference) == ("network 'b'", "is missing")


class TestAFaultInTheForwardPass:
    def test_a_layer_left_in_train_mode(self, base, recorded, tampered):
        def leave(training: StitchTraining, sender: nn.Module, receiver: nn.Module) -> None:
            receiver.get_submodule("layer2.0.bn1").train()

        tampered(leave)
        first = differs(base, recorded(), "forward")
        assert first.place == "receiver 'b': layer2.0.bn1"
        assert first.difference == "its mode is 'train', was 'eval'"
        assert ".eval()" in first.cause

    def test_a_layer_that_computes_something_else(self, base, recorded, tampered):
        def add_hook(training: StitchTraining, sender: nn.Module, receiver: nn.Module) -> None:
            sender.get_submodule("layer1.0.conv2").register_forward_hook(
                lambda module, inputs, output: output + 2**-10
            )

        tampered(add_hook)
        first = differs(base, recorded(), "forward")
        assert first.place == "sender 'a': layer1.0.conv2"
        assert first.largest == pytest.approx(2**-10, rel=0.01)

    def test_a_computation_between_layers(self, base, recorded, monkeypatch):
        from stitch_sweep.networks.families.resnet import BasicBlock

        real = BasicBlock.forward
        monkeypatch.setattr(BasicBlock, "forward", lambda self, x: real(self, x) * 1.5)
        first = differs(base, recorded(), "forward")
        assert first.place == "sender 'a': layer2.0.conv1"
        assert "the layer before" in first.cause

    def test_in_the_stitch(self, base, recorded, monkeypatch):
        from stitch_sweep.stitches.affine import PatchStitch

        real = PatchStitch.forward
        monkeypatch.setattr(PatchStitch, "forward", lambda self, x: real(self, x) + 1)
        first = differs(base, recorded(), "forward")
        assert first.place == "stitched: stitch"
        assert first.largest == pytest.approx(1)


class TestAFaultInTheBackwardPass:
    def test_another_learning_rate(self, base, recorded):
        first = differs(base, recorded({"training.optimizer.lr": 0.002}), "backward")
        assert first.place == "step 1"
        assert first.difference.startswith("learning rate is 0.00")
        assert "training.optimizer.lr" in first.cause

    def test_another_loss(self, base, recorded):
        first = differs(base, recorded({"loss": {"mse": 1.0}}), "backward")
        assert first.place == "step 1"
        assert first.difference.startswith("loss is ")
        assert "loss" in first.cause

    def test_another_gradient_after_the_same_forward_pass(self, base, recorded, tampered):
        def bend(training: StitchTraining, *networks: Any) -> None:
            training.stitch.conv.weight.register_hook(lambda gradient: gradient * 2)

        tampered(bend)
        first = differs(base, recorded(), "backward")
        assert first.place == "step 1: gradient of conv.weight"
        assert first.largest == pytest.approx(
            read_recording(base).tensors["gradients/1/conv.weight"].abs().max().item()
        )
        assert "backward pass" in first.cause

    def test_another_optimizer(self, recorded):
        before = recorded({"training.optimizer": {"name": "sgd", "lr": 0.1}})
        settings = {"training.optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0.1}}
        first = differs(before, recorded(settings), "backward")
        assert first.place == "step 1: conv.weight"
        assert "training.optimizer.weight_decay" in first.cause

    def test_a_longer_training(self, base, recorded):
        first = differs(base, recorded({"training.epochs": 40}), "backward")
        assert "training.epochs" in first.cause

    def test_the_evaluation_alone(self, base, recorded, monkeypatch):
        real = recording.evaluate
        monkeypatch.setattr(
            recording, "evaluate", lambda network, loader: real(lambda x: -network(x), loader)
        )
        first = differs(base, recorded(), "backward")
        assert first.place == "evaluation after the recorded steps"


class TestAnythingElse:
    def test_numbers_drawn_from_a_global_generator(self, base, recorded, tampered):
        tampered(lambda training, sender, receiver: np.random.rand())
        first = differs(base, recorded(), "generators")
        assert first.place == "before training.numpy.sha256"
        assert "drew" in first.cause

    @pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this machine has one CPU")
    def test_another_number_of_threads(self, base, recorded):
        found = compare(base, recorded({"resources.cpu": 2}))
        assert not found.agree
        assert "resources.cpu is 2, was 1" in found.changes
        assert "settings.intra_op_threads is 2, was 1" in found.changes

    def test_another_library_alone(self, base, recorded, monkeypatch):
        real = importlib.metadata.version
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name: "0.1" if name == "pillow" else real(name)
        )
        found = compare(base, recorded())
        (stage,) = [stage for stage in found.stages if stage.differing]
        assert stage is found.first
        assert (stage.name, stage.place) == ("environment", "versions.pillow")

    def test_an_environment_that_may_explain_it_is_named(self, base, recorded, monkeypatch):
        from stitch_sweep.stitches.affine import PatchStitch

        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        real = PatchStitch.forward
        monkeypatch.setattr(PatchStitch, "forward", lambda self, x: real(self, x) * (1 + 1e-6))
        folder = recorded()
        first = differs(base, folder, "forward")
        assert first.cause.endswith("which alone can change the last bits.")
        assert compare(base, folder).changes == (
            "variables.ONEDNN_MAX_CPU_ISA is 'AVX2', was not set",
        )

    def test_values_beyond_those_kept(self, base, tmp_path, monkeypatch):
        one = read_recording(base)
        weights = copy.deepcopy(one.weights)
        weights["stitch"]["conv.weight"] |= {"sha256": "0" * 64}
        found = comparison.compare_recordings(one, Recording(**{**vars(one), "weights": weights}))
        assert found.first.largest == 0
        assert "it differs after them" in printed(found)

    def test_another_pair(self, base, recorded):
        found = compare(base, recorded(pair="a:2,b:2"))
        assert "pair is 'a:2,b:2', was 'a:1,b:2'" in found.changes
        assert found.first.name == "weights"
        assert "pair" in found.first.cause


class TestRefusals:
    def test_of_a_folder_that_is_taken(self, base, tmp_path):
        config = configured({})
        with pytest.raises(InputError, match="holds a recording already"):
            record(config, base)
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="is a file"):
            record(config, tmp_path / "file")
        with pytest.raises(InputError, match="is not empty"):
            record(config, tmp_path)

    @pytest.mark.parametrize("pair", ["a:9,b:1", "a:1", "c:1,b:1"])
    def test_of_a_pair_that_is_none(self, pair, tmp_path, recorded):
        with pytest.raises(InputError, match=f"--pair {pair}"):
            recorded(pair=pair)
        assert list(tmp_path.iterdir()) == []

    def test_an_interrupted_recording_leaves_nothing(self, tmp_path, recorded, monkeypatch):
        def interrupted(path: Path, data: bytes) -> None:
            path.write_bytes(data)
            if path.name == "training.json":
                raise KeyboardInterrupt

        monkeypatch.setattr(recording, "write_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recorded()
        assert list(tmp_path.iterdir()) == []

    def test_an_empty_folder_is_taken(self, base, zoo, tmp_path):
        (tmp_path / "empty").mkdir()
        record(configured({"zoo": str(zoo)}), tmp_path / "empty")
        assert compare(base, tmp_path / "empty").agree

    @pytest.fixture
    def damaged(self, base, tmp_path) -> Path:
        folder = tmp_path / "copy"
        folder.mkdir()
        for path in base.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    @pytest.mark.parametrize("name", sorted(FILES - {"recording.json"}))
    def test_of_a_file_that_is_missing_or_changed(self, name, base, damaged):
        content = (damaged / name).read_bytes()
        (damaged / name).write_bytes(content[:-20])
        with pytest.raises(InputError) as raised:
            compare(base, damaged)
        assert raised.value.problems == [
            f"{damaged / name}: changed since it was recorded; record anew"
        ]
        (damaged / name).unlink()
        with pytest.raises(InputError) as raised:
            compare(damaged, base)
        assert raised.value.problems == [f"{damaged / name}: is missing; record anew"]

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff", b"null"])
    def test_of_a_manifest_that_is_none(self, content, base, damaged):
        (damaged / "recording.json").write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            compare(base, damaged)

    def test_of_another_format(self, base, damaged):
        manifest = json.loads((damaged / "recording.json").read_text())
        (damaged / "recording.json").write_text(json.dumps({**manifest, "format": 2}))
        with pytest.raises(InputError, match="is of format 2, and this version"):
            compare(base, damaged)

    def test_of_a_folder_without_a_recording(self, base, tmp_path):
        for path in (tmp_path, tmp_path / "nowhere", base / "recording.json"):
            with pytest.raises(InputError, match="holds no recording"):
                compare(base, path)


def printed(found: comparison.Comparison) -> str:
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as captured:
        console.print(comparison.report(found))
    return captured.get()


class TestOnTheCommandLine:
    @pytest.fixture
    def run(self) -> Callable[..., tuple[int, str]]:
        def run(*arguments: object) -> tuple[int, str]:
            result = CliRunner().invoke(app, ["determinism", *map(str, arguments)])
            if isinstance(result.exception, InputError):
                raise result.exception
            return result.exit_code, result.stdout

        return run

    def test_it_records_and_compares(self, base, run, recorded, tmp_path, zoo):
        (tmp_path / "config.yml").write_text(configured({"zoo": str(zoo)}).model_dump_json())
        folder = tmp_path / "new"
        status, output = run("record", tmp_path / "config.yml", "--output-dir", folder)
        assert status == 0
        assert read_recording(folder).sha256 in output
        assert "another number of threads" in output
        assert run("compare", base, folder)[0] == 0
        other = recorded({"training.optimizer.lr": 0.002})
        status, output = run("compare", base, other)
        assert status == 1
        assert "differs first" in output
        assert "training.optimizer.lr is 0.002, was not set" in output
        status, output = run("compare", base, other, "--json")
        assert status == 1
        found = json.loads(output)
        assert not found["agree"]
        assert found["first"]["name"] == "backward"
        assert [stage["name"] for stage in found["stages"]][2:] == list(COMPUTED)

    def test_wrong_input_is_refused(self, run, base, tmp_path):
        with pytest.raises(InputError, match="holds no recording"):
            run("compare", base, tmp_path)
        with pytest.raises(InputError, match="there is no such file"):
            run("record", tmp_path / "config.yml", "--output-dir", tmp_path / "new")


class TestSummaries:
    @pytest.mark.parametrize(
        "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64]
    )
    def test_are_numpys(self, dtype):
        tensor = (torch.rand(7, 5, generator=torch.Generator().manual_seed(1)) * 50).to(dtype)
        found = summarise(tensor.T)  # not contiguous
        values = tensor.T.double().numpy()
        assert found.shape == (5, 7)
        assert found.dtype == str(dtype).partition(".")[2]
        assert found.mean == pytest.approx(np.mean(values), rel=1e-14)
        assert found.std == pytest.approx(np.std(values), rel=1e-14)
        assert (found.min, found.max) == (values.min(), values.max())
        plain = tensor.T.contiguous().view(torch.uint8).numpy().tobytes()
        assert found.sha256 == hashlib.sha256(plain).hexdigest()

    def test_leave_out_what_is_not_finite(self):
        found = summarise(torch.tensor([1.0, math.nan, 3.0, -math.inf]))
        assert (found.mean, found.std, found.min, found.max, found.not_finite) == (2, 1, 1, 3, 2)
        found = summarise(torch.full((2,), math.nan))
        assert (found.mean, found.std, found.not_finite) == (None, None, 2)

    def test_of_nothing_and_of_truth_values(self):
        found = summarise(torch.empty(0, 3))
        assert (found.shape, found.mean, found.not_finite) == ((0, 3), None, 0)
        assert found.sha256 == hashlib.sha256(b"").hexdigest()
        assert summarise(torch.tensor([True, False])).mean == 0.5

    def test_don_t_follow_the_number_of_threads(self):
        tensor = torch.rand(300_000, generator=torch.Generator().manual_seed(1))
        threads = torch.get_num_threads()
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(summarise(tensor))
        torch.set_num_threads(threads)
        assert found[0] == found[1]

    def test_of_every_parameter_and_buffer(self, a):
        found = inspect_weights(a)
        a.register_buffer("unstored", torch.ones(3), persistent=False)
        assert {*inspect_weights(a)} - {*found} == {"unstored"}
        for name, tensor in a.state_dict().items():
            values = tensor.double().numpy()
            assert found[name].mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-15)
            assert found[name].std == pytest.approx(values.std(), rel=1e-12, abs=1e-15)
            assert found[name].sha256 == hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


class Odd(nn.Module):
    """One module twice, an operation in place, several results, and steps between modules."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(1, 1)
        self.late = nn.Linear(4, 4)
        self.early = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.early(x))
        x = self.relu(self.late(x) - 1)
        x, _ = self.attention(x, x, x)
        return self.drop(functional.relu(x)) + 1


class TestOutputs:
    def test_come_in_order_of_execution_as_they_were(self):
        torch.manual_seed(0)
        network = Odd().eval()
        x = torch.randn(2, 3, 4)
        kept = {}
        found = inspect_outputs(network, x, lambda o, v: kept.update({o.position: v.clone()}))
        assert [(o.position, o.path, o.type) for o in found] == [
            (0, "early", "Linear"),
            (1, "relu", "ReLU"),
            (2, "late", "Linear"),
            (3, "relu", "ReLU"),
            (4, "attention[0]", "MultiheadAttention"),
            (5, "attention[1]", "MultiheadAttention"),
            (6, "drop", "Dropout"),
            (7, "(output)", "Odd"),
        ]
        with torch.no_grad():
            early = network.early(x)
            late = network.late(early.relu())
            expected = [early, early.relu(), late, (late - 1).relu()]
            attention = network.attention(expected[3], expected[3], expected[3])
            expected += [*attention, attention[0].relu(), network(x)]
        for output, tensor in zip(found, expected, strict=True):
            assert output.summary.shape == tuple(tensor.shape)
            assert output.summary.mean == pytest.approx(np.mean(tensor.double().numpy()))
            plain = tensor.contiguous().numpy().tobytes()
            assert output.summary.sha256 == hashlib.sha256(plain).hexdigest()
            assert output.mode == "eval"
        assert torch.equal(kept[2], expected[2])

    def test_leave_the_network_as_it_was(self, a):
        a.train()
        a.bn1.eval()
        modes = [module.training for module in a.modules()]
        found = inspect_outputs(a, torch.zeros(2, 1, 16, 16))
        assert [module.training for module in a.modules()] == modes
        assert {o.path: o.mode for o in found}["bn1"] == "eval"
        assert {o.path: o.mode for o in found}["conv1"] == "train"
        with pytest.raises(RuntimeError):
            inspect_outputs(a, torch.zeros(2, 3, 16, 16))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in a.modules())

    def test_of_a_single_layer(self):
        (found,) = inspect_outputs(nn.Identity(), torch.ones(2, 3))
        assert (found.path, found.type, found.summary.mean) == ("(output)", "Identity", 1)


def test_a_yaml_file_gives_the_same_recording(base, tmp_path, zoo):
    (tmp_path / "config.yml").write_text(configured({"zoo": str(zoo)}).model_dump_json())
    record(read_config(tmp_path / "config.yml"), tmp_path / "recorded")
    assert compare(base, tmp_path / "recorded").agree
