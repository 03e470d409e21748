"""Controls: what a pair of trained networks is compared with, written out as networks and pairs.

Each asks for one reason, other than alike representations, why a stitch may do well:

    untrained_sender    the sender's architecture with random weights, into the trained receiver
    untrained_receiver  the trained sender into the receiver's architecture with random weights
    untrained_both      both with random weights
    class_only          a sender that knows the class and nothing else of an image
    image               the image itself, layer -1 of the sender
    linear_probe        a linear classifier on each layer; not stitched, but measured afterwards
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from stitch_sweep.config.models import NetworkConfig, PairConfig

CONTROLS = (
    *("untrained_sender", "untrained_receiver", "untrained_both"),
    *("class_only", "image", "linear_probe"),
)
CLASS_ONLY = "class_only"
LONGEST = 80
"""Characters of a network's name."""

_IMAGE_LAYER = -1
_TRAINED = ("trained", "file", "named", "factory")
_MADE = {"untrained": "random", "class-only": CLASS_ONLY}
"""How the name of a control's network ends, and its weights."""
# Which network stands in for sender and receiver; "" is the pair's own.
_SIDES = {
    "untrained_sender": ("untrained", ""),
    "untrained_receiver": ("", "untrained"),
    "untrained_both": ("untrained", "untrained"),
    "class_only": ("class-only", ""),
}


class Expanded(NamedTuple):
    """Networks and pairs with those of the controls after them."""

    networks: list[NetworkConfig]
    pairs: list[PairConfig]


class ControlError(ValueError):
    """The controls can't be written out.

    Args:
        problems: (where in the configuration, what is wrong) of each.
    """

    def __init__(self, problems: list[tuple[tuple[int | str, ...], str]]) -> None:
        super().__init__("; ".join(why for _, why in problems))
        self.problems = problems


def expand(networks: list[NetworkConfig], pairs: list[PairConfig], controls: list[str]) -> Expanded:
    """Write controls out as networks and pairs.

    Every pair whose networks are both trained (here or elsewhere) gets every control; a control of the
    network `a` is called `a-untrained` or `a-class-only`. Layer -1 is left out of those with other
    networks, because the image is the same whatever comes after it. Networks and pairs that are there
    already are not made again, so what was written out is written out to itself.

    Args:
        networks: names differ.
        pairs: of these networks.
        controls: names in `CONTROLS`.

    Raises:
        ControlError: a name is taken or would be too long, or no pair can have controls.
    """
    wanted = [control for control in CONTROLS if control in controls and control != "linear_probe"]
    known = {network.name: network for network in networks}
    bases = [p for p in pairs if all(known[n].kind in _TRAINED for n in (p.sender, p.receiver))]
    if wanted and not bases:
        why = "no pair joins two trained networks, so there is nothing to control"
        raise ControlError([(("controls",), why)])
    made: dict[str, NetworkConfig] = {}
    found = list(pairs)
    present = {pair.model_dump_json() for pair in pairs}
    useless = set(wanted)
    for pair in bases:
        for control in wanted:
            for new in _controlled(pair, control):
                ends = _SIDES.get(control, ("", ""))
                sides = zip((pair.sender, pair.receiver), ends, strict=True)
                for network in (_stand_in(known[name], end) for name, end in sides if end):
                    made[network.name] = network
                useless.discard(control)
                if (key := new.model_dump_json()) not in present:
                    present.add(key)
                    found.append(new)
    if any(
        layers != "all" and _IMAGE_LAYER in layers for layers in (p.sender_layers for p in found)
    ):
        useless.discard("image")
    if useless:
        why = f"{', '.join(sorted(useless))}: no pair has sender layers that it could control"
        raise ControlError([(("controls",), why)])
    if problems := list(_clashes(networks, made)):
        raise ControlError(problems)
    return Expanded([*networks, *(n for name, n in made.items() if name not in known)], found)


def _controlled(pair: PairConfig, control: str) -> Iterator[PairConfig]:
    """The pair that a control makes of a pair, if it makes one."""
    layers = pair.sender_layers
    if control == "image":
        if layers == "all" or _IMAGE_LAYER not in layers:
            yield pair.model_copy(update={"sender_layers": [_IMAGE_LAYER]})
        return
    if layers != "all":
        layers = [layer for layer in layers if layer != _IMAGE_LAYER]
    if layers:
        sides = zip((pair.sender, pair.receiver), _SIDES[control], strict=True)
        sender, receiver = (_name(name, end) for name, end in sides)
        update = {"sender": sender, "receiver": receiver, "sender_layers": layers}
        yield pair.model_copy(update=update)


def _name(name: str, end: str) -> str:
    return f"{name}-{end}" if end else name


def _stand_in(network: NetworkConfig, end: str) -> NetworkConfig:
    """A network of the same shape without what the network has learned."""
    update = {
        "name": _name(network.name, end),
        "weights": _MADE[end],
        "seed": _seed(network, end),
        "noise": 1.0 if _MADE[end] == CLASS_ONLY else None,
        # It sees what the network sees.
        "expects": network.weights if network.kind == "named" else network.expects,
        "weights_key": None,
        "weights_prefix": None,
        "pretraining": None,
    }
    return network.model_copy(update=update)


def _seed(network: NetworkConfig, end: str) -> int:
    """A seed of its own, 31 bits.

    With the network's own seed, its untrained control would be what it was itself before training. The
    name counts too: weights from files may all have the same seed.
    """
    text = f"{network.seed} {network.name} {end}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _clashes(
    networks: list[NetworkConfig], made: dict[str, NetworkConfig]
) -> Iterator[tuple[tuple[int | str, ...], str]]:
    for k, network in enumerate(networks):
        new = made.get(network.name)
        if new is not None and new.model_dump() != network.model_dump():
            yield (
                ("networks", k, "name"),
                f"{network.name!r} is what a control of another network is called; choose another name",
            )
    for name in made:
        if len(name) > LONGEST:
            yield (
                ("controls",),
                f"would make a network named {name!r}, and names have at most {LONGEST} characters",
            )
