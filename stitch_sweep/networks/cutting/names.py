"""Names of the values of a traced network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx, nn

from stitch_sweep.networks.cutting.modules import find_attribute, is_row


class NodeNames:
    """Names and kinds of the nodes of a traced network.

    Args:
        model: the network.
        nodes: its nodes in order of computation; the last one is the output.
        outputs: for each node, paths of the modules whose output it is.

    Attributes:
        label: each node's name: the path of a block or module, or the node's own name.
        kind: the module's type or the function's name.
        nodes: the node of every name and alias.
        repeated: paths of modules that run several times, with the names of their runs.
    """

    def __init__(
        self, model: nn.Module, nodes: Sequence[fx.Node], outputs: Mapping[fx.Node, list[str]]
    ) -> None:
        owners: dict[str, list[fx.Node]] = {}
        for node in nodes:
            for path in outputs.get(node, ()):
                owners.setdefault(path, []).append(node)
        self.nodes = {path: runs[0] for path, runs in owners.items() if len(runs) == 1}
        self.repeated = {
            path: [node.name for node in runs] for path, runs in owners.items() if len(runs) > 1
        }
        self.label: dict[fx.Node, str] = {}
        self.kind: dict[fx.Node, str] = {}
        for node in nodes[:-1]:
            around = modules_around(node)
            paths = [p for p in outputs.get(node, ()) if p in around and self.nodes.get(p) is node]
            # A block's output is named after the block, and not after a Sequential whose last module is
            # the block.
            modules = [path for path in paths if not is_row(find_attribute(model, path))]
            self.nodes["%" + node.name] = node
            self.nodes.setdefault(node.name, node)
            plain = node.name if self.nodes[node.name] is node else "%" + node.name
            self.label[node] = (modules or paths or [plain])[-1]
            if self.label[node] in paths or node.op == "call_module":
                path = self.label[node] if self.label[node] in paths else str(node.target)
                self.kind[node] = type(find_attribute(model, path)).__name__
            else:
                self.kind[node] = function_name(node)

    def aliases(self, node: fx.Node) -> list[str]:
        """Return all names of a node except its label, sorted."""
        label = self.label[node]
        return sorted(name for name, other in self.nodes.items() if other is node and name != label)

    def describe(self, node: fx.Node) -> str:
        """Return a node's quoted name, with the module that contains it unless the name shows it."""
        if node.op == "placeholder":
            return "the image"
        if node.op == "output":
            return "the network's output"
        around = modules_around(node)
        name = self.label[node]
        inside = around[-1] if around and "." not in name and around[-1] != name else ""
        return f"{name!r} (in {inside})" if inside else repr(name)


def modules_around(node: fx.Node) -> list[str]:
    """Return the paths of the modules in whose `forward` a node is computed, outermost first."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]


def function_name(node: fx.Node) -> str:
    """Return the name of a node's function or method."""
    return getattr(node.target, "__name__", str(node.target))
