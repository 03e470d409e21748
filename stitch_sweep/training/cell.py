"""The objects of a stitch's training: networks, representations, loss, stitch, and final metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.config.stitch import DATA_STARTS
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.splits import SPLITS
from stitch_sweep.data.loader import Loader
from stitch_sweep.losses.base import CombinedLoss, LossContext, explain_missing_teacher
from stitch_sweep.networks.fast.copies import FastNetwork, FastSettings, training_network
from stitch_sweep.networks.frozen import FrozenNetwork, FrozenSender
from stitch_sweep.stitches.base import AffineStitch, ChannelMixer
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.capacity import capacity
from stitch_sweep.stitches.least_squares import LeastSquares, has_optimum
from stitch_sweep.stitches.starts import choose_start, start_stitch
from stitch_sweep.stitches.storage import load_weights
from stitch_sweep.stitches.whitened import WhitenedStitch
from stitch_sweep.training.convergence import (
    compare_with_optimum,
    fit_pairs,
    has_settled,
    is_near_optimum,
)
from stitch_sweep.training.learning_curve import LearningCurve
from stitch_sweep.training.metrics import calibrated_accuracy, similarity_metrics
from stitch_sweep.training.readout import MAX_VALUES, find_head, fit_maps, mean_rows
from stitch_sweep.training.representations import ActivationCache, Source, SplitRepresentations
from stitch_sweep.training.selection import score
from stitch_sweep.training.stitched_network import StitchedNetwork
from stitch_sweep.training.sums import measure
from stitch_sweep.training.whitening import whiten

LEAST_SQUARES_LOSSES = frozenset({"mse", "correlation", "cca"})
"""Losses that least squares minimizes for a stitch with free weights: the regression of a channel has the
largest correlation with it, and regressions of all channels contain every canonical variate."""
SAMPLE_IMAGES = 512
"""Smallest number of training images that whiten a sender, and from which `start: auto` fits a stitch
that is then trained."""
SAMPLE_ROWS = 32
"""Smallest number of rows per input of the stitch in the same sample."""


class TrainingCell:
    """A stitch with all inputs of its training and evaluation.

    Args:
        sender: the network that is cut after `sender_layer`, or a control that replaces it.
        receiver: the network that continues after `receiver_layer`.
        sender_layer: -1 (the image) or a layer's index.
        receiver_layer: -1 (the stitch produces an image) or a layer's index.
        loaders: `train`, `validation` and `test`, all on the device of the training.
        settings: stitch, loss and training settings.
        seed: the sweep's seed.
        repeat: number of the repeat.
        cache: representations shared with other trainings.
        start: file of a stitch of the same type and shapes, whose weights are the initial ones; None to
            start as the settings say.

    Raises:
        InputError: the stitch can't join these layers, a layer doesn't exist, a loss needs the
            predictions of a sender that makes none, or training steps can't run the receiver as
            `training.frozen` and `training.precision` say.

    Attributes:
        networks: sender and receiver.
        shapes: shapes of the stitch's input and output.
        stitch: the stitch, initialized; in whitened coordinates if the settings say so.
        stitched: the stitch followed by the rest of the receiver.
        splits: the representations of every split.
        starts_at_optimum: whether the stitch needs no training, because `start: auto` solved it.
        epochs: length of the training; 0 for a stitch that needs none or has no parameters.
        loss: the loss of the training.
    """

    def __init__(
        self,
        sender: FrozenSender,
        receiver: FrozenNetwork,
        sender_layer: int,
        receiver_layer: int,
        loaders: Mapping[str, Loader],
        settings: TrialSettings,
        seed: int,
        repeat: int,
        cache: ActivationCache,
        start: bytes | None = None,
    ) -> None:
        self.networks: tuple[FrozenSender, FrozenNetwork] = (sender, receiver)
        self._settings = settings
        self._train_loader, self._test_loader = loaders["train"], loaders["test"]
        self._cache = cache
        image_shape = loaders["train"].images.images.shape[1:]
        self.shapes = (
            sender.shape(sender_layer, image_shape),
            receiver.shape(receiver_layer, image_shape),
        )
        self.stitch = build_stitch(
            settings.stitch.name,
            *self.shapes,
            start=settings.stitch.start,
            options=settings.stitch.options,
            seed=seed,
            repeat=repeat,
        ).to(loaders["train"].device)
        # The loss is built twice, because its context depends on the inputs that the loss needs.
        needs = CombinedLoss.from_config(settings.loss)
        sources: dict[str, Source] = {
            "sender": (sender, sender_layer),
            "expected": (receiver, receiver_layer),
            "expected_logits": (receiver, None),
            "sender_logits": (sender, None),
        }
        self.splits = self._read_splits(needs, sources, loaders, cache)
        has_expected = "expected" in needs.roles
        self._context = LossContext(
            self.splits["train"].expected_variance() if has_expected else None
        )
        self.loss = CombinedLoss.from_config(settings.loss, self._context)
        self.stitched = StitchedNetwork(
            self.stitch,
            receiver,
            receiver_layer,
            with_hints=self.loss.needs_hints,
            training_receiver=self._training_receiver(receiver_layer),
        )
        self._fit = start_stitch(
            self.stitch, settings.stitch.start, self._start_pairs(sources, loaders["train"], cache)
        )
        self.starts_at_optimum = settings.stitch.start == "auto" and self._solve()
        if start is not None and not self.starts_at_optimum:
            load_weights(self.stitch, start)
        can_train = any(p.requires_grad for p in self.stitch.parameters())
        has_steps = can_train and not self.starts_at_optimum
        self.epochs = settings.training.epochs if has_steps else 0
        whitened = settings.training.coordinates == "whitened"
        # A map that isn't trained stays as it is; whitened coordinates would round it.
        if self.epochs and whitened and isinstance(self.stitch, ChannelMixer):
            sample = self._sample_size(self.stitch)
            self.use(whiten(self.stitch, self.splits["train"].inputs(sample)))

    def _solve(self) -> bool:
        """Give the stitch the optimum of its training, if a closed form or a convex problem has it."""
        if self._fit is None or not self._minimizes_loss:
            return False
        if self._terms <= LEAST_SQUARES_LOSSES and isinstance(self.stitch, ChannelMixer):
            return True  # the least-squares start is the optimum
        if self._has_exact_optimum:
            return True
        return self._terms == {"task"} and self._solve_readout(self._fit)

    def _solve_readout(self, fit: LeastSquares) -> bool:
        """Solve the task where the rest of the receiver is linear; see `readout`."""
        stitch, train = self.stitch, self.splits["train"]
        if not isinstance(stitch, ChannelMixer) or train.count * stitch.inputs > MAX_VALUES:
            return False
        head = find_head(self.stitched.rest, stitch)
        if head is None:
            return False
        base = fit.solution()
        maps = fit_maps(head, base, mean_rows(stitch, train.inputs()), train.labels)
        scores = []
        candidates = [(base.weight, base.bias), *maps]
        for weight, bias in candidates:
            stitch.set_map(weight, bias, fit.moments)
            # By the loss, which tells similar classifiers apart better than an accuracy.
            scores.append(score("loss", self.measure("validation")[0]))
        best = scores.index(max(scores))
        stitch.set_map(*candidates[best], fit.moments)
        return best > 0

    def default_lr(self, optimizer: str) -> float:
        """Return the learning rate of an optimizer if the user sets none.

        It is that of the loss; see `WhitenedStitch.rate_factor` for whitened coordinates.

        Args:
            optimizer: its name, in any case.
        """
        lr = self.loss.default_lr(optimizer)
        if isinstance(self.stitch, WhitenedStitch) and "adam" in optimizer.lower():
            return lr * self.stitch.rate_factor
        return lr

    def use(self, stitch: nn.Module) -> None:
        """Replace the stitch."""
        self.stitch = self.stitched.stitch = stitch

    def fold_stitch(self) -> nn.Module:
        """Return the present stitch as an ordinary one, which is what is stored and reported."""
        stitch = self.stitch
        return stitch.fold() if isinstance(stitch, WhitenedStitch) else stitch

    def _training_receiver(self, layer: int) -> FrozenNetwork | FastNetwork:
        """Return what training steps run as the receiver; a copy is first compared with the receiver."""
        receiver = self.networks[1]
        network = training_network(receiver, FastSettings.from_config(self._settings.training))
        if isinstance(network, FastNetwork) and not network.has_compared(
            layer, stepwise=self.loss.needs_hints
        ):
            # A batch of the training's size, because a compiler compiles for one size.
            batch = next(iter(self._train_loader.in_order(self._train_loader.batch_size)))
            with torch.no_grad():
                representation = receiver.represent(layer, batch)
            network.compare(layer, representation, stepwise=self.loss.needs_hints)
        return network

    def _read_splits(
        self,
        loss: CombinedLoss,
        sources: Mapping[str, Source],
        loaders: Mapping[str, Loader],
        cache: ActivationCache,
    ) -> dict[str, SplitRepresentations]:
        """Select the representations that each split needs."""
        sender = self.networks[0]
        if "sender" in loss.teachers and not sender.classifies:
            is_network = isinstance(sender, FrozenNetwork)
            raise InputError(explain_missing_teacher(sender.name, network=is_network))
        needs_expected = {
            "train": (self._starts_from_data and not self._starts_from_sample)
            or loss.calibration != "none",
            "validation": True,  # similarity is measured on this split, for every loss
            "test": False,
        }
        splits = {}
        for split in SPLITS:
            roles = loss.roles | ({"expected"} if needs_expected[split] else set())
            needed = {role: source for role, source in sources.items() if role in roles}
            splits[split] = SplitRepresentations(loaders[split], needed, cache)
        return splits

    @property
    def _starts_from_data(self) -> bool:
        return choose_start(self.stitch, self._settings.stitch.start) in DATA_STARTS

    @property
    def _starts_from_sample(self) -> bool:
        """Whether the training improves the start, so that a sample of the images is enough for it."""
        return self._settings.stitch.start == "auto" and not self._terms <= LEAST_SQUARES_LOSSES

    def _start_pairs(
        self, sources: Mapping[str, Source], loader: Loader, cache: ActivationCache
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the (input, expected representation) pairs from which the stitch starts."""
        if not self._starts_from_data or not self._starts_from_sample:
            return self.splits["train"].pairs()
        assert isinstance(self.stitch, AffineStitch)
        needed = {role: sources[role] for role in ("sender", "expected")}
        sample = self._sample_size(self.stitch)
        return SplitRepresentations(loader, needed, cache, computed=["expected"]).pairs(sample)

    @staticmethod
    def _sample_size(stitch: AffineStitch) -> int:
        """Return the number of images from which a stitch starts, or its sender is whitened."""
        return max(SAMPLE_IMAGES, math.ceil(SAMPLE_ROWS * stitch.inputs / stitch.positions))

    def release_representations(self) -> None:
        """Drop the representations of all splits until they are used again."""
        for split in self.splits.values():
            split.release()

    def runs_foreign_code(self) -> bool:
        """Return whether the stitch or a loss was defined outside of Stitch Sweep and torch."""
        stitch = self.stitch.ordinary if isinstance(self.stitch, WhitenedStitch) else self.stitch
        losses = [loss for _, loss in self.loss.terms.values()]
        modules = {type(part).__module__ for part in (*stitch.modules(), *losses)}
        return not all(name.startswith(("stitch_sweep.", "torch.")) for name in modules)

    def measure(self, split: str, limit: int | None = None) -> tuple[dict[str, float], Tensor]:
        """Measure the current stitch on a split: see `sums.measure`. It is in eval mode afterwards.

        Args:
            split: its name.
            limit: number of images, spread evenly over the split; None for all.
        """
        self.stitch.eval()
        return measure(self.stitched.evaluation_chunks(self.splits[split], limit), self.loss)

    def measure_result(self, split: str) -> tuple[dict[str, float], Tensor]:
        """Measure the final stitch on a split, or on a sample of the training images."""
        samples = self._settings.training.train_metrics == "sample" and not self._has_exact_optimum
        is_sampled = split == "train" and samples
        return self.measure(split, self.splits["validation"].count if is_sampled else None)

    def final_metrics(self, measured: Mapping[str, Any], curve: LearningCurve) -> dict[str, Any]:
        """Compute the metrics that aren't measured per split; the stitch must be in eval mode.

        Args:
            measured: the metrics of all splits.
            curve: the training.
        """
        metrics: dict[str, Any] = {}
        for role, network in zip(("sender", "receiver"), self.networks, strict=True):
            metrics[f"{role}_accuracy"] = self._own_accuracy(network)
        test_accuracy = measured["test_accuracy"]
        metrics["penalty"] = metrics["receiver_accuracy"] - test_accuracy
        metrics["accuracy_raw"] = metrics["accuracy_calibrated"] = test_accuracy
        if self.loss.calibration != "none":
            metrics["accuracy_calibrated"] = calibrated_accuracy(
                self.stitched,
                self.loss.calibration,
                self.splits["train"].pairs(),
                self.splits["test"],
                self._train_loader.device,
            )
        metrics |= similarity_metrics(self.stitch, self.splits["validation"])
        metrics |= self._convergence(measured, curve)
        size = capacity(self.stitch)
        metrics["stitch_parameters"] = size.parameters
        metrics["stitch_multiply_adds"] = size.multiply_adds
        return metrics

    def _own_accuracy(self, network: FrozenSender) -> float | None:
        """Return a network's own test accuracy; None if it doesn't classify."""
        if not network.classifies:
            return None
        role = f"logits of {network.name}"
        logits = self._cache.get(role, network, None, self._test_loader)
        if logits is None:
            evaluation = network.evaluate(self._test_loader)
            return None if evaluation is None else evaluation.accuracy
        labels = self._test_loader.images.labels
        return (logits.argmax(dim=1) == labels).double().mean().item()

    @property
    def _terms(self) -> set[str]:
        """Names of the losses that are added up."""
        return {term.name for term in self._settings.loss.terms}

    @property
    def _minimizes_loss(self) -> bool:
        """Whether a closed form minimizes what a training does, which augmentation and L1 change."""
        return self._train_loader.augment == "none" and not self._settings.stitch.l1

    @property
    def _has_exact_optimum(self) -> bool:
        """Whether the result is compared with the optimum, on all training images."""
        return self._terms == {"mse"} and self._minimizes_loss and has_optimum(self.stitch)

    def _convergence(self, measured: Mapping[str, Any], curve: LearningCurve) -> dict[str, Any]:
        if self._has_exact_optimum:
            assert isinstance(self.stitch, AffineStitch)
            return compare_with_optimum(
                self.stitch,
                measured["train_loss.mse"],
                self._context.expected_variance,
                self._fit,
                self.splits["train"].pairs(),
            )
        if curve.total_steps == 0:
            solved = self.starts_at_optimum or not list(self.stitch.parameters())
            return {"converged": True if solved else None}
        if self._has_optimal_loss:
            return self._compare_losses(measured["train_loss"])
        return {
            "converged": has_settled(
                curve,
                by_accuracy="task" in self._terms,
                validation_images=self.splits["validation"].count,
                guessing=self._loss_of_guessing,
            )
        }

    @property
    def _loss_of_guessing(self) -> float:
        """Training loss of equal probabilities for all classes; infinite for other losses."""
        if self._terms != {"task"}:
            return math.inf
        weight, _ = self.loss.terms["task"]
        return weight * math.log(int(self._train_loader.images.labels.max()) + 1)

    @property
    def _has_optimal_loss(self) -> bool:
        """Whether least squares minimizes the loss of the training; see `LEAST_SQUARES_LOSSES`."""
        is_affine = isinstance(self.stitch, ChannelMixer) and has_optimum(self.stitch)
        return is_affine and self._minimizes_loss and self._terms <= LEAST_SQUARES_LOSSES

    def _compare_losses(self, reached: float) -> dict[str, Any]:
        """Compare the training loss of the stitch with that of least squares, on the same images."""
        trained = self.stitch
        assert isinstance(trained, ChannelMixer)
        fit = self._fit or fit_pairs(trained, self.splits["train"].pairs())
        best, solution = copy.deepcopy(trained), fit.solution()
        best.set_map(solution.weight, solution.bias, fit.moments)
        self.use(best)
        optimum = self.measure_result("train")[0]["loss"]
        self.use(trained)
        return {
            "optimal_train_loss": optimum,
            "converged": is_near_optimum(reached, optimum),
        }
