"""Evaluation does not depend on batch size, order or augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stitch_sweep.data.batches import CHUNK
from stitch_sweep.data.images import Data, Images
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.evaluation import Evaluation, Scores, evaluate


def loader(data: Data, count: int, batch_size: int, augment: str = "none") -> Loader:
    images = data.train.select(torch.arange(count) % len(data.train))
    return Loader(images, data.mean, data.std, batch_size=batch_size, seed=0, augment=augment)


def same(x: Evaluation, y: Evaluation) -> bool:
    return (x.accuracy, x.loss) == (y.accuracy, y.loss) and torch.equal(
        x.predictions, y.predictions
    )


def test_accuracy_and_loss_are_those_of_the_logits(a, digits):
    split = loader(digits, 300, 64)
    found = evaluate(a, split)
    x = (split.images.images.float() / 255 - digits.mean[:, None, None]) / digits.std[:, None, None]
    z = a(x).double().numpy()
    labels = split.images.labels.numpy()
    by_hand = np.log(np.exp(z).sum(axis=1)) - z[np.arange(300), labels]
    assert found.loss == pytest.approx(by_hand.mean(), rel=1e-5)
    assert found.accuracy == (z.argmax(axis=1) == labels).mean()
    assert found.predictions.tolist() == z.argmax(axis=1).tolist()


def test_no_batch_size_order_or_augmentation_moves_an_evaluation(subtests, a, digits):
    for count in (1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 600):
        with subtests.test(str(count)):
            first = evaluate(a, loader(digits, count, 1))
            for batch_size in (7, 64, count):
                assert same(evaluate(a, loader(digits, count, batch_size)), first)
            assert same(evaluate(a, loader(digits, count, 7, augment="crop_flip")), first)
            assert first.predictions.shape == (count,)


def test_padding_is_not_counted(a, digits):
    # The padding repeats the first images: if it counted, errors on these would count twice.
    split = loader(digits, CHUNK + 10, 64)
    right = evaluate(a, split).predictions
    labels = torch.cat([(right[:100] + 1) % 10, right[100:]])
    found = evaluate(a, relabelled(split, Images(split.images.images, labels)))
    assert found.accuracy == (CHUNK + 10 - 100) / (CHUNK + 10)


def relabelled(split: Loader, images: Images) -> Loader:
    return Loader(images, split.mean, split.std, batch_size=split.batch_size, seed=split.seed)


class LastBatchOnly(Scores):
    """A defect of published code: the accuracy of the last batch instead of all batches."""

    def add(self, logits, labels, valid):
        self.__init__()
        super().add(logits, labels, valid)


def test_an_evaluation_of_the_last_chunk_only_would_be_seen(a, digits, monkeypatch):
    split = loader(digits, CHUNK + 10, 64)
    labels = evaluate(a, split).predictions.clone()
    labels[-10:] = (labels[-10:] + 1) % 10  # all wrong in the last chunk, and nowhere else
    wrong_at_the_end = relabelled(split, Images(split.images.images, labels))
    assert evaluate(a, wrong_at_the_end).accuracy == CHUNK / (CHUNK + 10)
    monkeypatch.setattr("stitch_sweep.networks.evaluation.Scores", LastBatchOnly)
    assert evaluate(a, wrong_at_the_end).accuracy == 0


@pytest.mark.parametrize("part", ["", "bn1", "layer3.0.bn2", "fc"])
def test_a_network_with_any_part_in_train_mode_is_refused(a, digits, part):
    a.get_submodule(part).training = True
    with pytest.raises(ValueError, match="eval mode"):
        evaluate(a, loader(digits, 10, 10))


def test_an_evaluation_changes_nothing_and_repeats(a, digits):
    before = {k: v.clone() for k, v in a.state_dict().items()}
    split = loader(digits, 70, 7)
    found = [evaluate(a, split) for _ in range(5)]
    assert all(same(f, found[0]) for f in found)
    assert all(torch.equal(v, before[k]) for k, v in a.state_dict().items())
    assert all(p.grad is None for p in a.parameters())


def test_any_function_of_images_can_be_evaluated(digits):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.eye(10)[torch.full((len(x),), 3)]

    split = loader(digits, 40, 10)
    share = (split.images.labels == 3).double().mean().item()
    assert evaluate(Constant().eval(), split).accuracy == share
    assert evaluate(lambda x: Constant()(x), split).accuracy == share
