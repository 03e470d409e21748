"""Cut a network in two at any place where a single tensor joins the halves.

A network is traced once with torch.fx, in eval mode, into a list of values in the order in which
they are computed. A value is a *cut point* when no other value computed before it is used after it:
then `suffix(prefix(x))` is the network. Inside a residual or dense block several values cross, so
there is no such place. Parameters, buffers and what is computed from them alone do not cross: each
side that uses them refers to the same tensors.

A map is [C, H, W] at every cut. Where a network from elsewhere keeps its channels last, as Swin does, the
part before the cut ends with turning them, and the part after it begins with turning them back.

In-place operations stay what they are, so every sub-network computes the bits of the network
itself; a sub-network in which one could write into its input works on a copy of that input.

Example:
    >>> prefix = create_sub_network(model, -1, 2)
    >>> suffix = create_sub_network(model, 2, None)
    >>> torch.equal(suffix(prefix(images)), model(images))
    True
"""

from __future__ import annotations

import inspect
import operator
import threading
import traceback
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.networks.cutting.blocks import Place, one_per_block

Where = int | str | None
LayerNames = Sequence[str] | Literal["auto"] | None

# Modules and functions whose result never shares memory with an argument. What is not listed may.
_FRESH_MODULES = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.Linear,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
)
_FRESH_FUNCTIONS = {
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.matmul,
    torch.add,
    torch.mul,
    torch.matmul,
    torch.cat,
    torch.clone,
    torch.relu,
    functional.relu,
    functional.linear,
    functional.conv2d,
    functional.batch_norm,
    functional.layer_norm,
}
_SEVERAL_METHODS = {
    *("chunk", "split", "tensor_split", "unsafe_chunk", "unsafe_split", "unbind"),
    *("size", "shape", "topk", "sort", "var_mean", "std_mean"),
}
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
_SEVERAL_MODULES = (nn.MultiheadAttention, nn.RNNBase)


class CutError(InputError):
    """The network can't be cut as asked; the message says why, and where it could be.

    Attributes:
        untraceable: whether torch.fx could not follow the network at all.
    """

    untraceable = False


@dataclass(frozen=True)
class CutPoint:
    """A place where one tensor joins the two halves of a network.

    Attributes:
        name: dotted path of the module whose output the tensor is (of a block rather than of its
            last activation), otherwise the torch.fx node's name.
        kind: type of that module, or the function's name.
        aliases: further names that mean the same place; `"%" + node name` is always one of them.
    """

    name: str
    kind: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What lies before and after a cut point; multiply-adds of convolutions and matrix products.

    Attributes:
        shape: of the tensor there, without the batch; (C, H, W) for maps.
        params_before: parameters of the prefix.
        params_after: parameters of the suffix; those that both use count in both.
        mult_adds_before: of one image in the prefix.
        mult_adds_after: of one image in the suffix.
    """

    shape: tuple[int, ...]
    params_before: int
    params_after: int
    mult_adds_before: int
    mult_adds_after: int


@dataclass(frozen=True)
class Layer:
    """A cut point that serves as a layer of stitching; index 0 is the first, -1 means the image."""

    index: int
    name: str


def cut_points(model: nn.Module) -> list[CutPoint]:
    """Every place where `model` can be cut in two through one tensor, in order of computation.

    The image and the network's output are left out. A value known to be a tuple of tensors
    (`chunk`, attention with its weights) is no cut point.

    Raises:
        CutError: torch.fx can't trace the model.

    Example:
        >>> [point.name for point in cut_points(resnet(3, 10, blocks=[1, 1, 1, 1]))][:4]
        ['conv1', 'bn1', 'relu', 'layer1.0']
    """
    return TracedNetwork(model).cut_points


def layers(model: nn.Module, *, layer_names: LayerNames = None) -> list[Layer]:
    """The layers of stitching: `layer_names`, or the model's own, or else all cut points.

    Args:
        model: a network with one image batch as its input.
        layer_names: names of cut points that replace the model's attribute `layer_names`, or `auto`
            for one per block (`stitch_sweep.networks.cutting.blocks`).

    Raises:
        CutError: one of the names is no cut point, or torch.fx can't trace the model.
    """
    return TracedNetwork(model, layer_names=layer_names).layers


def create_sub_network(
    model: nn.Module,
    start: Where,
    end: Where,
    *,
    layer_names: LayerNames = None,
) -> fx.GraphModule:
    """The part of `model` that maps the value at `start` to the value at `end`.

    It shares the model's modules, parameters and buffers, and with the modules their train or eval
    mode. Tracing happens in eval mode, so the equality with the whole network holds in eval mode.

    Args:
        model: a network with one image batch as its input; it is left as it was.
        start: a layer index, a cut point's name, or -1 or None for the image.
        end: a layer index, a cut point's name, or None for the network's output.
        layer_names: what layer indices mean; by default see `layers`.

    Returns:
        A module from the tensor at `start`, `[batch, ...]`, to the tensor at `end`; the identity
        when both are the same place.

    Raises:
        CutError: a cut that would sever a skip connection, an unknown name or index, a start after
            the end, or a model that torch.fx can't trace.

    Example:
        >>> model = resnet(3, 10, blocks=[1, 1, 1, 1], width=8).eval()
        >>> create_sub_network(model, 1, 3)(torch.zeros(2, 8, 32, 32)).shape
        torch.Size([2, 32, 8, 8])
    """
    return TracedNetwork(model, layer_names=layer_names).sub_network(start, end)


class TracedNetwork:
    """A network traced once, to be cut many times; the functions of this module are shorthands.

    Args:
        model: a network whose `forward` takes one image batch; further parameters keep their
            defaults.
        layer_names: what layer indices mean; by default the model's `layer_names`, or all cut
            points; `auto` for one per block (`stitch_sweep.networks.cutting.blocks`).
        image_shape: `(C, H, W)`; a network from elsewhere knows its own. Where it is known, the network
            is run, and what only shows then counts too: values that are no tensors or whose first axis is
            not that of the batch are no cut points, and maps with channels last are turned.

    Attributes:
        cut_points: see `cut_points`.
        layers: see `layers`.

    Raises:
        CutError: see `cut_points` and `layers`.

    Note:
        torch.fx patches `nn.Module` for the milliseconds it traces: no other thread of the process
        should run a model meanwhile.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layer_names: LayerNames = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        self._model = model
        if image_shape is None and inner_prefix(model):
            image_shape = tuple(model.image_shape)  # type: ignore[arg-type]
        traced = _trace(model)
        self._objects = traced.objects
        self._nodes = traced.nodes
        self._output = self._nodes[-1]
        self._position = {node: position for position, node in enumerate(self._nodes)}
        self._constant = self._find_constants()
        self._last_use = [
            max((self._position[user] for user in node.users if user in self._position), default=-1)
            for node in self._nodes
        ]
        self._label, self._kind, self._names, self._repeated = self._find_names(traced.outputs)
        self._cuts = self._find_cuts()
        self._channels_last: set[int] = set()
        self._unfit: dict[int, str] = {}
        if image_shape is not None:
            self._look(image_shape)
        result = self._output.args[0]
        listed = [p for p in self._cuts if self._nodes[p] is not result]
        self.cut_points: list[CutPoint] = [self._cut_point(position) for position in listed]
        self.layers: list[Layer] = self._find_layers(layer_names)

    def sub_network(self, start: Where, end: Where) -> fx.GraphModule:
        """The part from `start` to `end`: see `create_sub_network`."""
        first = 0 if start is None else self._place(start)
        last = len(self._nodes) - 1 if end is None else self._place(end)
        if first > last:
            raise CutError(
                f"the part would start at {self._describe(self._nodes[first])}, which is computed "
                f"after its end, {self._describe(self._nodes[last])}: swap the two"
            )
        return self._assemble(first, last)[0]

    def shapes(self, image_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Shape of the tensor at every cut point and layer, without the batch dimension.

        Runs the network once, in eval mode, on one black image.

        Args:
            image_shape: `(C, H, W)`.

        Returns:
            Name of cut point or layer to shape: `(C, H, W)` for maps, `(tokens, features)` for
            sequences, ...
        """
        found = self._values(image_shape)
        shapes = {}
        chosen = [layer.name for layer in self.layers]
        for name in [point.name for point in self.cut_points] + chosen:
            position = self._place(name)
            value = found[self._nodes[position]]
            if isinstance(value, torch.Tensor):
                shapes[name] = self._turned(position, tuple(value.shape[1:]))
            elif name in chosen:
                raise CutError(f"no cut at {name!r}: it is {_kind(value)}, not a single tensor")
        return shapes

    def _look(self, image_shape: Sequence[int]) -> None:
        """Run the network on images; leave out what then is no cut point, and find maps to be turned."""
        one, two = (self._values(image_shape, count) for count in (1, 2))
        dtype = black_image(self._model, image_shape).dtype
        for position in self._cuts:
            node = self._nodes[position]
            if node not in one:  # what has an effect only, or is not run in this way
                continue
            why = no_representation(one[node], two[node], dtype)
            if why:
                self._unfit[position] = why
            elif keeps_channels_last(one[node].shape[1:]):
                self._channels_last.add(position)
        self._cuts = [position for position in self._cuts if position not in self._unfit]

    def _values(self, image_shape: Sequence[int], count: int = 1) -> dict[fx.Node, Any]:
        """What every node computes of black images; of tensors the shape alone, without memory.

        Raises:
            CutError: the network can't take such images.
        """
        found: dict[fx.Node, Any] = {}

        class Recorder(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                value = super().run_node(n)
                found[n] = value.to("meta") if type(value) is torch.Tensor else value
                return value

        whole, copies = self._assemble(0, len(self._nodes) - 1)
        image = black_image(self._model, image_shape).expand(count, -1, -1, -1).clone()
        with eval_mode(self._model), torch.no_grad(), refusing(self._model, image_shape):
            Recorder(whole).run(image)
        return {node: found[copy] for node, copy in copies.items() if copy in found}

    def _turned(self, position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        return channels_first(shape) if position in self._channels_last else shape

    def costs(self, image_shape: Sequence[int]) -> dict[str, Cost]:
        """What lies before and after every cut point; runs the network on one black image.

        Args:
            image_shape: `(C, H, W)`.
        """
        done: dict[fx.Node, tuple[int, tuple[int, ...]]] = {}

        class Counter(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                value = super().run_node(n)
                shape = tuple(value.shape[1:]) if isinstance(value, torch.Tensor) else ()
                done[n] = counted(counter), shape
                return value

        whole, copies = self._assemble(0, len(self._nodes) - 1)
        with (
            eval_mode(self._model),
            counting() as counter,
            refusing(self._model, image_shape),
        ):
            Counter(whole).run(black_image(self._model, image_shape))
            total = counted(counter)
        found = {}
        for point in self.cut_points:
            position = self._place(point.name)
            before, shape = done[copies[self._nodes[position]]]
            found[point.name] = Cost(
                self._turned(position, shape),
                params_before=self._parameters(0, position),
                params_after=self._parameters(position, len(self._nodes) - 1),
                mult_adds_before=before,
                mult_adds_after=total - before,
            )
        return found

    def _parameters(self, first: int, last: int) -> int:
        """How many numbers the parameters of a part have."""
        nodes = [n for n in self._needed(first, last) if n.op in ("call_module", "get_attr")]
        return parameter_count(self._objects[str(node.target)] for node in nodes)

    def _auto(self) -> list[str]:
        """One place per block."""
        places = [
            Place(
                self._label[node],
                getattr(node.target, "__name__", str(node.target)),
                position in self._cuts,
                tuple(_modules_around(node)),
                tuple(path for path, end in self._names.items() if end is node),
            )
            for position, node in enumerate(self._nodes[:-1])
            if node.op != "placeholder"
            and not self._constant[position]
            and node is not self._output.args[0]
        ]
        paths = {path for place in places for path in (*place.around, *place.ends)}
        modules = {p: of for p in paths if (of := submodule(self._model, p)) is not None}
        ends = [
            replace(place, ends=tuple(path for path in place.ends if path in modules))
            for place in places
        ]
        return one_per_block(ends, modules)

    def _assemble(self, first: int, last: int) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
        """The part between two positions, and which of its nodes copies which of ours."""
        chosen = self._needed(first, last)
        graph = fx.Graph(tracer_cls=_Tracer)  # unpickling traces again, and must keep the writes
        entry = graph.placeholder(self._nodes[first].name)
        inner = 0 < first < last  # a whole network, from its image on, is run to look at shapes
        if inner and first in self._channels_last:
            entry = _turn(graph, entry, TO_CHANNELS_LAST)
        elif self._writes_into(self._nodes[first], chosen):
            entry = graph.call_method("clone", (entry,))
        copies = {self._nodes[first]: entry}
        for node in chosen:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        end = self._nodes[last]
        if end is not self._output and first < last and last in self._channels_last:
            graph.output(_turn(graph, copies[end], TO_CHANNELS_FIRST))
        else:
            result = end.args[0] if end is self._output else end
            graph.output(fx.map_arg(result, copies.__getitem__))
        used = {
            str(node.target): self._objects[str(node.target)]
            for node in chosen
            if node.op in ("call_module", "get_attr")
        }
        network = fx.GraphModule(used, graph, class_name=f"{type(self._model).__name__}Part")
        for module in network.modules():
            if module is network or type(module) is nn.Module:  # the containers fx has just made
                module.training = self._model.training
        return network, copies

    def _needed(self, first: int, last: int) -> list[fx.Node]:
        """Nodes to copy, in order: what the end needs, and operations with effects on the way."""
        needed = {self._nodes[last]}
        chosen = []
        for position in range(last, -1, -1):
            node = self._nodes[position]
            between = first < position
            if position == first or not (between or self._constant[position]):
                continue
            if node in needed or (between and _effectful(node, self._objects)):
                needed.update(node.all_input_nodes)
                if node is not self._output:
                    chosen.append(node)
        return chosen[::-1]

    def _writes_into(self, start: fx.Node, nodes: list[fx.Node]) -> bool:
        """Whether an in-place operation among `nodes` may write into the memory of `start`."""
        shared = {start}
        for node in nodes:
            written = _written(node, self._objects)
            if any(value in shared for value in written):
                return True
            if not written and not _fresh(node, self._objects):
                shared.update([node] if shared.intersection(node.all_input_nodes) else [])
        return False

    def _find_constants(self) -> list[bool]:
        """Per node, whether it follows from parameters and buffers alone and is not written to."""
        constant = [False] * len(self._nodes)
        for position, node in enumerate(self._nodes):
            constant[position] = node.op == "get_attr" or (
                node.op not in ("placeholder", "output")
                and not _effectful(node, self._objects)
                and all(constant[self._position[value]] for value in node.all_input_nodes)
            )
        for node in self._nodes:
            reached = [n for n in _written(node, self._objects) if constant[self._position[n]]]
            while reached:
                value = reached.pop()
                if value.op == "get_attr":
                    raise CutError(
                        f"{title(self._model)} changes its own {str(value.target)!r} in "
                        f"place at {node.name!r}, in eval mode too: its parts would not be "
                        "functions of their inputs"
                    )
                constant[self._position[value]] = False
                if not _fresh(value, self._objects):
                    reached += value.all_input_nodes
        return constant

    def _find_names(
        self, outputs: dict[fx.Node, list[str]]
    ) -> tuple[dict[fx.Node, str], dict[fx.Node, str], dict[str, fx.Node], dict[str, list[str]]]:
        """Name and kind of every node, node of every name, and paths that mean several nodes."""
        owners: dict[str, list[fx.Node]] = {}
        for node in self._nodes:
            for path in outputs.get(node, ()):
                owners.setdefault(path, []).append(node)
        names = {path: found[0] for path, found in owners.items() if len(found) == 1}
        repeated = {p: [n.name for n in found] for p, found in owners.items() if len(found) > 1}
        label: dict[fx.Node, str] = {}
        kind: dict[fx.Node, str] = {}
        for node in self._nodes:
            around = _modules_around(node)
            paths = [p for p in outputs.get(node, ()) if p in around and names.get(p) is node]
            # A block's output is named after the block, not after a Sequential that ends with it.
            modules = [p for p in paths if not is_row(_lookup(self._model, p))]
            if node is self._output:
                break
            names["%" + node.name] = node
            names.setdefault(node.name, node)
            plain = node.name if names[node.name] is node else "%" + node.name
            label[node] = (modules or paths or [plain])[-1]
            if label[node] in paths or node.op == "call_module":
                path = label[node] if label[node] in paths else str(node.target)
                kind[node] = type(_lookup(self._model, path)).__name__
            else:
                kind[node] = getattr(node.target, "__name__", str(node.target))
        return label, kind, names, repeated

    def _find_cuts(self) -> list[int]:
        """Positions, in order, of the values that alone cross from what is before to the rest."""
        cuts = []
        reach = 0  # the last position at which anything computed so far is used
        for position, node in enumerate(self._nodes[:-1]):
            if self._constant[position]:
                continue
            alone = reach <= position < self._last_use[position]
            if alone and node.op != "placeholder" and not self._several(node):
                cuts.append(position)
            reach = max(reach, self._last_use[position])
        return cuts

    def _several(self, node: fx.Node) -> bool:
        """Whether the node's value is a tuple or a size, as far as can be told unrun."""
        users = [user for user in node.users if user in self._position]
        if users and all(
            user.target is operator.getitem and isinstance(user.args[1], int) for user in users
        ):
            return True
        if any(user.target is getattr and _of_no_tensor(str(user.args[1])) for user in users):
            return True  # `x.max(dim=2).values`
        if node.op == "call_module":
            return isinstance(self._objects[str(node.target)], _SEVERAL_MODULES)
        return getattr(node.target, "__name__", node.target) in _SEVERAL_METHODS

    def _cut_point(self, position: int) -> CutPoint:
        node = self._nodes[position]
        name = self._label[node]
        aliases = sorted(key for key, value in self._names.items() if value is node and key != name)
        return CutPoint(name, self._kind[node], tuple(aliases))

    def _find_layers(self, layer_names: Sequence[str] | None) -> list[Layer]:
        names = getattr(self._model, "layer_names", None) if layer_names is None else layer_names
        if names == "auto":
            names = self._auto()
        if names is None:
            return [Layer(index, point.name) for index, point in enumerate(self.cut_points)]
        return layers_in_order(names, self._named)

    def _place(self, where: int | str) -> int:
        """Position of the value meant by `where`.

        Raises:
            CutError: there is none, or it is no cut point.
        """
        if isinstance(where, str):
            return self._named(where)
        if where == -1:
            return 0
        if not 0 <= where < len(self.layers):
            raise CutError(
                f"there is no layer {where}: {title(self._model)} has layers 0 to "
                f"{len(self.layers) - 1}, and -1 is the image"
            )
        return self._named(self.layers[where].name)

    def _named(self, name: str) -> int:
        node = self._names.get(name)
        if node is None and name in self._repeated:
            calls = ", ".join(repr(call) for call in self._repeated[name])
            raise CutError(
                f"{name!r} runs {len(self._repeated[name])} times; name one run: {calls}"
            )
        if node is None and (whole := self._opaque(name)):
            error = CutError(
                f"torch.fx takes {whole!r} ({_type(self._model, whole)}) of {title(self._model)} as one, "
                f"and {name!r} is in it"
            )
            error.untraceable = True
            raise error
        if node is None:
            points = [self._label[self._nodes[position]] for position in self._cuts]
            hint = nearest(name, points if len(points) <= 40 else self._names)
            if len(hint) > 1000:
                hint = f"it has {len(points)} cut points, from {points[0]!r} to {points[-1]!r}"
            raise CutError(f"{title(self._model)} has no cut point {name!r}: {hint}")
        position = self._position[node]
        if position == 0 or position in self._cuts:
            return position
        raise CutError(self._why_not(position))

    def _opaque(self, name: str) -> str:
        """The module that runs as one value and holds the module of that name; empty if none does."""
        if submodule(self._model, name) is None:
            return ""
        run = {str(node.target) for node in self._nodes if node.op == "call_module"}
        return next((path for path in run if name.startswith(f"{path}.")), "")

    def _why_not(self, position: int) -> str:
        node = self._nodes[position]
        here = self._describe(node)
        skips = [
            p
            for p in range(position)
            if not self._constant[p]
            and self._last_use[p] > position
            and not self._constant[position]
        ]
        if skips:
            parts = [
                f"{self._describe(self._nodes[p])} is used again after it, by "
                f"{self._describe(self._nodes[self._last_use[p]])}"
                for p in skips[:4]
            ]
            more = f"; and {len(skips) - 4} more" if len(skips) > 4 else ""
            reason = f"a cut there would sever a skip connection: {'; '.join(parts)}{more}"
        elif self._constant[position]:
            reason = "it does not depend on the image"
        elif position in self._unfit:
            reason = self._unfit[position]
        else:
            reason = "it is not a single tensor"
        before = self._cuts[: bisect_left(self._cuts, position)][-1:]
        after = self._cuts[bisect_right(self._cuts, position) :][:1]
        near = [f"{self._label[self._nodes[p]]!r} before it" for p in before]
        near += [f"{self._label[self._nodes[p]]!r} after it" for p in after]
        hint = " and ".join(near) if near else "none, this network can't be cut"
        return f"no cut at {here}: {reason}. Nearest places that work: {hint}"

    def _describe(self, node: fx.Node) -> str:
        if node.op == "placeholder":
            return "the image"
        if node.op == "output":
            return "the network's output"
        around = _modules_around(node)
        name = self._label[node]
        inside = around[-1] if around and "." not in name and around[-1] != name else ""
        return f"{name!r} (in {inside})" if inside else repr(name)


def _of_no_tensor(attribute: str) -> bool:
    """Whether a value with such an attribute is no tensor, but a tuple with names."""
    of = getattr(torch.Tensor, attribute, None)
    return of is None or callable(of)


def no_representation(one: Any, two: Any, dtype: torch.dtype) -> str:
    """Why a stitch couldn't take a value, from what it is for one image and for two; or empty.

    Args:
        one: the value for one image.
        two: the value for two images.
        dtype: of the images, in which stitches compute.
    """
    if not isinstance(one, torch.Tensor):
        return f"it is {_kind(one)}, not a single tensor"
    if one.dtype != dtype:
        got, wanted = (str(kind).removeprefix("torch.") for kind in (one.dtype, dtype))
        return f"it is a tensor of {got}, and stitches compute in {wanted}"
    shapes = [tuple(one.shape), tuple(two.shape)]
    if shapes == [(1, *shapes[0][1:]), (2, *shapes[0][1:])]:
        return ""
    return (
        f"its first axis is not that of the images: for one it is {list(shapes[0])}, for two "
        f"{list(shapes[1])}, and a stitch takes [B, ...]; where the batch comes second, cut before it is "
        "brought there or after it is brought back"
    )


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


@contextmanager
def refusing(model: nn.Module, image_shape: Sequence[int]) -> Iterator[None]:
    """What a network raises for an image, as an input error.

    Raises:
        CutError: it raised something.
    """
    try:
        yield
    except CutError:
        raise
    except Exception as error:  # it is anybody's code
        reason = str(error).strip().partition("\n")[0]
        raise CutError(
            f"{title(model)} can't take an image of shape {tuple(image_shape)}: {reason}"
        ) from error


def _turn(graph: fx.Graph, node: fx.Node, order: tuple[int, ...]) -> fx.Node:
    """A copy in another order of axes; in memory too, on which the bits of what follows may depend."""
    turned = graph.call_method("permute", (node, *order))
    return graph.call_method("clone", (turned,), {"memory_format": torch.contiguous_format})


def _modules_around(node: fx.Node) -> list[str]:
    """Paths of the modules in whose `forward` the node arose, outermost first."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]


def _lookup(model: nn.Module, path: str) -> Any:
    """The module, parameter or buffer that a traced path means; a wrapped network's come first.

    Raises:
        AttributeError: there is none.
    """
    try:
        return operator.attrgetter(inner_prefix(model) + path)(model)
    except AttributeError:
        return operator.attrgetter(path)(model)


def _type(model: nn.Module, path: str) -> str:
    return type(_lookup(model, path)).__name__


def inner_prefix(model: nn.Module) -> str:
    """What a wrapper puts before the names of the network in it; nothing for any other module."""
    # Of the class: a network may well have a part of that name.
    prefix = getattr(type(model), "inner_prefix", "")
    return prefix if isinstance(prefix, str) else ""


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """The module that a place's name means, if it means one; a wrapped network's come first."""
    try:
        found = _lookup(model, path)
    except AttributeError:
        return None
    return found if isinstance(found, nn.Module) else None


def layers_in_order(names: Sequence[str], find: Callable[[str], int]) -> list[Layer]:
    """The layers of these names.

    Args:
        names: of cut points.
        find: position of a cut point in the order of computation; raises `CutError` where it is none.

    Raises:
        CutError: some are no cut points, each with its reason; or the order is not that of computation.
    """
    positions: list[int] = []
    problems: list[CutError] = []
    for name in names:
        try:
            positions.append(find(str(name)))
        except CutError as error:
            problems.append(error)
    if problems:
        found = CutError(*(text for error in problems for text in error.problems))
        found.untraceable = any(error.untraceable for error in problems)
        raise found
    if positions != sorted(set(positions)):
        raise CutError(f"layers must be named in the order of computation, once each: {names}")
    return [Layer(index, str(name)) for index, name in enumerate(names)]


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W, C) to (C, H, W)."""
    return (shape[2], *shape[:2])


def keeps_channels_last(shape: Sequence[int]) -> bool:
    """Whether a map is (H, W, C) rather than (C, H, W).

    Images are square here, so the two sides that are equal are its height and width; where all three are
    equal, it is taken for (C, H, W).
    """
    return len(shape) == 3 and shape[0] == shape[1] != shape[2]


def is_row(module: nn.Module) -> bool:
    """Whether a module only runs others, one after the other."""
    return type(module) is nn.Sequential or _is_encoder(module)


def _is_encoder(module: nn.Module) -> bool:
    return isinstance(module, nn.TransformerEncoder) and (
        type(module).forward is nn.TransformerEncoder.forward
    )


def _encode(encoder: nn.TransformerEncoder, value: Any) -> Any:
    """What the encoder computes of a value alone, without the questions that torch.fx can't follow."""
    for layer in encoder.layers:
        value = layer(value, src_mask=None, is_causal=False, src_key_padding_mask=None)
    return value if encoder.norm is None else encoder.norm(value)


def black_image(model: nn.Module, image_shape: Sequence[int]) -> torch.Tensor:
    """One black image, `[1, C, H, W]`, of the type and on the device of the model's parameters."""
    example = next(model.parameters(), torch.zeros(()))
    return torch.zeros(1, *image_shape, dtype=example.dtype, device=example.device)


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count what is computed; attention takes no short cut that could not be counted."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def counted(counter: FlopCounterMode) -> int:
    """Multiply-adds so far: two of torch's floating-point operations each."""
    return counter.get_total_flops() // 2


def parameter_count(holders: Iterable[Any]) -> int:
    """Numbers in the parameters of modules, and in parameters, each counted once."""
    found: dict[int, int] = {}
    for holder in holders:
        of = holder.parameters() if isinstance(holder, nn.Module) else [holder]
        found |= {id(p): p.numel() for p in of if isinstance(p, nn.Parameter)}
    return sum(found.values())


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module of `model` into eval mode, and afterwards back into its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class _Trace:
    """Live nodes in order, the objects they name, and whose output each node is."""

    nodes: list[fx.Node]
    objects: dict[str, Any]
    outputs: dict[fx.Node, list[str]]


def _write(operation: str, target: Any, value: Any) -> Any:
    """`target += value` and its like, as a node of a graph."""
    return getattr(operator, operation)(target, value)


class _Proxy(fx.Proxy):
    """A proxy that records `+=` and `x[i] = y` as the writes they are.

    Plain torch.fx records `y += 1` as `y + 1`, which differs wherever the tensor has a second name,
    and refuses item assignment.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


def _recorder(operation: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def record(self: fx.Proxy, value: Any) -> fx.Proxy:
        arguments = (operation, self, value)
        return self.tracer.create_proxy(
            "call_function", _write, arguments, {}, name=operation.removeprefix("i")
        )

    return record


for _operation in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior"):
    setattr(_Proxy, f"__{_operation}__", _recorder(_operation))


class _Tracer(fx.Tracer):
    """Remembers which module's output each value is, and where tracing stopped."""

    proxy_buffer_attributes = True  # a buffer read in `forward` stays that buffer

    def __init__(self, inner: str = "") -> None:
        super().__init__()
        self.outputs: dict[fx.Node, list[str]] = {}
        self.failed_in = ""
        self._opened: nn.Module | None = None  # of torch's own modules, one that is traced into
        self._inner = inner  # what a wrapper puts before the names of the network in it

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m is self._opened:
            return False
        return getattr(m, "traced_as_one", False) or super().is_leaf_module(
            m, module_qualified_name
        )

    def path_of_module(self, mod: nn.Module) -> str:
        path = super().path_of_module(mod)
        return "" if path + "." == self._inner else path.removeprefix(self._inner)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        if kind == "get_attr":
            target = target.removeprefix(self._inner)
        return super().create_node(kind, target, *args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        alone = len(args) == 1 and all(given is None or given is False for given in kwargs.values())
        if alone and isinstance(m, nn.TransformerEncoder) and _is_encoder(m):
            self._opened, forward = m, partial(_encode, m)
            kwargs = {}
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or (f"{path} ({type(m).__name__})" if path else "")
            raise
        if isinstance(result, fx.Proxy) and path:
            self.outputs.setdefault(result.node, []).append(path)
        return result


_tracing = threading.Lock()


def _trace(model: nn.Module) -> _Trace:
    """Trace `model` as a function of its first argument and leave it as it was.

    Raises:
        CutError: it needs more than an image, or torch.fx can't follow its `forward`.
    """
    defaults = _defaults(model)
    tracer = _Tracer(inner_prefix(model))
    with _tracing, eval_mode(model):
        # `forward` may store proxies on modules, fx stores constants on the model: both go again.
        attributes = [(module, dict(module.__dict__)) for module in model.modules()]
        try:
            graph = tracer.trace(model, concrete_args=defaults or None)
            objects = {
                str(node.target): _lookup(model, str(node.target))
                for node in graph.nodes
                if node.op in ("call_module", "get_attr")
            }
        except Exception as error:
            obstacle = CutError(_obstacle(model, tracer, error))
            obstacle.untraceable = True
            raise obstacle from error
        finally:
            for module, before in attributes:
                module.__dict__.clear()
                module.__dict__.update(before)
    nodes = _live_nodes(graph, objects)
    extra = [str(node.target) for node in nodes[1:] if node.op == "placeholder"]
    if extra:
        raise CutError(
            f"{type(model).__name__}.forward uses more than the image: {', '.join(extra)}"
        )
    return _Trace(nodes, objects, tracer.outputs)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Default of every parameter of `forward` after the image."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    name = type(model).__name__
    if not parameters or parameters[0].kind in variadic:
        raise CutError(f"{name}.forward has no parameter for the image, so it can't be cut")
    rest = [parameter for parameter in parameters[1:] if parameter.kind not in variadic]
    needed = [parameter.name for parameter in rest if parameter.default is parameter.empty]
    if needed:
        raise CutError(
            f"{name}.forward needs more than the image: {', '.join(needed)}; wrap it in a module "
            "that takes one tensor"
        )
    return {parameter.name: parameter.default for parameter in rest}


def _obstacle(model: nn.Module, tracer: _Tracer, error: Exception) -> str:
    """What kept torch.fx from tracing: the error, the module and the line of the model's code."""
    inner = (Path(torch.__file__).parent.as_posix(), Path(__file__).as_posix())
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(inner) and Path(frame.filename).exists()
    ]
    line = f", at {frames[-1].filename}:{frames[-1].lineno}: `{frames[-1].line}`" if frames else ""
    inside = f" in {tracer.failed_in}" if tracer.failed_in else ""
    reason = str(error).strip().partition("\n")[0]
    return (
        f"torch.fx can't trace {title(model)}: {type(error).__name__}{inside}{line}: "
        f"{reason}. A `forward` that branches or loops on the values of tensors can't be cut"
    )


def title(model: nn.Module) -> str:
    """The type of the network itself, not of what wraps it."""
    return type(model.get_submodule(inner_prefix(model).removesuffix("."))).__name__


def _live_nodes(graph: fx.Graph, objects: dict[str, Any]) -> list[fx.Node]:
    """The image, then what the output needs or has an effect, then the output, in order.

    Parameters with defaults, and fx's checks that they have them, are left out.
    """
    nodes = list(graph.nodes)
    image = nodes[0]
    fixed: set[fx.Node] = set()
    for node in nodes[1:]:
        if node.op == "placeholder" or (
            node.all_input_nodes and fixed.issuperset(node.all_input_nodes)
        ):
            fixed.add(node)
    live = {image}
    for node in reversed(nodes):
        if node.op == "output" or node in live or _effectful(node, objects):
            live.update([node, *node.all_input_nodes] if node not in fixed else [])
    return [node for node in nodes if node in live]


def _written(node: fx.Node, objects: dict[str, Any]) -> list[fx.Node]:
    """The values an operation writes into: none unless it works in place."""
    target = node.target
    if node.op == "call_module":
        in_place = getattr(objects[str(target)], "inplace", False) is True
    elif node.op == "call_method":
        in_place = str(target).endswith("_") and not str(target).endswith("__")
    elif node.op == "call_function":
        if node.kwargs.get("out") is not None:
            found: list[fx.Node] = []
            fx.map_arg(node.kwargs["out"], found.append)
            return found
        if isinstance(target, torch._ops.OpOverload):
            return node.all_input_nodes if target._schema.is_mutable else []
        name = getattr(target, "__name__", "")
        in_place = (
            target in (_write, operator.setitem)
            or (name.endswith("_") and not name.endswith("__"))
            or bool(_argument(node, "inplace"))
        )
    else:
        in_place = False
    return node.all_input_nodes[:1] if in_place else []


def _argument(node: fx.Node, name: str) -> Any:
    """Value a function node passes for its parameter `name`, however it passes it."""
    if name in node.kwargs or not callable(node.target):
        return node.kwargs.get(name)
    try:
        bound = inspect.signature(node.target).bind_partial(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # a built-in without a signature
        return None
    return bound.arguments.get(name)


def _effectful(node: fx.Node, objects: dict[str, Any]) -> bool:
    """Whether the node does more than compute its value: a write, a random draw, a check."""
    if node.op == "call_module":
        module = objects[str(node.target)]
        return bool(_written(node, objects)) or getattr(module, "_is_impure", False)
    if node.op == "call_function" and node.is_impure():
        return True
    return bool(_written(node, objects))


def _fresh(node: fx.Node, objects: dict[str, Any]) -> bool:
    """Whether the node's value surely has memory of its own."""
    if node.op == "call_module":
        return isinstance(objects[str(node.target)], _FRESH_MODULES)
    if node.op == "call_function":
        return node.target in _FRESH_FUNCTIONS
    return node.op == "call_method" and node.target == "clone"
