"""Cut a network that torch.fx can't trace, with hooks on its named submodules.

The network is sequential at a submodule's end if no value computed before the end is used after it. Each
place is tested on images of several kinds. It is a cut point only if `suffix(prefix(x))` equals
`model(x)` bit for bit for all of these images. This is a test, not a proof: it misses a branch that none
of these images takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stitch_sweep.config.pairs import IMAGE_LAYER
from stitch_sweep.core.errors import nearest
from stitch_sweep.networks.cutting.blocks import NetworkValue, one_per_block
from stitch_sweep.networks.cutting.channels import channels_first, keeps_channels_last
from stitch_sweep.networks.cutting.hooked_part import IMAGE, HookedPart
from stitch_sweep.networks.cutting.modules import (
    inner_prefix,
    is_row,
    network_type_name,
    required_submodule,
)
from stitch_sweep.networks.cutting.points import (
    Cost,
    CutError,
    CutPoint,
    LayerNames,
    Location,
    explain_missing_layer,
    explain_unstitchable,
    layers_in_order,
)
from stitch_sweep.networks.cutting.running import (
    black_image,
    count_operations,
    count_parameters,
    eval_mode,
    multiply_adds,
    raise_cut_errors,
)
from stitch_sweep.networks.cutting.trials import CutTrials


@dataclass
class _Call:
    """The output of one submodule in a run; an empty path means the whole network."""

    path: str
    output: Any
    mult_adds: int
    version: int = 0

    def __post_init__(self) -> None:
        # An in-place operation returns its input tensor.
        if isinstance(self.output, Tensor) and not self.output.is_inference():
            self.version = self.output._version

    def same_value(self, other: _Call) -> bool:
        """Return whether both outputs are the same tensor, without a write in between."""
        return self.output is other.output and self.version == other.version


class HookedNetwork:
    """The counterpart of `TracedNetwork` for networks that torch.fx can't trace.

    Args:
        model: see `TracedNetwork`.
        image_shape: `(C, H, W)` of the images that verify cuts.
        obstacle: the reason why torch.fx can't trace the network, for messages.
        layer_names: see `TracedNetwork`.
        images: `[B, C, H, W]`, images of the data set. Cuts are verified on these and on artificial
            images.

    Attributes:
        layers: see `stitch_sweep.networks.cutting.traced.layers`.

    Raises:
        CutError: there is no place to cut, or a name in `layer_names` is not a cut point.
    """

    def __init__(
        self,
        model: nn.Module,
        image_shape: Sequence[int],
        obstacle: str,
        *,
        layer_names: LayerNames = None,
        images: Tensor | None = None,
    ) -> None:
        self._model = model
        self._image_shape = tuple(image_shape)
        self._obstacle = obstacle
        self._trials = CutTrials(model, image_shape, obstacle, images)
        calls, self._whole = self._run()
        self._outputs_for_two = {call.path: call.output for call in self._run(count=2)[0]}
        times = Counter(call.path for call in calls)
        self._calls = {call.path: call for call in calls if times[call.path] == 1}
        self._order = list(self._calls)
        self._channels_last = {
            path
            for path, call in self._calls.items()
            if isinstance(call.output, Tensor) and keeps_channels_last(call.output.shape[1:])
        }
        self._reasons: dict[str, str] = {}
        self._cut_points: list[CutPoint] | None = None
        names = getattr(model, "layer_names", None) if layer_names is None else layer_names
        if names == "auto":
            names = self._name_blocks()
        elif names is None:
            names = [point.name for point in self.cut_points]
        self.layers = layers_in_order(names, lambda name: self._order.index(self._check_cut(name)))
        if not self.layers:
            raise CutError(
                f"{obstacle}. Hooks find no place to cut either: every submodule runs several times, or "
                "other tensors cross at its end"
            )

    @property
    def cut_points(self) -> list[CutPoint]:
        """The submodules' ends at which the network is sequential; verified at the first access."""
        if self._cut_points is None:
            cuts = [path for path in self._order if not self._explain_no_cut(path)]
            kinds = {path: type(required_submodule(self._model, path)).__name__ for path in cuts}
            self._cut_points = [CutPoint(path, kinds[path], ()) for path in self._distinct(cuts)]
        return self._cut_points

    def sub_network(self, start: Location, end: Location) -> nn.Module:
        """Build the part from `start` to `end`: see `create_sub_network`.

        Raises:
            CutError: a place is not a cut point, or the start comes after the end.
        """
        first = IMAGE if start is None else self._locate(start)
        last = None if end is None else self._locate(end)
        order = [IMAGE, *self._order]
        if last is not None and order.index(first) > order.index(last):
            raise CutError(
                f"the part would start at {first!r}, which is computed after its end, "
                f"{last or 'the image'!r}: swap the two"
            )
        channels_last = first in self._channels_last, last in self._channels_last
        part = HookedPart(self._model, first, last, self._image_shape, channels_last)
        part.training = self._model.training
        return part

    def shapes(self, image_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Return the shape of the tensor at every layer, without the batch dimension.

        Args:
            image_shape: `(C, H, W)`.

        Raises:
            CutError: the network doesn't accept images of this shape.
        """
        calls, _ = self._run(image_shape)
        by_path = {call.path: call for call in calls}
        return {
            layer.name: self._shape_at_cut(by_path[self._check_cut(layer.name)])
            for layer in self.layers
        }

    def costs(self, image_shape: Sequence[int]) -> dict[str, Cost]:
        """Measure the parts before and after every cut point: see `TracedNetwork.costs`.

        Submodules that end after the cut or aren't used count as after the cut.

        Raises:
            CutError: the network doesn't accept images of this shape.
        """
        calls, end = self._run(image_shape)
        total = count_parameters([self._model])
        costs = {}
        for point in self.cut_points:
            index = next(k for k, call in enumerate(calls) if call.path == point.name)
            before = count_parameters(
                required_submodule(self._model, call.path) for call in calls[: index + 1]
            )
            costs[point.name] = Cost(
                self._shape_at_cut(calls[index]),
                params_before=before,
                params_after=total - before,
                mult_adds_before=calls[index].mult_adds,
                mult_adds_after=end.mult_adds - calls[index].mult_adds,
            )
        return costs

    def _shape_at_cut(self, call: _Call) -> tuple[int, ...]:
        """Return an output's shape as a stitch sees it."""
        shape = tuple(call.output.shape[1:])
        return channels_first(shape) if call.path in self._channels_last else shape

    def _run(
        self, image_shape: Sequence[int] | None = None, count: int = 1
    ) -> tuple[list[_Call], _Call]:
        """Return the outputs of all submodules, in the order in which they end, and of the network.

        Raises:
            CutError: the network doesn't accept images of this shape.
        """
        calls: list[_Call] = []
        prefix = inner_prefix(self._model)

        def recorder(path: str) -> Callable[..., None]:
            def record(_: nn.Module, __: Any, output: Any) -> None:
                calls.append(_Call(path, output, multiply_adds(counter)))

            return record

        hooks = [
            module.register_forward_hook(recorder(path.removeprefix(prefix)))
            for path, module in self._model.named_modules()
            if path and path + "." != prefix
        ]
        shape = image_shape or self._image_shape
        image = black_image(self._model, shape).expand(count, -1, -1, -1).clone()
        try:
            with (
                eval_mode(self._model),
                count_operations() as counter,
                raise_cut_errors(self._model, shape),
            ):
                result = self._model(image)
                total = multiply_adds(counter)
        finally:
            for hook in hooks:
                hook.remove()
        return calls, _Call("", result, total)

    def _explain_no_cut(self, path: str) -> str:
        """Explain why the network can't be cut behind a submodule; empty if it can."""
        if path not in self._reasons:
            self._reasons[path] = self._test_cut(path)
        return self._reasons[path]

    def _test_cut(self, path: str) -> str:
        call = self._calls[path]
        if not isinstance(call.output, Tensor):
            return "its output is not a single tensor"
        if call.same_value(self._whole):
            return "it is the network's output"
        dtype = black_image(self._model, self._image_shape).dtype
        if reason := explain_unstitchable(call.output, self._outputs_for_two[path], dtype):
            return reason
        return self._trials.explain_difference(path)

    def _distinct(self, paths: Sequence[str]) -> list[str]:
        """Return one path for each tensor: a block's path rather than its last activation's path."""
        kept: list[str] = []
        for path in paths:
            if kept and self._calls[kept[-1]].same_value(self._calls[path]):
                if not is_row(required_submodule(self._model, path)):
                    kept[-1] = path
            else:
                kept.append(path)
        return kept

    def _name_blocks(self) -> list[str]:
        """Return the names of cut points, one per block."""
        cuts = [point.name for point in self.cut_points]
        modules = {path: required_submodule(self._model, path) for path in self._order}
        # A submodule that runs several times still contains others.
        prefix = inner_prefix(self._model)
        paths = [path.removeprefix(prefix) for path, _ in self._model.named_modules()]
        modules |= {path: required_submodule(self._model, path) for path in paths if path}
        values = []
        for path, call in self._calls.items():
            if call.same_value(self._whole):
                continue
            around = tuple(p for p in paths if p and f"{path}.".startswith(f"{p}."))
            name = next((cut for cut in cuts if self._calls[cut].same_value(call)), None)
            values.append(NetworkValue(name or path, "", name is not None, around, (path,)))
        return list(dict.fromkeys(one_per_block(values, modules)))

    def _locate(self, location: int | str) -> str:
        """Return the path of a layer, a cut point or the image.

        Raises:
            CutError: there is no such place, or it is not a cut point.
        """
        if location == IMAGE_LAYER:
            return IMAGE
        if isinstance(location, str):
            return self._check_cut(location)
        if not 0 <= location < len(self.layers):
            name = network_type_name(self._model)
            raise CutError(explain_missing_layer(name, location, len(self.layers)))
        return self._check_cut(self.layers[location].name)

    def _check_cut(self, name: str) -> str:
        """Return the name of a cut point unchanged.

        Raises:
            CutError: it is not a cut point.
        """
        if name not in self._calls:
            raise CutError(
                f"{network_type_name(self._model)} has no submodule {name!r} that runs once, and it can "
                f"be cut only behind such submodules: {nearest(name, self._order)}. ({self._obstacle})"
            )
        if reason := self._explain_no_cut(name):
            raise CutError(f"no cut behind {name!r}: {reason}. ({self._obstacle})")
        return name
