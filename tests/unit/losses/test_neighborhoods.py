"""Neighborhood measures against scikit-learn's neighbors, and their mathematical properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import NearestNeighbors

import stitch_sweep as ss
from stitch_sweep.losses.measures import SimilarityMeasures
from stitch_sweep.losses.neighborhoods import (
    MAX_IMAGES,
    NEIGHBORHOOD_MEASURES,
    Neighborhoods,
    neighborhood_measures,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def related(n: int, p: int, q: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """x [n, p] and y [n, q] that share a part, with cosines of both signs."""
    x = draw(n, p, seed=seed)
    return x, x @ draw(p, q, seed=seed + 1) + 2 * draw(n, q, seed=seed + 2)


def values(x: torch.Tensor, y: torch.Tensor, k: int = 10) -> dict[str, float]:
    measured = neighborhood_measures(x, y, k)
    assert measured is not None
    return {name: value.item() for name, value in measured.items()}


def by_definition(x: torch.Tensor, y: torch.Tensor, k: int) -> dict[str, float]:
    """The measures from scikit-learn's neighbors and distances, image by image."""
    sides = [side.double().numpy() for side in (x, y)]
    neighbors = []
    for side in sides:
        search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(side)
        # Without an argument, an image isn't its own neighbor.
        neighbors.append([set(row) for row in search.kneighbors(return_distance=False)])
    distances = [cosine_distances(side) for side in sides]
    jaccard, overlap, second = [], [], []
    for i, (a, b) in enumerate(zip(*neighbors, strict=True)):
        union = sorted(a | b)
        u, v = (side[i, union] for side in distances)
        jaccard.append(len(a & b) / len(union))
        overlap.append(len(a & b) / k)
        second.append(u @ v / (np.linalg.norm(u) * np.linalg.norm(v)))
    return {
        "jaccard_knn": np.mean(jaccard),
        "second_order_cosine": np.mean(second),
        "knn_agreement": np.mean(overlap),
    }


@pytest.mark.parametrize(
    ("n", "p", "q", "k"),
    [(12, 4, 9, 10), (60, 7, 7, 3), (90, 5, 40, 10), (700, 6, 3, 10), (40, 5000, 20, 5)],
)
def test_values_are_those_of_the_definition(n, p, q, k):
    """With more images than a block of rows, and more units than a slice of columns."""
    x, y = related(n, p, q)
    measured = values(x, y, k)
    assert measured == pytest.approx(by_definition(x, y, k), abs=1e-12)
    assert 0 < measured["jaccard_knn"] < measured["knn_agreement"] <= 1


def test_float32_counts_the_same_neighbors():
    x, y = (side.float() for side in related(120, 64, 32))
    assert values(x, y) == pytest.approx(by_definition(x, y, 10), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_rotation_scale_and_order_of_images_change_nothing(seed):
    x, y = related(80, 6, 9, seed)
    before = values(x, y)
    rotation = torch.linalg.qr(draw(9, 9, seed=seed))[0]
    order = torch.randperm(80, generator=torch.Generator().manual_seed(seed))
    lengths = draw(80, 1, seed=seed + 5).exp()
    for name, other in {
        "rotation": (x, y @ rotation),
        "one scale": (1e-3 * x, 1e4 * y),
        "a scale of each image": (x * lengths, y),
        "order": (x[order], y[order]),
        "exchange": (y, x),
    }.items():
        assert values(*other) == pytest.approx(before, abs=1e-9), name


def test_a_shift_and_a_stretched_unit_are_seen():
    x, y = related(80, 6, 6)
    before = values(x, y)
    stretched = y * torch.tensor([1.0, 1, 1, 1, 1, 30])
    for other in (y + 3, stretched):
        after = values(x, other)
        assert all(abs(after[name] - before[name]) > 1e-3 for name in NEIGHBORHOOD_MEASURES)


def test_a_representation_is_like_itself_and_a_rotation_of_itself():
    x = draw(50, 8)
    for other in (x, 5 * x @ torch.linalg.qr(draw(8, 8))[0]):
        assert values(x, other) == pytest.approx(dict.fromkeys(NEIGHBORHOOD_MEASURES, 1.0))


def circle(places: torch.Tensor, count: int) -> torch.Tensor:
    angles = 2 * math.pi * places.double() / count
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_neighbors_on_a_circle_are_the_two_adjacent_images():
    count = 31
    images = torch.arange(count)
    plain = circle(images, count)
    # Steps of 2 make i ± 16 adjacent; exchanging the places of two images changes six neighborhoods.
    assert values(plain, circle(2 * images, count), k=2)["knn_agreement"] == 0
    swapped = images.clone()
    swapped[[0, 10]] = swapped[[10, 0]]
    # 0 and 10 keep no neighbor, and each of their four neighbors 30, 1, 9, 11 keeps one.
    measured = values(plain, circle(swapped, count), k=2)
    assert measured["knn_agreement"] == pytest.approx((25 + 4 / 2) / count)
    assert measured["jaccard_knn"] == pytest.approx((25 + 4 / 3) / count)


def test_unrelated_representations_are_at_chance():
    n, k = 41, 10
    measured = [values(draw(n, 5, seed=2 * s), draw(n, 5, seed=2 * s + 1), k) for s in range(200)]
    agreement = np.array([m["knn_agreement"] for m in measured])
    assert abs(agreement.mean() - k / (n - 1)) < 4 * agreement.std() / math.sqrt(len(agreement))
    # By Jensen's inequality, because a / (2k - a) is convex.
    jaccard = np.mean([m["jaccard_knn"] for m in measured])
    chance = k / (n - 1)
    assert chance / (2 - chance) < jaccard < chance


def test_too_few_images_are_refused():
    x = draw(12, 3)
    assert neighborhood_measures(x, x) is not None
    for bad in (lambda: neighborhood_measures(x[:11], x[:11]), lambda: values(x, x, k=0)):
        with pytest.raises(ValueError, match=r"at least k \+ 2 images are required"):
            bad()
    with pytest.raises(ValueError, match="x has 12 images and y has 11"):
        neighborhood_measures(x, x[:11])


def test_equal_images_are_at_no_distance():
    """Every image occurs 12 times, so all neighbors of an image are its copies."""
    x = torch.eye(4).double().repeat(12, 1)
    measured = values(x, 2 * x)
    assert measured == pytest.approx(dict.fromkeys(NEIGHBORHOOD_MEASURES, 1.0))


def test_no_value_where_no_image_is_nearer_than_another():
    x = draw(20, 3)
    for other in (torch.ones(20, 3).double(), torch.zeros(20, 4).double(), x * math.nan):
        assert neighborhood_measures(x, other) is None
        assert neighborhood_measures(other, x) is None
    dead = x.clone()
    dead[:4] = 0
    assert all(math.isfinite(value) for value in values(x, dead).values())


# Whole sets


@pytest.mark.parametrize("sizes", [(1, 299, 300), (600,), (512, 88)])
def test_the_first_512_images_are_compared_in_any_chunks(sizes):
    x, y = related(600, 6, 7)
    neighborhoods = Neighborhoods()
    for part in zip(x.split(list(sizes)), y.split(list(sizes)), strict=True):
        neighborhoods.add(*part)
    assert neighborhoods.images == MAX_IMAGES == 512
    assert neighborhoods.result() == neighborhood_measures(x[:512], y[:512])


def test_beyond_its_memory_fewer_images_are_compared():
    x, y = related(60, 6, 10)
    neighborhoods = Neighborhoods(limit_bytes=30 * 8 * 16)
    for part in zip(x.split(16), y.split(16), strict=True):
        neighborhoods.add(*part)
    assert neighborhoods.images == 30
    assert neighborhoods.result() == neighborhood_measures(x[:30], y[:30])
    tiny = Neighborhoods(limit_bytes=8 * 16)
    tiny.add(x, y)
    assert tiny.images == 1
    assert tiny.result() is None


def test_a_trial_measures_images_not_positions():
    x = draw(40, 3, 4, 4).float()
    y = x + draw(40, 3, 4, 4, seed=1).float()
    measures = SimilarityMeasures()
    for part in zip(x.split(7), y.split(7), strict=True):
        measures.add(*part)
    result = measures.result()
    expected = by_definition(x.flatten(1), y.flatten(1), 10)
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert result["knn_images"] == 40


def test_a_trial_with_too_few_images_has_no_value():
    measures = SimilarityMeasures()
    measures.add(draw(11, 5), draw(11, 5, seed=1))
    result = measures.result()
    assert result["knn_images"] == 11
    assert all(math.isnan(result[name]) for name in NEIGHBORHOOD_MEASURES)


def test_layers_of_different_shapes_are_compared():
    x, y = draw(50, 3, 4, 4), draw(50, 7)
    expected = by_definition(x.flatten(1), y, 10)
    for name in NEIGHBORHOOD_MEASURES:
        assert ss.similarity(x, y, name) == pytest.approx(expected[name], abs=1e-12)
