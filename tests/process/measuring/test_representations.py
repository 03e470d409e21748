"""EV, ES, SV and out-of-distribution scores, against representations that are computed by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from stitch_sweep.networks.controls import ClassOnly
from stitch_sweep.networks.cutting.traced import create_sub_network
from stitch_sweep.stitches.storage import load_stitch
from tests.support.measured_sweep import (
    best,
    networks,
    normalised,
    table,
)


@pytest.mark.parametrize(
    ("sender", "i", "j"), [("a", 1, -1), ("a", 1, 2), ("r", 2, 2), ("c", 3, 2)]
)
def test_ev_es_and_sv_are_plain_means_over_validation_images(measured, sender, i, j):
    folder = measured.folder.parent
    data, modules, _ = networks(folder)
    images = normalised(data, "validation")
    with torch.no_grad():
        if sender == "c":
            shapes = [
                create_sub_network(modules["b"], -1, k)(images[:1]).shape[1:] for k in range(5)
            ]
            control = ClassOnly([list(shape) for shape in shapes], seed=2, noise=1.0)
            sent = control(i, "validation", torch.arange(len(images)), data.validation.labels)
        else:
            sent = create_sub_network(modules[sender], -1, i)(images)
        expected = images if j == -1 else create_sub_network(modules["b"], -1, j)(images)
        stitched = {}
        for loss in ("task", "mse"):
            trial = best(folder, sender, i, j, loss)["trial"]
            stitched[loss] = load_stitch(folder / "stitches" / f"{trial}.safetensors")(sent)
    e, v, s = (x.double().numpy() for x in (expected, stitched["task"], stitched["mse"]))
    result = table(measured, "representations")
    is_row = (
        (result["sender"] == sender)
        & (result["sender_layer"] == i)
        & (result["receiver_layer"] == j)
    )
    row = result[is_row & (result["similarity_loss"] == "mse")].iloc[0]
    variance = np.mean([e[:, c].var() for c in range(e.shape[1])])
    for name, difference in {"ev": e - v, "es": e - s, "sv": s - v}.items():
        assert row[name] == pytest.approx(np.mean(difference**2), rel=1e-6)
        assert row[f"{name}_relative"] == pytest.approx(np.mean(difference**2) / variance, rel=1e-6)
    assert (row["es_raw"], row["sv_raw"], row["calibration"]) == (row["es"], row["sv"], "none")


def grid(maps: torch.Tensor) -> np.ndarray:
    """Means over the cells of a 4 x 4 grid, [images, features]."""
    count, channels, height, width = maps.shape
    cells = maps.double().reshape(count, channels, 4, height // 4, 4, width // 4)
    return cells.mean(dim=(3, 5)).flatten(1).numpy()


def test_out_of_distribution_scores_are_areas_under_a_gaussian_mixture(measured):
    """By scipy, with the receiver's own representations of the training images."""
    folder = measured.folder.parent
    data, modules, _ = networks(folder)
    receive, send = (create_sub_network(modules[n], -1, k) for n, k in (("b", 2), ("a", 1)))
    labels = data.train.labels.numpy()
    with torch.no_grad():
        known = grid(receive(normalised(data, "train")))
        images = normalised(data, "validation")
        own = grid(receive(images))
        rows = {}
        for loss in ("task", "mse"):
            trial = best(folder, "a", 1, 2, loss)["trial"]
            rows[loss] = grid(
                load_stitch(folder / "stitches" / f"{trial}.safetensors")(send(images))
            )
    means = {c: known[labels == c].mean(axis=0) for c in np.unique(labels)}
    within = known - np.stack([means[c] for c in labels])
    covariance = within.var() * np.eye(within.shape[1])

    def energy(x: np.ndarray) -> np.ndarray:
        logs = [
            np.log((labels == c).mean()) + multivariate_normal(means[c], covariance).logpdf(x)
            for c in means
        ]
        return -logsumexp(np.stack(logs), axis=0)

    result = table(measured, "representations").query(
        "sender == 'a' and sender_layer == 1 and receiver_layer == 2 and similarity_loss == 'mse'"
    )
    for name, loss in {"ood_task": "task", "ood_similarity": "mse"}.items():
        difference = energy(rows[loss])[:, None] - energy(own)
        area = (difference > 0).mean() + (difference == 0).mean() / 2
        assert result[name].item() == pytest.approx(area, abs=2e-3), name


def test_scores_are_shares(measured):
    scores = table(measured, "representations")[["ood_task", "ood_similarity"]]
    assert scores.notna().all().all()
    assert scores.min().min() >= 0
    assert scores.max().max() <= 1


def test_they_are_what_the_trials_measured_of_themselves(measured):
    """Other code computes `val_mse` at the end of a trial."""
    results = pd.read_parquet(measured.folder.parent / "results.parquet").set_index("trial")
    for row in table(measured, "representations").to_dict("records"):
        task, other = results.loc[row["task_trial"]], results.loc[row["similarity_trial"]]
        assert (task["loss"], other["loss"]) == ("task", row["similarity_loss"])
        assert row["ev"] == pytest.approx(task["val_mse"], rel=1e-9)
        assert row["ev_relative"] == pytest.approx(task["val_relative_mse"], rel=1e-9)
        assert row["es_raw"] == pytest.approx(other["val_mse"], rel=1e-9)


def test_a_blind_loss_is_compared_behind_its_calibration(measured):
    """Correlation ignores scale and shift per channel: fit them by least squares on training images."""
    folder = measured.folder.parent
    data, modules, _ = networks(folder)
    trial = best(folder, "a", 3, 2, "correlation")["trial"]
    stitch = load_stitch(folder / "stitches" / f"{trial}.safetensors")
    made, wanted = {}, {}
    with torch.no_grad():
        for split in ("train", "validation"):
            images = normalised(data, split)
            made[split] = stitch(create_sub_network(modules["a"], -1, 3)(images)).double().numpy()
            wanted[split] = create_sub_network(modules["b"], -1, 2)(images).double().numpy()
    errors = []
    for c in range(made["train"].shape[1]):
        x, y = made["train"][:, c].ravel(), wanted["train"][:, c].ravel()
        slope = max(0.0, np.cov(x, y, ddof=0)[0, 1] / x.var()) if x.var() else 0.0
        shift = y.mean() - slope * x.mean()
        errors.append((wanted["validation"][:, c] - slope * made["validation"][:, c] - shift) ** 2)
    result = table(measured, "representations").set_index("similarity_trial").loc[trial]
    assert result["calibration"] == "channel_affine"
    assert result["es"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert result["es"] < result["es_raw"]
