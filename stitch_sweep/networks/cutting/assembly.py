"""Build a part of a traced network as a separate module."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx, nn

from stitch_sweep.networks.cutting.channels import (
    TO_CHANNELS_FIRST,
    TO_CHANNELS_LAST,
    permute_node,
)
from stitch_sweep.networks.cutting.effects import may_write_into
from stitch_sweep.networks.cutting.graph import NetworkGraph
from stitch_sweep.networks.cutting.tracer import Tracer


def assemble_part(
    graph: NetworkGraph, first: int, last: int, channels_last: Collection[int] = ()
) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """Build the part of a network between two positions.

    The part shares the network's modules, parameters and buffers. If one of its in-place operations could
    write into its input, it works on a copy of the input.

    Args:
        graph: the traced network.
        first: position of the part's input.
        last: position of its output.
        channels_last: positions of maps whose channels are last; the part takes and returns these maps
            with channels first.

    Returns:
        The part, and its copy of every node of the network.
    """
    chosen = graph.needed_nodes(first, last)
    part = fx.Graph(tracer_cls=Tracer)  # unpickling traces again, and must keep in-place writes
    entry = part.placeholder(graph.nodes[first].name)
    inner = 0 < first < last
    if inner and first in channels_last:
        entry = permute_node(part, entry, TO_CHANNELS_LAST)
    elif may_write_into(graph.nodes[first], chosen, graph.objects):
        entry = part.call_method("clone", (entry,))
    copies = {graph.nodes[first]: entry}
    for node in chosen:
        copies[node] = part.node_copy(node, copies.__getitem__)
    end = graph.nodes[last]
    if end is not graph.output and first < last and last in channels_last:
        part.output(permute_node(part, copies[end], TO_CHANNELS_FIRST))
    else:
        result = graph.result if end is graph.output else end
        part.output(fx.map_arg(result, copies.__getitem__))
    used = {
        str(node.target): graph.objects[str(node.target)]
        for node in chosen
        if node.op in ("call_module", "get_attr")
    }
    network = fx.GraphModule(used, part, class_name=f"{type(graph.model).__name__}Part")
    for module in network.modules():
        if module is network or type(module) is nn.Module:  # the containers that torch.fx adds
            module.training = graph.model.training
    return network, copies
