"""The values of a traced network: constants, uses of values, and possible cuts."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn

from stitch_sweep.networks.cutting.effects import has_effect, has_own_memory, written_values
from stitch_sweep.networks.cutting.modules import network_type_name, submodule
from stitch_sweep.networks.cutting.names import NodeNames
from stitch_sweep.networks.cutting.points import CutError
from stitch_sweep.networks.cutting.running import count_parameters
from stitch_sweep.networks.cutting.tracer import trace_network

_TUPLE_METHODS = {
    *("chunk", "split", "tensor_split", "unsafe_chunk", "unsafe_split", "unbind"),
    *("size", "shape", "topk", "sort", "var_mean", "std_mean"),
}
_TUPLE_MODULES = (nn.MultiheadAttention, nn.RNNBase)


class NetworkGraph:
    """A traced network as a list of values in the order in which they are computed.

    A position is an index into this list: 0 is the image, the last one is the network's output.

    Args:
        model: a network whose `forward` takes one image batch.

    Attributes:
        model: the network.
        nodes: its nodes in order of computation.
        objects: its modules, parameters and buffers by path.
        output: the last node.
        result: the value that the network returns.
        position: the position of every node.
        constant: per position, whether the value follows from parameters and buffers alone, and nothing
            writes into it.
        last_use: per position, the last position that uses the value; -1 without use.
        names: names of the nodes.

    Raises:
        CutError: torch.fx can't trace the model, or the model writes into its own parameters or buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        trace = trace_network(model)
        self.objects = trace.objects
        self.nodes = trace.nodes
        self.output = self.nodes[-1]
        self.result = self.output.args[0]
        self.position = {node: position for position, node in enumerate(self.nodes)}
        self.constant = self._find_constants()
        self.last_use = [
            max((self.position[user] for user in node.users if user in self.position), default=-1)
            for node in self.nodes
        ]
        self.names = NodeNames(model, self.nodes, trace.outputs)

    @property
    def last(self) -> int:
        """Position of the network's output."""
        return len(self.nodes) - 1

    def find_cuts(self) -> list[int]:
        """Return the positions, in order, whose value is the only one so far that is used later."""
        cuts = []
        reach = 0  # the last position that uses any value so far
        for position, node in enumerate(self.nodes[:-1]):
            if self.constant[position]:
                continue
            alone = reach <= position < self.last_use[position]
            if alone and node.op != "placeholder" and not self._is_tuple(node):
                cuts.append(position)
            reach = max(reach, self.last_use[position])
        return cuts

    def needed_nodes(self, first: int, last: int) -> list[fx.Node]:
        """Return the nodes of the part between two positions, in order.

        These are the nodes that the end depends on, and operations with effects on the way.
        """
        needed = {self.nodes[last]}
        chosen = []
        for position in range(last, -1, -1):
            node = self.nodes[position]
            between = first < position
            if position == first or not (between or self.constant[position]):
                continue
            if node in needed or (between and has_effect(node, self.objects)):
                needed.update(node.all_input_nodes)
                if node is not self.output:
                    chosen.append(node)
        return chosen[::-1]

    def count_parameters(self, first: int, last: int) -> int:
        """Count the parameter values of the part between two positions."""
        nodes = [n for n in self.needed_nodes(first, last) if n.op in ("call_module", "get_attr")]
        return count_parameters(self.objects[str(node.target)] for node in nodes)

    def crossing_positions(self, position: int) -> list[int]:
        """Return the positions of the values before `position` that are used after it."""
        return [
            p
            for p in range(position)
            if not self.constant[p] and self.last_use[p] > position and not self.constant[position]
        ]

    def opaque_module(self, name: str) -> str:
        """Return the path of the single-node module that contains a module; empty if there is none."""
        if submodule(self.model, name) is None:
            return ""
        run = {str(node.target) for node in self.nodes if node.op == "call_module"}
        return next((path for path in run if name.startswith(f"{path}.")), "")

    def _find_constants(self) -> list[bool]:
        constant = [False] * len(self.nodes)
        for position, node in enumerate(self.nodes):
            constant[position] = node.op == "get_attr" or (
                node.op not in ("placeholder", "output")
                and not has_effect(node, self.objects)
                and all(constant[self.position[value]] for value in node.all_input_nodes)
            )
        for node in self.nodes:
            reached = [n for n in written_values(node, self.objects) if constant[self.position[n]]]
            while reached:
                value = reached.pop()
                if value.op == "get_attr":
                    raise CutError(
                        f"{network_type_name(self.model)} changes its own {str(value.target)!r} in "
                        f"place at {node.name!r}, in eval mode too, so its parts would not be "
                        "functions of their inputs"
                    )
                constant[self.position[value]] = False
                if not has_own_memory(value, self.objects):
                    reached += value.all_input_nodes
        return constant

    def _is_tuple(self, node: fx.Node) -> bool:
        """Return whether the graph shows, without a run, that a value is a tuple or a size."""
        users = [user for user in node.users if user in self.position]
        if users and all(
            user.target is operator.getitem and isinstance(user.args[1], int) for user in users
        ):
            return True
        if any(
            user.target is getattr and not _is_tensor_attribute(str(user.args[1])) for user in users
        ):
            return True  # `x.max(dim=2).values`
        if node.op == "call_module":
            return isinstance(self.objects[str(node.target)], _TUPLE_MODULES)
        return getattr(node.target, "__name__", node.target) in _TUPLE_METHODS


def _is_tensor_attribute(name: str) -> bool:
    """Return whether tensors have an attribute of that name that is not a method."""
    attribute = getattr(torch.Tensor, name, None)
    return attribute is not None and not callable(attribute)
