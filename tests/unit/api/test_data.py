"""The forms of data that the Python API takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset

from stitch_sweep.api.data import data_section
from stitch_sweep.config.data import DataConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import load
from tests.support.api import make_images


class Pictures(Dataset):
    """Pillow images with labels, as torchvision's data sets give them."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, noise: bool = False) -> None:
        self.images, self.labels, self.noise = images, labels, noise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int):
        pixels = self.images[k, 0].numpy()
        if self.noise:
            pixels = pixels + np.random.default_rng().integers(0, 9, pixels.shape, dtype=np.uint8)
        return Image.fromarray(pixels), int(self.labels[k])


def loaded(data: object) -> Data:
    return load(DataConfig.model_validate(data_section(data)))


def test_all_forms_of_the_same_images_are_the_same_data():
    images, labels = make_images()
    everything = TensorDataset(images, labels)
    forms = {
        "arrays": (images.numpy(), labels.numpy()),
        "a list of labels": [images, labels.tolist()],
        "channels last": (images.movedim(1, 3).numpy(), labels),
        "without channels": (images[:, 0], labels),
        "whole numbers": (images.long(), labels.int()),
        "a data set": everything,
        "Pillow images": Pictures(images, labels),
        "a shuffling loader": DataLoader(everything, batch_size=7, shuffle=True),
        "a loader of all indices": DataLoader(
            everything, sampler=SubsetRandomSampler(range(len(images)))
        ),
        "a mapping": {"train": (images, labels)},
    }
    expected = loaded((images, labels)).fingerprint
    assert {name: loaded(form).fingerprint == expected for name, form in forms.items()} == (
        dict.fromkeys(forms, True)
    )


def test_floats_reach_networks_as_they_are_given():
    images, labels = make_images()
    scaled = images / 255
    for given in (scaled, (scaled - 0.4) / 0.3, 1000 * scaled - 7):
        data = loaded((given, labels))
        loader = Loader(data.test, data.mean, data.std, batch_size=8, seed=0, split="test")
        batches = [batch.images[: batch.valid] for batch in loader.in_order()]
        # The test images are a subset of the given ones, in their order.
        assert data.notes == ()
        seen = torch.cat(batches)
        distances = (given[:, None] - seen).abs().amax((2, 3, 4)) / (given.max() - given.min())
        assert distances.min(dim=0).values.max() < 1e-5


def test_floats_of_many_levels_are_rounded_with_a_note():
    labels = torch.arange(80) % 4
    images = torch.rand(80, 3, 8, 8)
    (note,) = loaded((images, labels)).notes
    assert "rounded to 256 levels" in note


def test_given_splits_are_used_as_they_are():
    splits = {name: make_images(40, seed) for seed, name in enumerate(("train", "validation"))}
    splits["test"] = make_images(20, 2)
    data = loaded(splits)
    for name, (images, labels) in splits.items():
        assert torch.equal(getattr(data, name).images, images), name
        assert torch.equal(getattr(data, name).labels, labels), name


def test_without_test_images_a_quarter_of_each_class_is_held_out():
    images, labels = make_images(160)
    data = loaded((images, labels))
    assert torch.bincount(data.test.labels).tolist() == [10] * 4
    assert len(data.train) + len(data.validation) == 120


def test_keys_of_the_section_apply_to_given_images():
    images, labels = make_images()
    data = loaded({"train": (images, labels), "image_size": 16, "train_images": 40})
    assert (data.image_size, len(data.train)) == (16, 40)


def test_labels_may_be_names():
    images, labels = make_images()
    names = np.array(["bee", "ant", "cat", "dog"])[labels.numpy()]
    data = loaded((images, names))
    assert data.classes == ("ant", "bee", "cat", "dog")
    everything = loaded({"train": (images, names), "test": (images, names)})
    assert [everything.classes[k] for k in everything.test.labels] == names.tolist()


def test_names_and_sections_are_passed_on():
    assert data_section("digits") == {"name": "digits"}
    assert data_section({"name": "digits", "image_size": 16}) == {
        "name": "digits",
        "image_size": 16,
    }


def test_wrong_data_is_explained():
    images, labels = make_images()
    everything = TensorDataset(images, labels)
    cases = {
        "is a int; allowed": 3,
        "training images are missing": {"test": (images, labels)},
        "unknown key 'trian': did you mean 'train'": {"trian": (images, labels)},
        "160 images have 159 labels": (images, labels[1:]),
        "labels.argmax(1)": (images, torch.eye(4)[labels]),
        "labels are float32": (images, labels.float()),
        "are not square": (images[:, :, :4], labels),
        "whole numbers from 0 to 299": (torch.arange(300).repeat(1, 1, 300, 1).int(), [0]),
        "NaN": (torch.full((8, 1, 8, 8), torch.nan), torch.arange(8)),
        "images have the shape [160]": (labels, labels),
        "random augmentation": Pictures(images, labels, noise=True),
        "collate_fn": DataLoader(everything, collate_fn=lambda batch: batch),
        "has no images": Pictures(images[:0], labels[:0]),
        "item 0 is a dict": Subset([{"image": 1}], [0]),
        "those of train": {"train": (images, labels), "test": (images[:, :, :4, :4], labels)},
    }
    for text, data in cases.items():
        with pytest.raises(InputError) as raised:
            data_section(data)
        assert text in str(raised.value), text


def test_images_that_this_process_lacks_are_explained():
    with pytest.raises(InputError, match="were given in Python, and no file contains them"):
        load(DataConfig.model_validate({"name": "in_memory", "sha256": "0" * 16}))
