"""The control `logits_only`: a sender that knows what linear probes read, and no more."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.images import Data, Images
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.controls import freeze
from stitch_sweep.networks.frozen import FrozenError, FrozenNetwork
from stitch_sweep.networks.logits_only import FOLDS, LogitsOnly, LogitsOnlySender, Probes
from stitch_sweep.networks.pooling import pooled
from stitch_sweep.networks.probe_fitting import fit_probes
from stitch_sweep.networks.zoo import Zoo, load
from stitch_sweep.plan.prepare import add_probes, prepare, provide_networks
from stitch_sweep.storage.digests import fingerprint
from tests.support.networks_controls import BASE, SHAPES, config
from tests.support.train_stitch import train_stitch

UNLIKELY = 1e-6
"""Probability that a correct implementation fails a statistical test, for a random seed."""


def fitted(network: nn.Module, data: Data, seed: int = 0) -> LogitsOnly:
    probes = Probes(SHAPES, data.num_classes, seed=seed)
    fit_probes(probes, network, data, threads=1)
    return LogitsOnly(network, probes)


def relabeled(images: Images, seed: int) -> Images:
    """The same images with labels that have nothing to do with them."""
    labels = torch.randint(10, (len(images),), generator=torch.Generator().manual_seed(seed))
    return replace(images, labels=labels)


def read_labels(sender: LogitsOnlySender, data: Data, split: str, layer: int) -> float:
    """Return how often the layer's log-probabilities name the class."""
    right = 0
    for batch in make_loaders(data, 256, seed=0)[split].in_order():
        representation = FrozenNetwork(sender.network.network).represent(layer, batch)
        found = sender.network.probes.log_probabilities(layer, representation, batch.indices)
        right += int((found.argmax(dim=1) == batch.labels)[: batch.valid].sum())
    return right / len(getattr(data, split))


@pytest.fixture(scope="module")
def sender(trained, digits):
    return freeze(fitted(trained["a"], digits), "network 'p'")


def test_probes_tell_no_image_its_own_label(a, digits):
    """With random labels, a probe of its own images would name more of them than chance does."""
    noise = replace(
        digits, **{name: relabeled(getattr(digits, name), 1) for name in ("train", "validation")}
    )
    sender = freeze(fitted(a, noise), "p")
    count = len(noise.train)
    most = stats.binom.isf(UNLIKELY, count, 0.1) / count
    least = stats.binom.ppf(UNLIKELY, count, 0.1) / count
    for layer in range(len(SHAPES)):
        assert least < read_labels(sender, noise, "train", layer) < most
    # The other fold's probes, which were fitted on these images, do name them.
    probes = sender.network.probes
    for layer in range(len(SHAPES)):
        for name in ("weight", "bias"):
            buffer = probes.get_buffer(f"{name}{layer}")
            buffer.copy_(buffer.flip(0))
    assert read_labels(sender, noise, "train", 3) > most


def test_probes_are_as_good_as_those_of_scikit_learn(sender, digits):
    loaders = make_loaders(digits, 256, seed=0)
    network = FrozenNetwork(sender.network.network)

    def features(split, layer):
        chunks = [
            pooled(network.represent(layer, batch))[: batch.valid]
            for batch in loaders[split].in_order()
        ]
        return torch.cat(chunks).numpy(), getattr(digits, split).labels.numpy()

    count = len(digits.test)
    for layer in (0, 2, 4):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        x, y = features("train", layer)
        # The probes see half of the training images each.
        expected = classifier.fit(x[::FOLDS], y[::FOLDS]).score(*features("test", layer))
        found = read_labels(sender, digits, "test", layer)
        spread = (expected * (1 - expected) / count) ** 0.5
        assert abs(found - expected) < 4 * spread + 0.02


def test_a_representation_is_a_linear_map_of_the_log_probabilities(sender, digits):
    """All representations of a layer lie in a space of K - 1 dimensions and have unit variance."""
    batch = next(make_loaders(digits, 256, seed=0)["train"].in_order())
    for layer, shape in enumerate(SHAPES):
        found = sender.represent(layer, batch)
        assert found.shape == (256, *shape) == (256, *sender.shape(layer, (1, 16, 16)))
        flat = found.flatten(1).double()
        assert torch.linalg.matrix_rank(flat, rtol=1e-4) <= 10
        # An entry's variance is that of sum_c z_c P_c, whose mean over entries is 1.
        assert flat.var(dim=0).mean().item() == pytest.approx(1, abs=0.5)


def test_another_seed_has_other_prototypes_of_the_same_probes(a, digits, sender):
    other = freeze(fitted(a, digits, seed=1), "q")
    batch = next(make_loaders(digits, 256, seed=0)["test"].in_order())
    assert torch.equal(sender.represent(None, batch), other.represent(None, batch))
    one, two = (s.represent(2, batch).flatten() for s in (sender, other))
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 0.2


def test_its_own_accuracy_is_that_of_the_last_layers_probes(sender, digits):
    loader = make_loaders(digits, 256, seed=0)["test"]
    found = sender.evaluate(loader)
    assert found.accuracy == pytest.approx(read_labels(sender, digits, "test", 4))
    assert found.accuracy > 0.5


def test_a_stitch_reaches_what_the_probe_reads_and_no_more(a, b, digits):
    """Into the last layer the stitched network is a classifier of the log-probabilities."""
    module = fitted(a, digits)
    result = train_stitch(module, b, sender_layer=4, receiver_layer=4, data=digits)
    assert result.status == "finished"
    own = result.metrics["sender_accuracy"]
    assert result.metrics["test_accuracy"] == pytest.approx(own, abs=0.06)


@pytest.mark.parametrize("name", ["probes.weight2", "probes.mean0", "network.fc.weight"])
def test_a_change_is_noticed_and_named(a, digits, name):
    module = LogitsOnly(a, Probes(SHAPES, 10))
    sender = freeze(module, "network 'p'")
    sender.verify()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    tensors[name].data.add_(1)
    with pytest.raises(FrozenError, match=f"network 'p': {name} changed"):
        sender.verify()


@pytest.mark.parametrize("layer", [-1, 5])
def test_a_layer_that_is_not_there(sender, digits, layer):
    batch = next(make_loaders(digits, 256, seed=0)["test"].in_order())
    with pytest.raises(InputError, match=f"'p' has layers 0 to 4, not {layer}"):
        sender.represent(layer, batch)


def test_the_zoo_keeps_probes_and_other_weights_have_other_ones(tmp_path, monkeypatch):
    def given(seed: int) -> Config:
        networks = [{**BASE["networks"][0], "seed": seed}, BASE["networks"][1]]
        return config(
            networks=networks,
            controls=["logits_only"],
            pretraining={"epochs": 1},
            zoo=str(tmp_path / "zoo"),
        )

    first = provide_networks(prepare(given(0)))
    assert list(first) == ["a", "b", "a-logits-only"]
    with monkeypatch.context() as patch:
        patch.setattr("stitch_sweep.plan.prepare.fit_probes", None)
        again = provide_networks(prepare(given(0)))
    assert fingerprint(first["a-logits-only"]) == fingerprint(again["a-logits-only"])
    for folder in (tmp_path / "zoo").glob("resnet-*logits_only*"):
        shutil.rmtree(folder)
    prepared = prepare(given(0))
    before = torch.get_rng_state()
    fitted_again = add_probes(prepared, {name: first[name] for name in "ab"})
    assert torch.equal(torch.get_rng_state(), before), (
        "a fit changes nothing in its caller's process"
    )
    assert fingerprint(first["a-logits-only"]) == fingerprint(fitted_again["a-logits-only"])
    other = provide_networks(prepare(given(7)))
    assert fingerprint(first["a-logits-only"]) != fingerprint(other["a-logits-only"])
    entries = [e for e in Zoo(tmp_path / "zoo").entries() if e.recipe["weights"] == "logits_only"]
    assert len(entries) == 2
    with pytest.raises(InputError, match="contains linear probes"):
        load(entries[0].folder)
