"""Cut a network into two parts at any place where a single tensor joins them.

torch.fx traces a network once, in eval mode, into a list of values in the order in which they are
computed. A value is a *cut point* if no other value that is computed before it is used after it. In this
case `suffix(prefix(x))` equals the network. Inside a residual or dense block several values cross, so
there is no cut point. Parameters, buffers and values computed from them alone do not cross: each side
that uses them refers to the same tensors.

Every part of a network computes the same bits as the network itself, because in-place operations stay in
place. A part that could write into its input works on a copy of that input.

Example:
    >>> prefix = create_sub_network(model, -1, 2)
    >>> suffix = create_sub_network(model, 2, None)
    >>> torch.equal(suffix(prefix(images)), model(images))
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from stitch_sweep.config.pairs import IMAGE_LAYER
from stitch_sweep.networks.cutting.assembly import assemble_part
from stitch_sweep.networks.cutting.blocks import NetworkValue, one_per_block
from stitch_sweep.networks.cutting.channels import channels_first, keeps_channels_last
from stitch_sweep.networks.cutting.explanations import explain_no_cut, explain_unknown_name
from stitch_sweep.networks.cutting.graph import NetworkGraph
from stitch_sweep.networks.cutting.modules import inner_prefix, network_type_name, submodule
from stitch_sweep.networks.cutting.names import function_name, modules_around
from stitch_sweep.networks.cutting.points import (
    Cost,
    CutError,
    CutPoint,
    Layer,
    LayerNames,
    Location,
    describe_type,
    explain_missing_layer,
    explain_unstitchable,
    layers_in_order,
)
from stitch_sweep.networks.cutting.running import (
    black_image,
    count_operations,
    eval_mode,
    multiply_adds,
    raise_cut_errors,
)


def cut_points(model: nn.Module) -> list[CutPoint]:
    """List every place where a single tensor joins two parts of `model`, in order of computation.

    The image and the network's output are excluded, and so are values that the graph shows to be tuples
    of tensors (`chunk`, attention with its weights).

    Raises:
        CutError: torch.fx can't trace the model.

    Example:
        >>> [point.name for point in cut_points(resnet(3, 10, blocks=[1, 1, 1, 1]))][:4]
        ['conv1', 'bn1', 'relu', 'layer1.0']
    """
    return TracedNetwork(model).cut_points


def layers(model: nn.Module, *, layer_names: LayerNames = None) -> list[Layer]:
    """List the layers of stitching: `layer_names`, or the model's own, or else all cut points.

    Args:
        model: a network with one image batch as its input.
        layer_names: names of cut points that replace the model's attribute `layer_names`, or `auto`
            for one per block (`stitch_sweep.networks.cutting.blocks`).

    Raises:
        CutError: one of the names is not a cut point, or torch.fx can't trace the model.
    """
    return TracedNetwork(model, layer_names=layer_names).layers


def create_sub_network(
    model: nn.Module,
    start: Location,
    end: Location,
    *,
    layer_names: LayerNames = None,
) -> fx.GraphModule:
    """Build the part of `model` that maps the value at `start` to the value at `end`.

    The part shares the model's modules, parameters and buffers, and with the modules their train or eval
    mode. Tracing happens in eval mode, so the parts equal the whole network in eval mode.

    Args:
        model: a network with one image batch as its input; it stays unchanged.
        start: a layer index, a cut point's name, or -1 or None for the image.
        end: a layer index, a cut point's name, or None for the network's output.
        layer_names: the meaning of layer indices; by default see `layers`.

    Returns:
        A module from the tensor at `start`, `[batch, ...]`, to the tensor at `end`; the identity
        if both are the same place.

    Raises:
        CutError: a cut would sever a skip connection, a name or index is unknown, the start comes after
            the end, or torch.fx can't trace the model.

    Example:
        >>> model = resnet(3, 10, blocks=[1, 1, 1, 1], width=8).eval()
        >>> create_sub_network(model, 1, 3)(torch.zeros(2, 8, 32, 32)).shape
        torch.Size([2, 32, 8, 8])
    """
    return TracedNetwork(model, layer_names=layer_names).sub_network(start, end)


class TracedNetwork:
    """A network that is traced once and can be cut many times; this module's functions are shorthands.

    torch.fx patches `nn.Module` during the milliseconds of tracing, so no other thread of the process
    should run a model at the same time.

    Args:
        model: a network whose `forward` takes one image batch; further parameters keep their
            defaults.
        layer_names: the meaning of layer indices; by default the model's `layer_names`, or all cut
            points; `auto` for one per block (`stitch_sweep.networks.cutting.blocks`).
        image_shape: `(C, H, W)`; an external network has its own. If it is given, the network runs on
            images. Values that aren't tensors, or whose first axis is not the batch, are then not cut
            points, and maps with channels last become channels first at the cuts.

    Attributes:
        cut_points: see `cut_points`.
        layers: see `layers`.

    Raises:
        CutError: see `cut_points` and `layers`.
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
        self._graph = NetworkGraph(model)
        self._cuts = self._graph.find_cuts()
        self._channels_last: set[int] = set()
        self._unfit: dict[int, str] = {}
        self._values_of_one: tuple[tuple[int, ...], dict[fx.Node, Any]] | None = None
        if image_shape is not None:
            self._inspect_values(image_shape)
        nodes = self._graph.nodes
        self.cut_points: list[CutPoint] = [
            self._cut_point(nodes[p]) for p in self._cuts if nodes[p] is not self._graph.result
        ]
        self.layers: list[Layer] = self._find_layers(layer_names)

    def sub_network(self, start: Location, end: Location) -> fx.GraphModule:
        """Build the part from `start` to `end`: see `create_sub_network`."""
        first = 0 if start is None else self._locate(start)
        last = self._graph.last if end is None else self._locate(end)
        if first > last:
            describe, nodes = self._graph.names.describe, self._graph.nodes
            raise CutError(
                f"the part would start at {describe(nodes[first])}, which is computed "
                f"after its end, {describe(nodes[last])}: swap the two"
            )
        return assemble_part(self._graph, first, last, self._channels_last)[0]

    def shapes(self, image_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Return the shape of the tensor at every cut point and layer, without the batch dimension.

        Runs the network in eval mode on one black image, once for each new image shape.

        Args:
            image_shape: `(C, H, W)`.

        Returns:
            Name of cut point or layer to shape: `(C, H, W)` for maps, `(tokens, features)` for
            sequences, ...

        Raises:
            CutError: the network doesn't accept images of this shape, or a layer's value is not a
                single tensor.
        """
        if self._values_of_one is None or self._values_of_one[0] != tuple(image_shape):
            self._values_of_one = tuple(image_shape), self._values(image_shape)
        values = self._values_of_one[1]
        shapes = {}
        layer_names = [layer.name for layer in self.layers]
        for name in [point.name for point in self.cut_points] + layer_names:
            position = self._locate_name(name)
            value = values[self._graph.nodes[position]]
            if isinstance(value, torch.Tensor):
                shapes[name] = self._shape_at_cut(position, tuple(value.shape[1:]))
            elif name in layer_names:
                raise CutError(
                    f"no cut at {name!r}: it is {describe_type(value)}, not a single tensor"
                )
        return shapes

    def costs(self, image_shape: Sequence[int]) -> dict[str, Cost]:
        """Measure the parts before and after every cut point; runs the network on one black image.

        Args:
            image_shape: `(C, H, W)`.

        Raises:
            CutError: the network doesn't accept images of this shape.
        """
        measured: dict[fx.Node, tuple[int, tuple[int, ...]]] = {}

        class CountingInterpreter(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                value = super().run_node(n)
                shape = tuple(value.shape[1:]) if isinstance(value, torch.Tensor) else ()
                measured[n] = multiply_adds(counter), shape
                return value

        graph = self._graph
        whole, copies = assemble_part(graph, 0, graph.last, self._channels_last)
        with (
            eval_mode(self._model),
            count_operations() as counter,
            raise_cut_errors(self._model, image_shape),
        ):
            CountingInterpreter(whole).run(black_image(self._model, image_shape))
            total = multiply_adds(counter)
        costs = {}
        for point in self.cut_points:
            position = self._locate_name(point.name)
            before, shape = measured[copies[graph.nodes[position]]]
            costs[point.name] = Cost(
                self._shape_at_cut(position, shape),
                params_before=graph.count_parameters(0, position),
                params_after=graph.count_parameters(position, graph.last),
                mult_adds_before=before,
                mult_adds_after=total - before,
            )
        return costs

    def _inspect_values(self, image_shape: Sequence[int]) -> None:
        """Run the network on images; remove unfit values from the cuts, and find channels-last maps."""
        values_for_one, values_for_two = (self._values(image_shape, count) for count in (1, 2))
        self._values_of_one = tuple(image_shape), values_for_one
        dtype = black_image(self._model, image_shape).dtype
        for position in self._cuts:
            node = self._graph.nodes[position]
            if (
                node not in values_for_one
            ):  # the node has only an effect, or can't run on the device meta
                continue
            reason = explain_unstitchable(values_for_one[node], values_for_two[node], dtype)
            if reason:
                self._unfit[position] = reason
            elif keeps_channels_last(values_for_one[node].shape[1:]):
                self._channels_last.add(position)
        self._cuts = [position for position in self._cuts if position not in self._unfit]

    def _values(self, image_shape: Sequence[int], count: int = 1) -> dict[fx.Node, Any]:
        """Return the value of every node for black images, as tensors without memory on the device meta.

        Raises:
            CutError: the network doesn't accept images of this shape.
        """
        values: dict[fx.Node, Any] = {}

        class RecordingInterpreter(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                value = super().run_node(n)
                values[n] = value.to("meta") if type(value) is torch.Tensor else value
                return value

        whole, copies = assemble_part(self._graph, 0, self._graph.last, self._channels_last)
        image = black_image(self._model, image_shape).expand(count, -1, -1, -1).clone()
        with eval_mode(self._model), torch.no_grad(), raise_cut_errors(self._model, image_shape):
            RecordingInterpreter(whole).run(image)
        return {node: values[copy] for node, copy in copies.items() if copy in values}

    def _shape_at_cut(self, position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a value's shape as a stitch sees it."""
        return channels_first(shape) if position in self._channels_last else shape

    def _cut_point(self, node: fx.Node) -> CutPoint:
        names = self._graph.names
        return CutPoint(names.label[node], names.kind[node], tuple(names.aliases(node)))

    def _find_layers(self, layer_names: LayerNames) -> list[Layer]:
        names = getattr(self._model, "layer_names", None) if layer_names is None else layer_names
        if names == "auto":
            names = one_per_block(*self._values_and_modules())
        if names is None:
            return [Layer(index, point.name) for index, point in enumerate(self.cut_points)]
        return layers_in_order(names, self._locate_name)

    def _values_and_modules(self) -> tuple[list[NetworkValue], dict[str, nn.Module]]:
        """Return the arguments of `one_per_block`."""
        graph, names = self._graph, self._graph.names
        nodes = [
            (position, node)
            for position, node in enumerate(graph.nodes[:-1])
            if node.op != "placeholder"
            and not graph.constant[position]
            and node is not graph.result
        ]
        ends: dict[fx.Node, list[str]] = {node: [] for _, node in nodes}
        for path, node in names.nodes.items():
            if node in ends:
                ends[node].append(path)
        paths = {path for _, node in nodes for path in (*modules_around(node), *ends[node])}
        modules = {path: m for path in paths if (m := submodule(self._model, path)) is not None}
        values = [
            NetworkValue(
                names.label[node],
                function_name(node),
                position in self._cuts,
                tuple(modules_around(node)),
                tuple(path for path in ends[node] if path in modules),
            )
            for position, node in nodes
        ]
        return values, modules

    def _locate(self, location: int | str) -> int:
        """Return the position of a layer, a cut point or the image.

        Raises:
            CutError: there is no such place, or it is not a cut point.
        """
        if isinstance(location, str):
            return self._locate_name(location)
        if location == IMAGE_LAYER:
            return 0
        if not 0 <= location < len(self.layers):
            name = network_type_name(self._model)
            raise CutError(explain_missing_layer(name, location, len(self.layers)))
        return self._locate_name(self.layers[location].name)

    def _locate_name(self, name: str) -> int:
        node = self._graph.names.nodes.get(name)
        if node is None:
            raise explain_unknown_name(self._graph, name, self._cuts)
        position = self._graph.position[node]
        if position == 0 or position in self._cuts:
            return position
        raise CutError(explain_no_cut(self._graph, position, self._cuts, self._unfit))
