"""Cut a network that torch.fx can't trace, with hooks on its named submodules.

A prefix runs the model and stops behind a submodule. A suffix runs the model on black images and puts
what it is given in the place of that submodule's output. That is the network cut in two if, and only if,
nothing that was computed before the submodule's end is used after it: for every place this is tried on
images of several kinds, and only where `suffix(prefix(x))` has the bits of `model(x)` for all of them the
place is a cut point. That is a trial, not a proof: a branch that none of these images takes is not seen.
A suffix takes the time of the whole network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.core.errors import nearest
from stitch_sweep.networks.cutting.blocks import Place, one_per_block
from stitch_sweep.networks.cutting.tracing import (
    TO_CHANNELS_FIRST,
    TO_CHANNELS_LAST,
    Cost,
    CutError,
    CutPoint,
    LayerNames,
    TracedNetwork,
    Where,
    black_image,
    channels_first,
    counted,
    counting,
    eval_mode,
    inner_prefix,
    is_row,
    keeps_channels_last,
    layers_in_order,
    no_representation,
    parameter_count,
    refusing,
    submodule,
    title,
)

_TRIED = 2
"""So many images of every kind a cut is tried on."""
_BRIGHT, _LOUD = 3.0, 30.0
"""Of normalised images: a pixel brighter than most that are white, and noise far beyond any image."""
_IMAGE = ""
"""Stands for the image among paths of submodules."""


def open_network(
    model: nn.Module,
    *,
    layer_names: LayerNames = None,
    image_shape: Sequence[int] | None = None,
    images: Tensor | None = None,
) -> Cuttable:
    """A network that can be cut: traced, or with hooks where torch.fx can't trace it.

    Args:
        model: a network with one image batch as its input.
        layer_names: what layer indices mean; see `TracedNetwork`.
        image_shape: `(C, H, W)`, to try cuts with hooks on; a network from elsewhere knows its own.
        images: `[B, C, H, W]`, some that it will get; cuts with hooks are tried on these too.

    Raises:
        CutError: a name is no cut point; or torch.fx can't trace the model, and no image is known to
            try hooks on, or they find no place to cut; the message says what stood in the way.
    """
    shape: Any = image_shape
    if shape is None and inner_prefix(model):
        shape = model.image_shape
    try:
        return TracedNetwork(model, layer_names=layer_names, image_shape=shape)
    except CutError as error:
        if shape is None or not error.untraceable:
            raise
        return HookedNetwork(model, shape, str(error), layer_names=layer_names, images=images)


def belonging(part: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a part of a network; a part with hooks holds those of the others too."""
    return part.own() if isinstance(part, HookedPart) else part.state_dict(keep_vars=True)


class _Stop(Exception):  # noqa: N818  (not an error: the value is there)
    def __init__(self, value: Tensor) -> None:
        self.value = value


class HookedPart(nn.Module):
    """A part of a network between two of its submodules.

    Args:
        model: the whole network.
        start: path of the submodule whose output the part begins with; empty for the image.
        end: path of the submodule whose output it ends with; None for the network's output.
        image_shape: `(C, H, W)`.
        turned: whether the submodules at the start and at the end keep channels last; the part does not.
    """

    def __init__(
        self,
        model: nn.Module,
        start: str,
        end: str | None,
        image_shape: Sequence[int],
        turned: tuple[bool, bool] = (False, False),
    ) -> None:
        super().__init__()
        self.model = model
        self._ends = (start, end)
        self._image_shape = tuple(image_shape)
        self._turned = turned

    def forward(self, value: Tensor) -> Tensor:
        """`[B, *shape at start]` to `[B, *shape at end]`."""
        start, end = self._ends
        if start == end:
            return value
        hooks = []
        # A copy: the model may work in place.
        entry, image = value.clone(), value.clone()
        if self._turned[0]:
            entry = entry.permute(TO_CHANNELS_LAST).contiguous()
        if start:
            image = (
                black_image(self.model, self._image_shape).expand(len(value), -1, -1, -1).clone()
            )
            hooks.append(_module(self.model, start).register_forward_hook(lambda *_: entry))
        if end is not None:

            def stop(_: nn.Module, __: Any, output: Tensor) -> None:
                raise _Stop(output)

            hooks.append(_module(self.model, end).register_forward_hook(stop))
        try:
            result: Tensor = self.model(image)
        except _Stop as stopped:
            found = _outside_inference(stopped.value)
            return found.permute(TO_CHANNELS_FIRST).contiguous() if self._turned[1] else found
        finally:
            for hook in hooks:
                hook.remove()
        return _outside_inference(result)

    def own(self) -> dict[str, Tensor]:
        """Parameters that its output depends on and buffers beside them, by the network's names."""
        start, _ = self._ends
        before = HookedPart(self.model, _IMAGE, start, self._image_shape, (False, self._turned[0]))
        parameters = dict(self.model.named_parameters())
        asked = {name: p.requires_grad for name, p in parameters.items()}
        generator = torch.Generator().manual_seed(0)
        image = black_image(self.model, self._image_shape)
        noise = torch.randn(image.shape, generator=generator).to(image)
        try:
            with eval_mode(self.model), torch.enable_grad():
                with torch.no_grad():
                    value = before(noise)
                for parameter in parameters.values():
                    parameter.requires_grad_()
                made = self(value)
                found: Sequence[Tensor | None] = [None] * len(parameters)
                if made.requires_grad:
                    of = list(parameters.values())
                    found = torch.autograd.grad(made.sum(), of, allow_unused=True)
        finally:
            for name, parameter in parameters.items():
                parameter.requires_grad_(asked[name])
        names = {name for name, grad in zip(parameters, found, strict=True) if grad is not None}
        holders = {name.rpartition(".")[0] for name in names}
        prefix = inner_prefix(self.model)
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.model.state_dict(keep_vars=True).items()
            if name in names or (name not in parameters and name.rpartition(".")[0] in holders)
        }


@dataclass
class _Call:
    """One submodule's output in a run; without a path, the network's."""

    path: str
    output: Any
    mult_adds: int
    version: int = 0

    def __post_init__(self) -> None:
        # An operation in place returns the tensor that it was given.
        if isinstance(self.output, Tensor) and not self.output.is_inference():
            self.version = self.output._version

    def same(self, other: _Call) -> bool:
        """Whether both are one value: one tensor, not written to in between."""
        return self.output is other.output and self.version == other.version


class HookedNetwork:
    """The counterpart of `TracedNetwork` for what torch.fx can't trace.

    Args:
        model: as of `TracedNetwork`.
        image_shape: `(C, H, W)` of the images that cuts are tried on.
        why: what kept torch.fx from tracing it, for messages.
        layer_names: as of `TracedNetwork`.
        images: `[B, C, H, W]`, some that it will get, to try cuts on beside made ones.

    Attributes:
        layers: see `stitch_sweep.networks.cutting.tracing.layers`.

    Raises:
        CutError: there is no place to cut, or a name in `layer_names` is none.
    """

    def __init__(
        self,
        model: nn.Module,
        image_shape: Sequence[int],
        why: str,
        *,
        layer_names: LayerNames = None,
        images: Tensor | None = None,
    ) -> None:
        self._model = model
        self._image_shape = tuple(image_shape)
        self._why = why
        self._images = images
        calls, self._whole = self._run()
        self._double = {call.path: call.output for call in self._run(count=2)[0]}
        times = Counter(call.path for call in calls)
        self._calls = {call.path: call for call in calls if times[call.path] == 1}
        self._order = list(self._calls)
        self._channels_last = {
            path
            for path, call in self._calls.items()
            if isinstance(call.output, Tensor) and keeps_channels_last(call.output.shape[1:])
        }
        self._tried: dict[str, str] = {}
        self._cut_points: list[CutPoint] | None = None
        names = getattr(model, "layer_names", None) if layer_names is None else layer_names
        if names == "auto":
            names = self._auto()
        elif names is None:
            names = [point.name for point in self.cut_points]
        self.layers = layers_in_order(names, lambda name: self._order.index(self._place(name)))
        if not self.layers:
            raise CutError(
                f"{why}. With hooks there is no place either: at the end of every submodule other "
                "tensors cross, or it runs several times"
            )

    @property
    def cut_points(self) -> list[CutPoint]:
        """Every submodule's end at which the network is sequential; tried when first asked for."""
        if self._cut_points is None:
            cuts = [path for path in self._order if not self._why_not(path)]
            kinds = {path: type(_module(self._model, path)).__name__ for path in cuts}
            self._cut_points = [CutPoint(path, kinds[path], ()) for path in self._distinct(cuts)]
        return self._cut_points

    def sub_network(self, start: Where, end: Where) -> nn.Module:
        """The part from `start` to `end`: see `create_sub_network`.

        Raises:
            CutError: a place is none, or the start comes after the end.
        """
        first = _IMAGE if start is None else self._path(start)
        last = None if end is None else self._path(end)
        order = [_IMAGE, *self._order]
        if last is not None and order.index(first) > order.index(last):
            raise CutError(
                f"the part would start at {first!r}, which is computed after its end, "
                f"{last or 'the image'!r}: swap the two"
            )
        turned = first in self._channels_last, last in self._channels_last
        part = HookedPart(self._model, first, last, self._image_shape, turned)
        part.training = self._model.training
        return part

    def shapes(self, image_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Shape of the tensor at every layer, without the batch dimension.

        Args:
            image_shape: `(C, H, W)`.
        """
        calls, _ = self._run(image_shape)
        at = {call.path: call for call in calls}
        return {layer.name: self._shape(at[self._place(layer.name)]) for layer in self.layers}

    def _shape(self, call: _Call) -> tuple[int, ...]:
        """As a stitch sees it."""
        shape = tuple(call.output.shape[1:])
        return channels_first(shape) if call.path in self._channels_last else shape

    def costs(self, image_shape: Sequence[int]) -> dict[str, Cost]:
        """What lies before and after every cut point: see `TracedNetwork.costs`.

        A submodule that has not ended yet, or isn't used, counts after.
        """
        calls, end = self._run(image_shape)
        whole = parameter_count([self._model])
        found = {}
        for point in self.cut_points:
            at = next(k for k, call in enumerate(calls) if call.path == point.name)
            before = parameter_count(_module(self._model, call.path) for call in calls[: at + 1])
            found[point.name] = Cost(
                self._shape(calls[at]),
                params_before=before,
                params_after=whole - before,
                mult_adds_before=calls[at].mult_adds,
                mult_adds_after=end.mult_adds - calls[at].mult_adds,
            )
        return found

    def _run(
        self, image_shape: Sequence[int] | None = None, count: int = 1
    ) -> tuple[list[_Call], _Call]:
        """Every submodule's output, in the order in which they end, and the network's.

        Raises:
            CutError: the network can't take such images.
        """
        found: list[_Call] = []
        prefix = inner_prefix(self._model)

        def recorder(path: str) -> Callable[..., None]:
            def record(_: nn.Module, __: Any, output: Any) -> None:
                found.append(_Call(path, output, counted(counter)))

            return record

        hooks = [
            module.register_forward_hook(recorder(path.removeprefix(prefix)))
            for path, module in self._model.named_modules()
            if path and path + "." != prefix
        ]
        shape = image_shape or self._image_shape
        image = black_image(self._model, shape).expand(count, -1, -1, -1).clone()
        try:
            with eval_mode(self._model), counting() as counter, refusing(self._model, shape):
                result = self._model(image)
                total = counted(counter)
        finally:
            for hook in hooks:
                hook.remove()
        return found, _Call("", result, total)

    def _why_not(self, path: str) -> str:
        """What keeps the network from being cut behind a submodule; empty where nothing does."""
        if path not in self._tried:
            self._tried[path] = self._try(path)
        return self._tried[path]

    @torch.no_grad()
    def _try(self, path: str) -> str:
        call = self._calls[path]
        if not isinstance(call.output, Tensor):
            return "its output is not a single tensor"
        if call.same(self._whole):
            return "it is the network's output"
        dtype = black_image(self._model, self._image_shape).dtype
        if why := no_representation(call.output, self._double[path], dtype):
            return why
        prefix = HookedPart(self._model, _IMAGE, path, self._image_shape)
        suffix = HookedPart(self._model, path, None, self._image_shape)
        for kind, (images, expected) in self._trials.items():
            try:
                with eval_mode(self._model):
                    found = suffix(prefix(images))
            except Exception as error:
                return f"what comes after it can't be run alone ({type(error).__name__}: {error})"
            if not _same_bits(found, expected):
                if kind == "noise" and found.shape == expected.shape and found.allclose(expected):
                    return "with hooks on it, torch computes it in another way, and other last bits"
                others = "" if kind == "noise" else f" for {kind}, though not for noise"
                return (
                    f"other tensors cross there{others}: something computed before it is used "
                    "after it"
                )
        return ""

    @cached_property
    @torch.no_grad()
    def _trials(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Images of every kind, and what the network itself makes of them; noise comes first."""
        example = black_image(self._model, self._image_shape)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(_TRIED, *self._image_shape, generator=generator).to(example)
        flat = torch.ones_like(noise)
        kinds = {
            "noise": noise,
            "bright images": _BRIGHT * flat,
            "dark images": -_BRIGHT * flat,
            "strong noise": _LOUD * noise,
        }
        if self._images is not None:
            own = self._images.to(example)
            order = own.flatten(1).mean(1).argsort()
            kinds["the data's images"] = own
            kinds["the darkest of the data's images"] = own[order[:1]]
            kinds["the brightest of the data's images"] = own[order[-1:]]
        found = {}
        for kind, images in kinds.items():
            try:
                with eval_mode(self._model):
                    found[kind] = images, self._model(images.clone())
            except Exception as error:
                if "data's" in kind:
                    raise CutError(
                        f"can't take {kind}: {type(error).__name__}: {error}. ({self._why})"
                    ) from error
                # Of images that it will not get, the network may say what it likes.
        return found

    def _distinct(self, paths: Sequence[str]) -> list[str]:
        """One path for each tensor: the block's rather than that of its last activation."""
        kept: list[str] = []
        for path in paths:
            if kept and self._calls[kept[-1]].same(self._calls[path]):
                if not is_row(_module(self._model, path)):
                    kept[-1] = path
            else:
                kept.append(path)
        return kept

    def _auto(self) -> list[str]:
        """One place per block."""
        cuts = [point.name for point in self.cut_points]
        modules = {path: _module(self._model, path) for path in self._order}
        # A submodule that runs several times is still around others.
        outer = [path for path, _ in self._model.named_modules()]
        outer = [path.removeprefix(inner_prefix(self._model)) for path in outer]
        modules |= {path: _module(self._model, path) for path in outer if path}
        places = []
        for path, call in self._calls.items():
            if call.same(self._whole):
                continue
            around = tuple(o for o in outer if o and f"{path}.".startswith(f"{o}."))
            name = next((cut for cut in cuts if self._calls[cut].same(call)), None)
            places.append(Place(name or path, "", name is not None, around, (path,)))
        return list(dict.fromkeys(one_per_block(places, modules)))

    def _path(self, where: int | str) -> str:
        if where == -1:
            return _IMAGE
        if isinstance(where, str):
            return self._place(where)
        if not 0 <= where < len(self.layers):
            raise CutError(
                f"there is no layer {where}: {title(self._model)} has layers 0 to "
                f"{len(self.layers) - 1}, and -1 is the image"
            )
        return self._place(self.layers[where].name)

    def _place(self, name: str) -> str:
        """The path of a cut point, as it is.

        Raises:
            CutError: it is none.
        """
        if name not in self._calls:
            raise CutError(
                f"{title(self._model)} has no submodule {name!r} that runs once, and it can only be "
                f"cut behind such: {nearest(name, self._order)}. ({self._why})"
            )
        if why := self._why_not(name):
            raise CutError(f"no cut behind {name!r}: {why}. ({self._why})")
        return name


def _outside_inference(value: Tensor) -> Tensor:
    """A copy that autograd can keep, where the network computed in inference mode; else the value."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _same_bits(found: Any, expected: Any) -> bool:
    """Whether two outputs are one; what is no number in both counts as equal."""
    if not (isinstance(found, Tensor) and isinstance(expected, Tensor)):
        return False
    if found.shape != expected.shape:
        return False
    return bool(((found == expected) | (found.isnan() & expected.isnan())).all())


def _module(model: nn.Module, path: str) -> nn.Module:
    """The submodule of a path that is known to be one."""
    found = submodule(model, path)
    assert found is not None, path
    return found


Cuttable = TracedNetwork | HookedNetwork
"""A network that can be cut in two, however that is done."""
