"""The control `class_only`: a sender that knows only the class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.batches import Batch
from stitch_sweep.data.images import Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.controls import ClassOnly, ClassOnlySender, freeze
from stitch_sweep.networks.frozen import FrozenError, FrozenNetwork
from stitch_sweep.storage.digests import fingerprint
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.representations import ActivationCache
from tests.support.networks_controls import SHAPES
from tests.support.train_stitch import train_stitch

UNLIKELY = 1e-9
"""Probability that a correct implementation fails a statistical test, for a random seed."""


def some(count: int = 60, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Return image numbers and labels."""
    numbers = torch.arange(count)
    return numbers, numbers * 7 % classes


class TestClassOnly:
    def test_an_image_has_one_representation_in_every_batch(self, subtests):
        for layer in range(len(SHAPES)):
            with subtests.test(str(layer)):
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
        expected = ClassOnly(SHAPES)(0, "train", numbers, labels)
        others = [
            ClassOnly(SHAPES, seed=1)(0, "train", numbers, labels),
            ClassOnly(SHAPES)(1, "train", numbers, labels),
            ClassOnly(SHAPES)(0, "test", numbers, labels),
            ClassOnly(SHAPES)(0, "train", numbers + 2, labels),
            ClassOnly(SHAPES)(0, "train", numbers, labels + 1),
        ]
        bound = -stats.norm.ppf(UNLIKELY) / np.sqrt(np.prod(shape))
        for other in others:
            assert other.shape == expected.shape
            # They may share half of the variance (noise or prototype), but not all of it.
            r = np.corrcoef(expected.flatten(), other.flatten())[0, 1]
            assert r < 0.5 + 2 * bound

    def test_the_mean_of_a_class_is_its_prototype(self):
        """The mean of n images of a class is the prototype plus N(0, s^2 / n) in every entry."""
        layer, noise, n = 2, 0.5, 400
        entries = int(np.prod(SHAPES[layer]))
        numbers, labels = torch.arange(n), torch.full((n,), 4)
        images = ClassOnly(SHAPES, seed=1, noise=noise)(layer, "train", numbers, labels)
        (prototype,) = ClassOnly(SHAPES, seed=1, noise=0)(layer, "test", numbers[:1], labels[:1])
        off = ((images.double().mean(dim=0) - prototype) / noise).square().sum().item() * n
        assert stats.chi2.ppf(UNLIKELY, entries) < off < stats.chi2.isf(UNLIKELY, entries)
        # The rest of every image is noise with the given standard deviation.
        noise_left = ((images - prototype).double() / noise).square().sum().item()
        every = n * entries
        assert stats.chi2.ppf(UNLIKELY, every) < noise_left < stats.chi2.isf(UNLIKELY, every)

    def test_prototypes_are_standard_normal_and_independent(self):
        layer, classes = 1, 10
        numbers = labels = torch.arange(classes)
        found = ClassOnly(SHAPES, noise=0)(layer, "train", numbers, labels).flatten(1).double()
        assert stats.kstest(found.flatten(), "norm").pvalue > UNLIKELY
        r = torch.corrcoef(found)[~torch.eye(classes, dtype=torch.bool)]
        assert r.abs().max() < -stats.norm.ppf(UNLIKELY / classes**2) / found.shape[1] ** 0.5

    def test_images_of_one_class_differ_by_noise_only(self):
        """The noise of an image does not depend on its class."""
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
        indices, labels = some(2)
        with pytest.raises(InputError, match="'c' knows only the class, and has no logits"):
            sender.represent(None, Batch(torch.zeros(2), labels, indices, "train", valid=2))

    def test_the_class_can_be_read_from_every_layer(self, subtests, digits):
        """The nearest class mean of the training images classifies every test image correctly.

        The prototypes of two classes are sqrt(2 D) apart, and the error of the means is small beside the
        noise, so an image is misread with a probability of about Q(sqrt(D / 2)), below 1e-15 at D = 128.
        """
        for layer in range(len(SHAPES)):
            with subtests.test(str(layer)):
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
        """With the label, it is more accurate than the receiver, which sees only the image."""
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
        """Other images with the same labels train the same stitch, bit for bit."""
        chosen = settings(epochs=2, batch_size=32)
        plain = trained_on(ClassOnly(SHAPES), b, digits, chosen)
        augmented = trained_on(ClassOnly(SHAPES), b, digits, chosen, augment="crop_flip")
        piecemeal = trained_on(ClassOnly(SHAPES), b, digits, chosen, limit=0)
        expected = plain.stitch.state_dict()
        for other in (augmented, piecemeal):
            assert all(torch.equal(t, expected[n]) for n, t in other.stitch.state_dict().items())
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
        with pytest.raises(InputError, match="receiver can only send, not receive"):
            train_stitch(b, ClassOnly(SHAPES), sender_layer=0, receiver_layer=0, data=digits)


def test_a_network_represents_the_images_of_a_batch(a, digits):
    frozen = FrozenNetwork(a)
    loader = Loader(digits.test, digits.mean, digits.std, batch_size=8, seed=0, split="test")
    batch = next(loader.batches(0))
    assert torch.equal(frozen.represent(2, batch), frozen.prefix(2)(batch.images))


def test_every_loader_knows_its_split(digits):
    assert {k: loader.split for k, loader in make_loaders(digits, 8, seed=0).items()} == {
        "train": "train",
        "validation": "validation",
        "test": "test",
    }
