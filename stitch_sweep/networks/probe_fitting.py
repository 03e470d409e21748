"""Fit the probes of the control `logits_only`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.core.seeding import generator, seed_everything
from stitch_sweep.data.batches import CHUNK
from stitch_sweep.data.images import Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.cutting.points import LayerNames
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.networks.logistic_regression import fit_logistic
from stitch_sweep.networks.logits_only import FOLDS, LogitsOnly, LogitsOnlySender, Probes
from stitch_sweep.networks.pooling import pooled
from stitch_sweep.networks.pretraining import Progress
from stitch_sweep.storage.checkpoints import pack

PENALTIES = (1e-1, 3e-2, 1e-2)
"""Weights of the L2 penalty; see `fit_logistic`. The validation images choose one."""
RIDGE = 1e-3
MAX_VALUES = 2**25
"""Largest number of values of a layer's features, images times length: 128 MiB. With more, its probes are
fitted on a part of the training images."""


@torch.no_grad()
def fit_probes(
    probes: Probes,
    network: nn.Module,
    data: Data,
    *,
    threads: int,
    layer_names: LayerNames = None,
) -> Progress:
    """Fit probes of all layers of a network, on the CPU.

    Each probe is a multinomial logistic regression on pooled features. The probe of fold f is fitted on
    the training images whose position modulo `FOLDS` isn't f, so the log-probabilities of no image come
    from a probe that was fitted on it: a probe of its own images would tell their labels to the stitch.

    Args:
        probes: are fitted in place.
        network: in eval mode, on the CPU.
        data: the images, on the CPU.
        threads: torch's intra-op threads; they decide the last bits.
        layer_names: cut points that are the network's layers; see `FrozenNetwork`.

    Returns:
        A finished training: the weights of the probes, and the accuracies of the last layer's.
    """
    seed_everything(0, threads)
    frozen = FrozenNetwork(network, "probed network", layer_names)
    loaders = make_loaders(data, CHUNK, seed=0)
    layers = len(probes.shapes)
    train, validation = (
        _read_features(frozen, loaders[split], probes.features) for split in ("train", "validation")
    )
    for layer in range(layers):
        _fit_layer(probes, layer, train, validation)
    sender = LogitsOnlySender(LogitsOnly(network, probes), layer_names=layer_names)
    accuracy = {split: sender.evaluate(loader).accuracy for split, loader in loaders.items()}
    return Progress(
        0,
        0,
        float("nan"),
        accuracy["validation"],
        weights=pack({"model": dict(probes.state_dict())}),
        accuracy=accuracy,
    )


class _Features(NamedTuple):
    """Features of every layer, [N_i, D_i], and labels and positions in the split, int64 [N].

    The features of a layer are those of the first N_i images.
    """

    layers: list[Tensor]
    labels: Tensor
    indices: Tensor


def _read_features(network: FrozenNetwork, loader: Loader, lengths: Sequence[int]) -> _Features:
    """Read the features of every layer; `lengths` has their D_i."""
    limits = [max(1, MAX_VALUES // length) for length in lengths]
    found: list[list[Tensor]] = [[] for _ in lengths]
    labels, indices = list[Tensor](), list[Tensor]()
    # In random order, so that a part of the images has images of all folds and classes.
    order = torch.randperm(len(loader.images), generator=generator("images of probes"))
    for batch in loader.in_order(limit=max(limits), order=order):
        x, seen = batch.images, CHUNK * len(labels)
        for layer, limit in enumerate(limits):
            x = network.part(layer - 1, layer)(x)
            if seen < limit:
                found[layer].append(pooled(x)[: min(batch.valid, limit - seen)].float())
        labels.append(batch.labels[: batch.valid])
        indices.append(batch.indices[: batch.valid])
    return _Features([torch.cat(chunks) for chunks in found], torch.cat(labels), torch.cat(indices))


def _fit_layer(probes: Probes, layer: int, train: _Features, validation: _Features) -> None:
    """Fit the probes of one layer, and the mean and scale of their log-probabilities."""
    x, x_validation = train.layers[layer], validation.layers[layer]
    labels, labels_validation = train.labels[: len(x)], validation.labels[: len(x_validation)]
    weight, bias = probes.get_buffer(f"weight{layer}"), probes.get_buffer(f"bias{layer}")
    held_out = torch.empty(len(x), probes.classes)
    for fold in range(FOLDS):
        is_held_out = train.indices[: len(x)] % FOLDS == fold
        with torch.enable_grad():
            candidates = [
                (slopes.float(), offset.float())
                for slopes, offset in fit_logistic(
                    x[~is_held_out],
                    labels[~is_held_out],
                    probes.classes,
                    PENALTIES,
                    (RIDGE,),
                )
            ]
        losses = [
            functional.cross_entropy(
                functional.linear(x_validation, *candidate), labels_validation
            ).item()
            for candidate in candidates
        ]
        weight[fold], bias[fold] = candidates[losses.index(min(losses))]
        logits = functional.linear(x[is_held_out], weight[fold], bias[fold])
        held_out[is_held_out] = logits.log_softmax(dim=1)
    variance, mean = torch.var_mean(held_out, dim=0)
    probes.get_buffer(f"mean{layer}").copy_(mean)
    probes.get_buffer(f"scale{layer}").copy_(variance.sum().sqrt())
