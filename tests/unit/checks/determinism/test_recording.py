"""The content of a recording, and the refusal of damaged ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from stitch_sweep.checks.determinism import kept_tensors, recording
from stitch_sweep.checks.determinism.comparison import compare
from stitch_sweep.checks.determinism.recorder import record
from stitch_sweep.checks.determinism.recording import Recording, read_recording
from stitch_sweep.checks.inspection import sha256_of
from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.families.building import build
from tests.support.recordings import FILES, configured, differs


class TestWhatIsWritten:
    @pytest.fixture
    def result(self, base) -> Recording:
        return read_recording(base)

    def test_batches_are_those_a_training_gets(self, result):
        from stitch_sweep.data.loading import load, make_loaders

        config = configured({})
        data = load(config.data)
        loaders = make_loaders(data, 32, seed=3)
        places = {entry["place"]: entry for entry in result.batches["batches"]}
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

    def test_the_last_of_several_chunks_is_there_without_its_filling(self, clean):
        entries = read_recording(clean({"data.test_images": 300})).batches["batches"]
        assert [e["place"] for e in entries][-2:] == ["test chunk 0", "test chunk 1"]
        assert entries[-1]["indices"] == list(range(256, 300))
        assert entries[-1]["shape"] == [44, 1, 16, 16]

    def test_transforms_are_resolved(self, result, clean):
        train = result.batches["transforms"]["train"]
        assert train["image_shape"] == [1, 16, 16]
        assert train["augmentation"]["name"] == "none"
        other = read_recording(clean({"data.augment": "crop_flip"})).batches["transforms"]
        assert other["train"]["augmentation"]["smallest"] == [0, 0, 0]
        assert other["train"]["augmentation"]["largest"] == [4, 4, 1]
        assert other["test"] == result.batches["transforms"]["test"]

    def test_every_network_and_the_stitch_have_their_weights(self, result):
        assert list(result.weights) == ["network 'a'", "network 'b'", "stitch"]
        module = build("resnet", 1, 10, {"blocks": [1, 1, 1, 1], "width": 4})
        names = [*dict(module.named_parameters()), *dict(module.named_buffers())]
        assert list(result.weights["network 'b'"]) == names
        assert result.weights["network 'b'"]["bn1.running_mean"]["kind"] == "buffer"

    def test_steps_are_those_of_a_training(self, result, zoo):
        from stitch_sweep.config.trial import TrialSettings
        from stitch_sweep.plan.prepare import prepare, provide_networks
        from stitch_sweep.training.workbench import Workbench

        config = configured({"zoo": str(zoo)})
        prepared = prepare(config)
        bench = Workbench(config, prepared.data, provide_networks(prepared))
        training = bench.training("a", 1, "b", 2, TrialSettings.model_validate(config.settings))
        for k, step in enumerate(result.training["steps"]):
            training.advance(1)
            assert step["step"] == k + 1
            for name, parameter in training.stitch.named_parameters():
                assert step["parameters"][name]["sha256"] == sha256_of(parameter)
                assert step["gradients"][name]["sha256"] == sha256_of(parameter.grad)
        assert len(result.training["steps"]) == 3

    def test_a_stitch_without_parameters_has_no_steps(self, clean):
        folder = clean({"stitch.name": "identity", "pairs.0.sender_layers": [2]}, "a:2,b:2")
        assert read_recording(folder).training["steps"] == []

    def test_a_loss_that_is_not_finite_is_recorded(self, base, clean):
        folder = clean({"training.optimizer": {"name": "sgd", "lr": 1e38}})
        steps = read_recording(folder).training["steps"]
        assert steps[-1]["loss"] is None
        assert "learning rate" in differs(base, folder, "backward").difference

    def test_kept_values_are_the_beginning_of_each_tensor(self, base, recorded, monkeypatch):
        monkeypatch.setattr(kept_tensors, "KEPT", 100)
        tensors = read_recording(recorded()).tensors
        assert max(tensor.numel() for tensor in tensors.values()) == 100
        name = "transformed/training batch 0 of epoch 0"
        assert tensors[name].shape == (100,)
        assert torch.equal(tensors[name], read_recording(base).tensors[name][:100])

    def test_the_middle_cell_is_the_default_and_another_may_be_named(self, base, clean):
        assert read_recording(clean({"pairs.0.sender_layers": "all"})).about["pair"] == "a:2,b:2"
        for pair in ("b:0,a:3", "a:1,a:1", "a:-1,b:0", "a:0,b:-1"):
            result = read_recording(clean(pair=pair))
            assert result.about["pair"] == pair
            assert len(result.training["steps"]) == 3


class TestRefusals:
    def test_of_a_folder_that_is_taken(self, base, tmp_path):
        config = configured({})
        with pytest.raises(InputError, match="already contains a recording"):
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
            f"{damaged / name}: has changed since it was recorded; record it again"
        ]
        (damaged / name).unlink()
        with pytest.raises(InputError) as raised:
            compare(damaged, base)
        assert raised.value.problems == [f"{damaged / name}: is missing; record it again"]

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff", b"null"])
    def test_of_a_manifest_that_is_none(self, content, base, damaged):
        (damaged / "recording.json").write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            compare(base, damaged)

    def test_of_another_format(self, base, damaged):
        manifest = json.loads((damaged / "recording.json").read_text())
        (damaged / "recording.json").write_text(json.dumps({**manifest, "format": 2}))
        with pytest.raises(InputError, match="has format 2, but this version"):
            compare(base, damaged)

    def test_of_a_folder_without_a_recording(self, base, tmp_path):
        for path in (tmp_path, tmp_path / "nowhere", base / "recording.json"):
            with pytest.raises(InputError, match="contains no recording"):
                compare(base, path)


def test_a_yaml_file_gives_the_same_recording(base, tmp_path, zoo):
    (tmp_path / "config.yml").write_text(configured({"zoo": str(zoo)}).model_dump_json())
    record(read_config(tmp_path / "config.yml"), tmp_path / "recorded")
    assert compare(base, tmp_path / "recorded").agree
