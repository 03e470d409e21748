"""Equal runs have equal recordings; a planted fault is named at the place where it begins."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from stitch_sweep.checks.determinism import comparison, recorder, steps
from stitch_sweep.checks.determinism.comparison import COMPUTED, compare
from stitch_sweep.checks.determinism.recording import Recording, read_recording
from stitch_sweep.checks.determinism.table import comparison_table
from stitch_sweep.cli.main import app
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.families.building import build
from stitch_sweep.training.loop import StitchTraining
from tests.support.recordings import configured, differs


class TestTwoRecordings:
    def test_in_one_process_agree_too(self, base, clean):
        found = compare(base, clean())
        assert found.agree
        assert found.first is None
        assert found.changes == ()
        assert not any(stage.differing for stage in found.stages)

    def test_have_one_hash(self, base, clean):
        other = clean({"training.optimizer.lr": 0.01})
        again = clean()
        hashes = [read_recording(folder).sha256 for folder in (base, again, other)]
        assert hashes[0] == hashes[1] != hashes[2]

    def test_of_another_loader_agree_in_what_was_computed(self, base, recorded, tmp_path):
        pytest.importorskip("ffcv")
        other = recorded({"data.loader": "ffcv", "data.beton_folder": str(tmp_path / "beton")})
        found = compare(base, other)
        assert found.changes == ("data.loader is 'ffcv', was 'torch'",)
        assert found.first.name == "configuration"


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

    def test_another_subset(self, base, clean):
        other = clean({"data.split_seed": 1})
        first = differs(base, other, "data")
        assert first.place == "training batch 0 of epoch 0"
        assert "data.split_seed" in first.cause

    def test_another_seed(self, base, clean):
        folder = clean({"seed": 4})
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

    def test_another_batch_size(self, base, clean):
        first = differs(base, clean({"training.batch_size": 16}), "data")
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
        from stitch_sweep.checks.determinism import recorder
        from stitch_sweep.data.images import Data

        seen = {
            index
            for entry in read_recording(base).batches["batches"]
            if entry["split"] == "train"
            for index in entry["indices"]
        }
        unseen = min(set(range(100)) - seen)
        real = recorder.prepare

        def changed(config: Config) -> Any:
            prepared = real(config)
            assert isinstance(prepared.data, Data)
            prepared.data.train.images[unseen, 0, 0, 0] += 1
            return prepared

        monkeypatch.setattr(recorder, "prepare", changed)
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
        from stitch_sweep.checks.determinism import recorder

        real = recorder.prepare

        def changed(config: Config) -> Any:
            prepared = real(config)
            labels = prepared.data.train.labels
            labels[:] = (labels + 1) % 10
            return prepared

        monkeypatch.setattr(recorder, "prepare", changed)
        first = differs(base, recorded(), "data")
        assert first.difference.startswith("label 0 is ")

    def test_another_image_size(self, base, clean):
        first = differs(base, clean({"data.image_size": 20}), "data")
        assert "[32, 1, 20, 20], was [32, 1, 16, 16]" in first.difference


class TestAFaultInTheTransforms:
    def test_another_augmentation(self, base, clean):
        first = differs(base, clean({"data.augment": "crop_flip"}), "transform")
        assert first.place == "train.augmentation.name"
        assert first.difference == "is 'crop_flip', was 'none'"
        assert "data.augment" in first.cause

    def test_another_normalisation(self, base, recorded, monkeypatch):
        from stitch_sweep.data import loader

        real = loader.normalize_images
        monkeypatch.setattr(
            loader, "normalize_images", lambda images, mean, std: real(images, mean, std) + 0.25
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
        provide = recorder.provide_networks

        def spoilt(*args: Any, **options: Any) -> dict[str, Any]:
            networks = provide(*args, **options)
            with torch.no_grad():  # in memory: a file with such weights is refused
                networks["b"].fc.bias[0] = math.nan
            return networks

        monkeypatch.setattr(recorder, "provide_networks", spoilt)
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

    def test_another_architecture(self, base, clean):
        first = differs(base, clean({"networks.0.width": 8}), "weights")
        assert first.place == "network 'a': conv1.weight"
        assert first.difference == "shape is [8, 1, 3, 3], was [4, 1, 3, 3]"
        assert "networks.a.width" in first.cause

    def test_another_name(self, base, clean):
        settings = {"networks.1.name": "c", "pairs.0.receiver": "c"}
        first = differs(base, clean(settings), "weights")
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
        from stitch_sweep.stitches.patch_stitch import PatchStitch

        real = PatchStitch.forward
        monkeypatch.setattr(PatchStitch, "forward", lambda self, x: real(self, x) + 1)
        first = differs(base, recorded(), "forward")
        assert first.place == "stitched: stitch"
        assert first.largest == pytest.approx(1)


class TestAFaultInTheBackwardPass:
    def test_another_learning_rate(self, base, clean):
        first = differs(base, clean({"training.optimizer.lr": 0.002}), "backward")
        assert first.place == "step 1"
        assert first.difference.startswith("learning rate is 0.00")
        assert "training.optimizer.lr" in first.cause

    def test_another_loss(self, base, clean):
        first = differs(base, clean({"loss": {"mse": 1.0}}), "backward")
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

    def test_another_optimizer(self, clean):
        before = clean({"training.optimizer": {"name": "sgd", "lr": 0.1}})
        settings = {"training.optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0.1}}
        first = differs(before, clean(settings), "backward")
        assert first.place == "step 1: conv.weight"
        assert "training.optimizer.weight_decay" in first.cause

    def test_a_longer_training(self, base, clean):
        first = differs(base, clean({"training.epochs": 40}), "backward")
        assert "training.epochs" in first.cause

    def test_the_evaluation_alone(self, base, recorded, monkeypatch):
        real = steps.evaluate
        monkeypatch.setattr(
            steps, "evaluate", lambda network, loader: real(lambda x: -network(x), loader)
        )
        first = differs(base, recorded(), "backward")
        assert first.place == "evaluation after the recorded steps"


class TestAnythingElse:
    def test_numbers_drawn_from_a_global_generator(self, base, recorded, tampered):
        tampered(lambda training, sender, receiver: np.random.rand())
        first = differs(base, recorded(), "generators")
        assert first.place == "before training.numpy.sha256"
        assert "one of the two runs used a global generator" in first.cause

    @pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this machine has one CPU")
    def test_another_number_of_threads(self, base, clean):
        found = compare(base, clean({"resources.cpu": 2}))
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
        from stitch_sweep.stitches.patch_stitch import PatchStitch

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
        assert "a later value differs" in printed(found)

    def test_another_pair(self, base, clean):
        found = compare(base, clean(pair="a:2,b:2"))
        assert "pair is 'a:2,b:2', was 'a:1,b:2'" in found.changes
        assert found.first.name == "weights"
        assert "pair" in found.first.cause


def printed(found: comparison.Comparison) -> str:
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as captured:
        console.print(comparison_table(found))
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
        with pytest.raises(InputError, match="contains no recording"):
            run("compare", base, tmp_path)
        with pytest.raises(InputError, match="there is no such file"):
            run("record", tmp_path / "config.yml", "--output-dir", tmp_path / "new")
