"""The fast copy of a frozen network, from which training steps take the rest of the receiver.

A copy is made from the verified network, part by part, and kept with it, so that a further stitch into
the same layer costs nothing. Parts share their folded weights. Before a part is used for the first time
it is compared with the network as it is; whenever the network is verified, its copies are too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from stitch_sweep.config.training import FrozenMode, Precision, TrainingConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.foreign_errors import describe_error
from stitch_sweep.networks.cutting.points import Location
from stitch_sweep.networks.fast.comparison import BFLOAT16, FLOAT32, Tolerance, compare_parts
from stitch_sweep.networks.fast.folding import FoldedModules, fold_part
from stitch_sweep.networks.fast.machine import check_machine
from stitch_sweep.networks.fast.parts import CompiledBody, FastPart, has_one_layer
from stitch_sweep.networks.frozen import FrozenError, FrozenNetwork
from stitch_sweep.storage.digests import digest, tensors_of

_ADVICE = "set them to exact and float32"


@dataclass(frozen=True)
class FastSettings:
    """How training steps run the frozen network: `training.frozen` and `training.precision`."""

    mode: FrozenMode = "exact"
    precision: Precision = "float32"

    @classmethod
    def from_config(cls, training: TrainingConfig) -> FastSettings:
        """Return the settings of the section `training`."""
        return cls(training.frozen, training.precision)

    @property
    def is_exact(self) -> bool:
        """Whether training steps run the network as it is."""
        return self == FastSettings()


def training_network(network: FrozenNetwork, settings: FastSettings) -> FrozenNetwork | FastNetwork:
    """Return the network whose parts training steps run: itself, or its fast copy.

    Raises:
        InputError: this machine lacks a compiler or arithmetic in bfloat16.
    """
    if settings.is_exact:
        return network
    if settings not in network.copies:
        check_machine(settings.mode, settings.precision, next(network.network.parameters()).device)
        shared = [copy.modules for copy in network.copies.values()]
        modules = shared[0] if shared else FoldedModules()
        network.copies[settings] = FastNetwork(network, settings, modules)
    return network.copies[settings]


class FastNetwork:
    """A fast copy of a frozen network, cut on demand like the network itself.

    A network that torch.fx can't trace has no foldable parts: its own parts run, in the configured number
    format.

    Args:
        source: the network, verified.
        settings: how its parts run.
        modules: folded modules, shared with the copies of other settings.

    Attributes:
        modules: the folded modules.
        layer_names: the names of the network's layers.
    """

    def __init__(
        self, source: FrozenNetwork, settings: FastSettings, modules: FoldedModules
    ) -> None:
        self.modules = modules
        self.layer_names = source.layer_names
        self._source = source
        self._settings = settings
        self._fingerprint = source.fingerprint
        self._parts: dict[tuple[Location, Location], FastPart] = {}
        self._digests: dict[nn.Module, str] = {}
        self._compared: set[tuple[Location, Location]] = set()

    def suffix(self, layer: int) -> FastPart:
        """Return the counterpart of `FrozenNetwork.suffix`."""
        return self.part(layer, None)

    def part(self, start: Location, end: Location) -> FastPart:
        """Return the counterpart of `FrozenNetwork.part`; it is made at the first call."""
        if (start, end) not in self._parts:
            exact = self._source.part(start, end)
            body, channels_last = exact, False
            if self._settings.mode != "exact" and isinstance(exact, fx.GraphModule):
                body = fold_part(exact, self.modules)
                channels_last = any(isinstance(m, nn.Conv2d) for m in body.modules())
                if self._settings.mode == "compiled":
                    body = CompiledBody(body)
            self._parts[start, end] = FastPart(
                body,
                channels_last=channels_last,
                bfloat16=self._settings.precision == "bfloat16" and not has_one_layer(exact),
            )
            for module in self.modules:
                if module not in self._digests:
                    self._digests[module] = digest(tensors_of(module))
        return self._parts[start, end]

    def verify(self, fingerprint: str) -> None:
        """Check that this is still a copy of a network, in eval mode and without gradients.

        Args:
            fingerprint: the network's hash.

        Raises:
            FrozenError: it was made from other weights, a part is in train mode, or a folded weight
                changed or could change.
        """
        name = f"the fast copy of {self._source.name}"
        if fingerprint != self._fingerprint:
            raise FrozenError(f"{name} was made from other weights")
        for (start, end), part in self._parts.items():
            for path, module in part.named_modules():
                if module.training:
                    place = self._describe(start, end)
                    raise FrozenError(f"{name} {place}: {path or 'the part'} is in train mode")
        for module, value in self._digests.items():
            for parameter in module.parameters():
                if parameter.requires_grad or parameter.grad is not None:
                    raise FrozenError(f"{name}: a folded weight takes gradients")
            if digest(tensors_of(module)) != value:
                raise FrozenError(f"{name}: a folded {type(module).__name__} changed")

    def has_compared(self, layer: int, *, stepwise: bool = False) -> bool:
        """Return whether `compare` has accepted the parts from a layer on."""
        return all(ends in self._compared for ends in self._used_parts(layer, stepwise))

    def compare(self, layer: int, value: Tensor, *, stepwise: bool = False) -> None:
        """Compare the parts from a layer on with the network as it is, each part once.

        `comparison.FLOAT32` and `comparison.BFLOAT16` are the largest differences allowed.

        Args:
            layer: the layer's index.
            value: the network's own representation there, [B, *shape], of a training batch's size.
            stepwise: whether the parts from each layer to the next are used, too.

        Raises:
            InputError: a part can't run, or differs by more than is allowed; the message names its
                layers.
        """
        whole, *steps = self._used_parts(layer, stepwise=True)
        reason = self._explain_difference(*whole, value)
        if reason or stepwise:  # to name the two layers between which the difference arises
            for start, end in steps:
                if problem := self._explain_difference(start, end, value):
                    raise InputError(problem)
                with torch.no_grad():
                    value = self._source.part(start, end)(value)
        if reason:
            raise InputError(reason)

    def _used_parts(self, layer: int, stepwise: bool) -> list[tuple[Location, Location]]:
        """Return the ends of the part to the logits and, if asked for, of the parts between layers."""
        layers = range(layer, len(self.layer_names))
        steps = list(zip(layers, [*layers[1:], None], strict=True)) if stepwise else []
        return [(layer, None), *steps]

    def _explain_difference(self, start: Location, end: Location, value: Tensor) -> str:
        """Explain why a part can't replace the exact part; empty if it can."""
        if (start, end) in self._compared:
            return ""
        exact, fast = self._source.part(start, end), self.part(start, end)
        with torch.no_grad():
            if not exact(value).isfinite().all():
                return ""  # there is nothing to compare with, and the training will fail
        place = f"{self._source.name} {self._describe(start, end)}"
        for part, tolerance in self._stages(fast):
            try:
                difference = compare_parts(exact, part, value)
            except Exception as error:  # a user's network or a compiler may raise anything
                return f"{place} can't run with {self._label} ({describe_error(error)}); {_ADVICE}"
            if difference.exceeds(tolerance):
                return (
                    f"{place} with {self._label} differs from the network as it is: outputs by "
                    f"{difference.output:.2g} (allowed: {tolerance.output:g}), gradients by "
                    f"{difference.gradient:.2g} (allowed: {tolerance.gradient:g}); {_ADVICE}"
                )
        self._compared.add((start, end))
        return ""

    def _stages(self, fast: FastPart) -> list[tuple[nn.Module, Tolerance]]:
        """Return what is compared: the folded weights in float32, and the part as it runs."""
        stages: list[tuple[nn.Module, Tolerance]] = [(fast.in_float32(), FLOAT32)]
        if self._settings.precision == "bfloat16":
            stages.append((fast, BFLOAT16))
        elif self._settings.mode == "compiled":
            stages.append((fast, FLOAT32))
        return stages

    @property
    def _label(self) -> str:
        return f"training.frozen: {self._settings.mode}, training.precision: {self._settings.precision}"

    def _describe(self, start: Location, end: Location) -> str:
        """Name a part by its layers."""
        names = ["the image", *self.layer_names]
        ends = [
            "the logits" if place is None else f"layer {place} ({names[int(place) + 1]})"
            for place in (start, end)
        ]
        return f"from {ends[0]} to {ends[1]}"
