"""The out-of-distribution score against scikit-learn and scipy, and on planted activations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from stitch_sweep.measuring.outliers import OutlierScores, fit_detector


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


MIXING = draw(6, 6, seed=9)
CENTERS = 2 * draw(3, 6, seed=8)


def activations(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A receiver's activations of three classes [count, 6], and their labels; class 2 is rare."""
    labels = torch.arange(count) % 5 % 3
    return CENTERS[labels] + draw(count, 6, seed=seed) @ MIXING + 5, labels


def scores(own: Tensor, **stitched: Tensor) -> dict[str, float]:
    """The scores under a detector of the activations of seed 0."""
    measured = OutlierScores(fit_detector([activations(2000, 0)]), "own", stitched)
    measured.add({"own": own, **stitched})
    return measured.result()


def test_the_energy_is_the_negative_logarithm_of_a_gaussian_mixture():
    x, labels = activations(40, 0)
    detector = fit_detector(zip(x.split(7), labels.split(7), strict=True))
    assert detector is not None
    shares = [(labels == c).double().mean().item() for c in range(3)]
    means = [x[labels == c].mean(dim=0).numpy() for c in range(3)]
    within = np.concatenate([(x[labels == c].numpy() - means[c]) for c in range(3)])
    covariance = within.var() * np.eye(6)
    other = activations(30, 1)[0].numpy()
    density = sum(
        share * multivariate_normal(mean, covariance).pdf(other)
        for share, mean in zip(shares, means, strict=True)
    )
    energy = detector.energy(torch.from_numpy(other)).numpy()
    # The normalization of the density is left out of the energy.
    difference = energy + np.log(density)
    assert difference == pytest.approx(np.full(30, difference[0]), abs=1e-8)


def test_the_score_is_the_share_of_pairs_with_the_higher_energy_stitched():
    own = activations(50, 1)[0]
    stitched = own + 0.5 * draw(50, 6, seed=2)
    detector = fit_detector([activations(2000, 0)])
    a, b = detector.energy(own), detector.energy(stitched)
    pairs = (b[:, None] > a).double() + (b[:, None] == a).double() / 2
    assert scores(own, s=stitched)["s"] == pytest.approx(pairs.mean().item(), abs=1e-12)


def test_the_receivers_own_activations_are_inside_and_changed_ones_outside():
    own, labels = activations(1000, 1)
    found = scores(
        own,
        same=own,
        fresh=activations(1000, 2)[0],
        means=CENTERS[labels] + 5,
        scaled=3 * own,
        shifted=own + 5 * MIXING[0],
        noisy=own + 6 * draw(1000, 6, seed=3),
        turned=own[:, torch.arange(6).roll(1)],
    )
    assert found.pop("same") == pytest.approx(0.5, abs=1e-12)
    assert found.pop("fresh") == pytest.approx(0.5, abs=0.04)
    assert found.pop("means") < 0.05, "class means are more usual than any image"
    assert found.pop("turned") > 0.7, "many of these activations are still near some class"
    assert min(found.values()) > 0.9, found


def test_values_between_classes_are_outside():
    """The detector knows classes: what lies in the middle of all is unusual, though no value is."""
    centers = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]]).double()
    labels = torch.arange(600) % 3
    own = centers[labels] + draw(600, 3)
    measured = OutlierScores(fit_detector([(own, labels)]), "own", ["middle"])
    middle = torch.full((600, 3), 3.0).double() + draw(600, 3, seed=1)
    measured.add({"own": own, "middle": middle})
    assert measured.result()["middle"] > 0.99


def test_more_noise_is_farther_out():
    own = activations(1000, 1)[0]
    sizes = (0.3, 1.0, 3.0, 10.0)
    found = scores(own, **{f"{size}": own + size * draw(1000, 6, seed=3) for size in sizes})
    values = [0.5, *found.values()]
    assert values == sorted(values)
    assert values[1] < 0.6
    assert values[-1] > 0.99


def test_a_deviation_counts_by_its_size_even_where_the_receiver_never_varies():
    x, labels = activations(500, 0)
    x[:, 2] = 0
    spread = x.std().item()
    measured = OutlierScores(fit_detector([(x, labels)]), "own", ["little", "much"])
    little, much = x.clone(), x.clone()
    little[:, 2], much[:, 2] = 0.01 * spread, 10 * spread
    measured.add({"own": x, "little": little, "much": much})
    assert measured.result()["little"] == pytest.approx(0.5, abs=0.01)
    assert measured.result()["much"] > 0.99


def test_a_rotation_and_a_scale_of_all_activations_change_nothing():
    (x, labels), own = activations(200, 0), activations(60, 1)[0]
    stitched = own + 3 * draw(60, 6, seed=2)
    rotation = torch.linalg.qr(draw(6, 6, seed=4))[0]
    areas = []
    for change in (lambda z: z, lambda z: 100 * z @ rotation - 7):
        measured = OutlierScores(fit_detector([(change(x), labels)]), "own", ["s"])
        measured.add({"own": change(own), "s": change(stitched)})
        areas.append(measured.result()["s"])
    assert areas[0] == pytest.approx(areas[1], abs=1e-3)
    assert 0.5 < areas[0] < 1


def test_the_places_of_a_map_count_and_chunks_do_not():
    """A map whose halves are exchanged has the same channel means."""
    labels = torch.arange(300) % 2
    x = draw(300, 3, 8, 8) + 2 * labels[:, None, None, None]
    x[..., 4:] += 3
    own, exchanged = x[:100], x[:100].flip(3)
    whole = OutlierScores(fit_detector([(x, labels)]), "own", ["exchanged"])
    whole.add({"own": own, "exchanged": exchanged})
    parts = zip(x.split(64), labels.split(64), strict=True)
    chunked = OutlierScores(fit_detector(parts), "own", ["exchanged"])
    for pair in zip(own.split(33), exchanged.split(33), strict=True):
        chunked.add(dict(zip(("own", "exchanged"), pair, strict=True)))
    assert whole.result()["exchanged"] > 0.99
    assert chunked.result() == pytest.approx(whole.result(), abs=1e-3)


def test_fewer_images_than_features_are_enough():
    labels = torch.arange(60) % 2
    x = draw(60, 400) + labels[:, None]
    fresh = draw(60, 400, seed=1) + labels[:, None]
    measured = OutlierScores(fit_detector([(x, labels)]), "own", ["fresh", "scaled"])
    measured.add({"own": fresh, "fresh": draw(60, 400, seed=2), "scaled": 2 * fresh})
    assert measured.result()["fresh"] == pytest.approx(0.5, abs=0.2)
    assert measured.result()["scaled"] > 0.99


def test_without_a_distribution_there_is_no_score():
    labels = torch.arange(20) % 2
    own = draw(20, 4)
    for training in (torch.ones(20, 4).double(), labels[:, None] * own[:1], own * math.nan):
        detector = fit_detector([(training, labels)])
        assert detector is None
        measured = OutlierScores(detector, "own", ["s"])
        measured.add({"own": own, "s": own})
        assert math.isnan(measured.result()["s"])
    assert math.isnan(scores(draw(5, 6), s=draw(5, 6) * math.inf)["s"])
