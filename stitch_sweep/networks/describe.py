"""Describe a network: its layer table, parameters, multiply-adds, layers of stitching and cut points."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torchinfo
from rich.console import Console
from rich.table import Table
from torch import nn
from torchinfo.layer_info import LayerInfo

from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.cutting.opening import CuttableNetwork, open_network
from stitch_sweep.networks.cutting.points import CutError
from stitch_sweep.networks.cutting.running import (
    black_image,
    count_operations,
    eval_mode,
    multiply_adds,
)

_DEPTH = 3
_TABLE_WIDTH = 90
_WIDEST = 10_000
"""Width of the console for tables of cut points: no line is wrapped."""
_SHAPE_COLUMN, _COUNT_COLUMN = 41, 67


@dataclass(frozen=True)
class TableRow:
    """One module of the network, in order of computation.

    Attributes:
        label: type, depth, and a number within the depth, such as "BasicBlock: 2-1"; only the type for
            the root.
        path: dotted path of the module; empty for the root.
        depth: 0 for the root.
        shape: shape of the output, `[1, C, H, W]` or `[1, features]`; None for the root.
        params: parameters that are in no deeper row; None without such parameters.
        head: whether the row belongs to the last linear layers, which give the logits.
    """

    label: str
    path: str
    depth: int
    shape: list[int] | None
    params: int | None
    head: bool


@dataclass(frozen=True)
class LayerRow:
    """One layer of stitching: its index, its cut point's name, its shape without the batch."""

    index: int
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CutRow:
    """One place where the network can be cut in two.

    Attributes:
        index: its number, in order of computation.
        name: its name for `layers` in a configuration.
        shape: shape of the tensor at the cut, without the batch.
        params_before: parameters of the part before it.
        params_after: parameters of the part after it; parameters that both parts use count in both.
        mult_adds_before: multiply-adds of one image in the part before it, of convolutions and matrix
            products.
        mult_adds_after: multiply-adds of one image in the part after it.
        layer: its index among the default layers of stitching; None if it is not a default layer.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    params_before: int
    params_after: int
    mult_adds_before: int
    mult_adds_after: int
    layer: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {**asdict(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class ModelDescription:
    """The result of `describe`; counts are for one image.

    Attributes:
        rows: the modules down to depth 3.
        layers: the layers of stitching: the model's own, or one per block; empty if the network can't be
            cut.
        cut_points: every place where the network can be cut.
        total_params: parameters, including the head.
        params_without_head: parameters without the last linear layer.
        trainable_params: parameters with `requires_grad`.
        mult_adds: multiply-adds of convolutions and matrix products, including attention's.
        input_mb: size of the image, in 10^6 bytes like the next two.
        activations_mb: size of the outputs of all layers with parameters, twice (values and gradients).
        params_mb: size of the parameters.
        no_layers: the reason why the network can't be cut; empty if it can.
    """

    rows: list[TableRow]
    layers: list[LayerRow]
    cut_points: list[CutRow]
    total_params: int
    params_without_head: int
    trainable_params: int
    mult_adds: int
    input_mb: float
    activations_mb: float
    params_mb: float
    no_layers: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain lists, numbers and strings, for JSON."""
        description = asdict(self)
        for key in ("layers", "cut_points"):
            description[key] = [{**row, "shape": list(row["shape"])} for row in description[key]]
        return description

    def table(self) -> str:
        """Return the tree table with totals, in torchinfo's form, then the layers of stitching."""
        rule = "=" * _TABLE_WIDTH
        lines = [rule, _columns("Layer (type:depth-idx)", "Output Shape", "Param #"), rule]
        for row in self.rows:
            indent = "" if row.depth == 0 else "├─" if row.depth == 1 else "│    " * (row.depth - 1)
            corner = "└─" if row.depth > 1 else ""
            shape = "--" if row.shape is None else str(row.shape)
            params = "--" if row.params is None else f"{row.params:,}"
            lines.append(_columns(f"{indent}{corner}{row.label}", shape, params))
        total_mb = self.input_mb + self.activations_mb + self.params_mb
        lines += [
            rule,
            f"Total params: {self.total_params:,}",
            f"Without the head: {self.params_without_head:,}",
            f"Trainable params: {self.trainable_params:,}",
            f"Non-trainable params: {self.total_params - self.trainable_params:,}",
            f"Total mult-adds (G): {self.mult_adds / 1e9:.2f}",
            rule,
            f"Input size (MB): {self.input_mb:.2f}",
            f"Forward/backward pass size (MB): {self.activations_mb:.2f}",
            f"Params size (MB): {self.params_mb:.2f}",
            f"Estimated Total Size (MB): {total_mb:.2f}",
            rule,
        ]
        if self.cut_points:
            lines += [*cut_table(self.cut_points), rule]
        lines += [_columns("Layer of stitching", "Shape", "Index"), rule]
        lines += [_columns(row.name, str(list(row.shape)), str(row.index)) for row in self.layers]
        lines += [self.no_layers] if self.no_layers else []
        return "\n".join([*lines, rule])

    def __str__(self) -> str:
        return self.table()


def describe(model: nn.Module, image_shape: Sequence[int]) -> ModelDescription:
    """Measure shapes, parameters and multiply-adds of `model` for one image, with torchinfo.

    The model runs a few times, in eval mode, on a black image, and stays unchanged.

    Args:
        model: a network with one image batch as its input.
        image_shape: `(C, H, W)`, each at least 1.

    Raises:
        InputError: the shape is not an image's shape, or the network doesn't accept images of this shape.

    Example:
        >>> family, options = resolve("resnet34")
        >>> describe(build(family, 3, 10, options), (3, 32, 32)).params_without_head
        21276992
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise InputError(
            f"the image shape must be (C, H, W) with numbers of at least 1, not {image_shape}"
        )
    image = black_image(model, image_shape)
    try:
        with eval_mode(model), count_operations() as counter:
            summary = torchinfo.summary(
                model, input_data=image, depth=_DEPTH, verbose=0, device=image.device
            )
    except RuntimeError as error:
        reason = str(error.__cause__ or error)
        raise InputError(
            f"{type(model).__name__} can't take an image of shape {tuple(image_shape)}: {reason}"
        ) from error
    paths = {id(module): path for path, module in model.named_modules()}
    head = _head(model)
    in_head = {id(module) for module in head.modules()} if head is not None else set()
    rows = [
        TableRow(
            label=info.get_layer_name(show_var_name=False, show_depth=True),
            path=paths[info.layer_id],
            depth=info.depth,
            shape=list(info.output_size) if info.depth else None,
            params=_shown_params(info),
            head=info.layer_id in in_head,
        )
        for info in summary.summary_list
        if info.depth <= _DEPTH
    ]
    head_params = sum(value.numel() for value in head.parameters()) if head is not None else 0
    layers, cut_points, no_layers = _layers(model, image_shape)
    return ModelDescription(
        rows=rows,
        layers=layers,
        cut_points=cut_points,
        total_params=summary.total_params,
        params_without_head=summary.total_params - head_params,
        trainable_params=summary.trainable_params,
        mult_adds=multiply_adds(counter),
        input_mb=summary.total_input / 1e6,
        activations_mb=summary.total_output_bytes / 1e6,
        params_mb=summary.total_param_bytes / 1e6,
        no_layers=no_layers,
    )


def _columns(name: str, shape: str, count: str) -> str:
    """Format one line of the tree table."""
    return f"{name:<{_SHAPE_COLUMN}}{shape:<{_COUNT_COLUMN - _SHAPE_COLUMN}}{count}"


def _head(model: nn.Module) -> nn.Linear | None:
    """Return the last linear layer, which computes the logits; None without linear layers."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _shown_params(info: LayerInfo) -> int | None:
    """Return the parameters of a row that are in no deeper row."""
    whole = info.is_leaf_layer or info.depth == _DEPTH
    count = 0 if info.is_recursive else info.num_params if whole else info.leftover_params()
    return count or None


def describe_cut(model: nn.Module, name: str, image_shape: Sequence[int]) -> CutRow:
    """Describe one place where `model` can be cut.

    Args:
        model: a network with one image batch as its input.
        name: any name of the place.
        image_shape: `(C, H, W)`.

    Raises:
        CutError: the model can't be cut there (the message names the tensors that cross), or can't take
            the image.
    """
    network = _open(model, image_shape)
    network.sub_network(None, name)
    main_name = next((p.name for p in network.cut_points if name in (p.name, *p.aliases)), None)
    for row in _cut_rows(network, image_shape):
        if row.name == main_name:
            return row
    raise CutError(f"{name!r} is the image or the network's output: there is nothing to cut off")


def cut_table(rows: Sequence[CutRow]) -> list[str]:
    """Return the lines of a table of cut points, for the terminal."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column("", justify="right")
    table.add_column("Cut point")
    table.add_column("Shape")
    for header in ("Params", "after", "Mult-adds", "after", "Layer"):
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(
            str(row.index),
            row.name,
            str(list(row.shape)),
            f"{row.params_before:,}",
            f"{row.params_after:,}",
            _millions(row.mult_adds_before),
            _millions(row.mult_adds_after),
            "" if row.layer is None else str(row.layer),
        )
    text = io.StringIO()
    Console(file=text, width=_WIDEST, markup=False, highlight=False).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def _millions(count: int) -> str:
    """Format a number of multiply-adds in millions."""
    return f"{count / 1e6:,.2f}M"


def _open(model: nn.Module, image_shape: Sequence[int]) -> CuttableNetwork:
    names = getattr(model, "layer_names", None) or "auto"
    return open_network(model, layer_names=names, image_shape=image_shape)


def _cut_rows(network: CuttableNetwork, image_shape: Sequence[int]) -> list[CutRow]:
    costs = network.costs(image_shape)
    places = {alias: p.name for p in network.cut_points for alias in (p.name, *p.aliases)}
    layers = {places.get(layer.name): layer.index for layer in network.layers}
    return [
        CutRow(k, point.name, **vars(costs[point.name]), layer=layers.get(point.name))
        for k, point in enumerate(network.cut_points)
    ]


def _layers(
    model: nn.Module, image_shape: Sequence[int]
) -> tuple[list[LayerRow], list[CutRow], str]:
    try:
        network = _open(model, image_shape)
    except CutError as error:
        return [], [], str(error)
    shapes = network.shapes(image_shape)
    rows = [LayerRow(layer.index, layer.name, shapes[layer.name]) for layer in network.layers]
    return rows, _cut_rows(network, image_shape), ""
