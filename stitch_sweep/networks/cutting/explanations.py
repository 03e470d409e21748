"""Messages that explain why a traced network has no cut at a place, and name the nearest cuts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from stitch_sweep.core.errors import nearest
from stitch_sweep.networks.cutting.graph import NetworkGraph
from stitch_sweep.networks.cutting.modules import find_attribute, network_type_name
from stitch_sweep.networks.cutting.points import CutError

_MOST_NAMES = 40
_LONGEST_HINT = 1000
_MOST_SKIPS = 4


def explain_no_cut(
    graph: NetworkGraph, position: int, cuts: Sequence[int], unfit: Mapping[int, str]
) -> str:
    """Explain why a network can't be cut at a position.

    Args:
        graph: the traced network.
        position: the position of the value.
        cuts: positions of the network's cut points, in order.
        unfit: reasons why the values at certain positions can't be stitched.
    """
    names = graph.names
    if crossing := graph.crossing_positions(position):
        skips = [
            f"{names.describe(graph.nodes[p])} is used again after it, by "
            f"{names.describe(graph.nodes[graph.last_use[p]])}"
            for p in crossing[:_MOST_SKIPS]
        ]
        more = f"; and {len(crossing) - _MOST_SKIPS} more" if len(crossing) > _MOST_SKIPS else ""
        reason = f"a cut there would sever a skip connection: {'; '.join(skips)}{more}"
    elif graph.constant[position]:
        reason = "it does not depend on the image"
    elif position in unfit:
        reason = unfit[position]
    else:
        reason = "it is not a single tensor"
    before = cuts[: bisect_left(cuts, position)][-1:]
    after = cuts[bisect_right(cuts, position) :][:1]
    near = [f"{names.label[graph.nodes[p]]!r} before it" for p in before]
    near += [f"{names.label[graph.nodes[p]]!r} after it" for p in after]
    hint = " and ".join(near) if near else "none, this network can't be cut"
    place = names.describe(graph.nodes[position])
    return f"no cut at {place}: {reason}. Nearest places that work: {hint}"


def explain_unknown_name(graph: NetworkGraph, name: str, cuts: Sequence[int]) -> CutError:
    """Return the error for a name of no value of a network, or of several values.

    Args:
        graph: the traced network.
        name: the name, which is in no `graph.names.nodes`.
        cuts: positions of the network's cut points, in order.
    """
    repeated = graph.names.repeated
    if name in repeated:
        runs = ", ".join(repr(run) for run in repeated[name])
        return CutError(f"{name!r} runs {len(repeated[name])} times; name one run: {runs}")
    model_name = network_type_name(graph.model)
    if opaque := graph.opaque_module(name):
        kind = type(find_attribute(graph.model, opaque)).__name__
        error = CutError(
            f"torch.fx treats {opaque!r} ({kind}) of {model_name} as a single operation, and {name!r} "
            "is inside it"
        )
        error.untraceable = True
        return error
    points = [graph.names.label[graph.nodes[position]] for position in cuts]
    hint = nearest(name, points if len(points) <= _MOST_NAMES else graph.names.nodes)
    if len(hint) > _LONGEST_HINT:
        hint = f"it has {len(points)} cut points, from {points[0]!r} to {points[-1]!r}"
    return CutError(f"{model_name} has no cut point {name!r}: {hint}")
