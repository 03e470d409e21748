"""Section `controls`: networks and pairs for comparison with a pair of trained networks.

`control_notes.py` describes them.

A plugin registers a further control as a function that replaces networks of a pair:

    @CONTROLS.register("other_seed")
    def other_seed(
        sender: NetworkConfig, receiver: NetworkConfig
    ) -> tuple[NetworkConfig, NetworkConfig]:
        changes = {"name": f"{sender.name}-other-seed", "seed": sender.seed + 1}
        return sender.model_copy(update=changes), receiver

A network with a new name has a name of its own for each network that it replaces, and the layers of that
network. The pair's layers stay the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from stitch_sweep.config.control_notes import NOTES
from stitch_sweep.config.networks import CLASS_ONLY, LOGITS_ONLY, NetworkConfig
from stitch_sweep.config.pairs import IMAGE_LAYER, PairConfig
from stitch_sweep.config.paths import first_repeated
from stitch_sweep.core.bounds import LONGEST_NAME
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.problems import Location, errors_at, mismatch, refusal, show
from stitch_sweep.core.registry import CONTROLS

BUILT_IN = tuple(NOTES)

_TRAINED = ("trained", "file", "named", "factory")
_WEIGHTS = {"untrained": "random", "class-only": CLASS_ONLY, "logits-only": LOGITS_ONLY}
"""Suffix of the name of a control's network, and its weights."""
# Suffixes of the networks that replace sender and receiver; "" keeps the pair's network.
_SUFFIXES = {
    "untrained_sender": ("untrained", ""),
    "untrained_receiver": ("", "untrained"),
    "untrained_both": ("untrained", "untrained"),
    "class_only": ("class-only", ""),
    "logits_only": ("logits-only", ""),
}


class ExpandedControls(NamedTuple):
    """Networks and pairs, followed by those of the controls."""

    networks: list[NetworkConfig]
    pairs: list[PairConfig]


class _FurtherPair(NamedTuple):
    """The pair that a registered control makes.

    Attributes:
        control: name of the control.
        original: the pair that it is compared with.
        pair: the new pair.
        networks: the networks that replace those of the original pair.
    """

    control: str
    original: PairConfig
    pair: PairConfig
    networks: list[NetworkConfig]


class ControlError(ValueError):
    """The controls can't be expanded.

    Args:
        problems: location in the configuration, and message, of each problem.
    """

    def __init__(self, problems: list[tuple[Location, str]]) -> None:
        super().__init__("; ".join(problem for _, problem in problems))
        self.problems = problems


def check_controls(value: Any) -> list[str]:
    """Validate the value of `controls`.

    Raises:
        PydanticCustomError, ValidationError: the value is not a list of distinct names of controls.
    """
    if not isinstance(value, list):
        raise refusal(mismatch(f"a list of controls: {', '.join(_names())}", value))
    unknown: list[tuple[Location, str]] = [
        ((k,), f"no control is named {show(name)}: {nearest(str(name), _names())}")
        for k, name in enumerate(value[: len(_names())])
        if name not in _names()
    ]
    if unknown:
        raise errors_at("controls", unknown)
    if repeated := first_repeated(value):
        raise refusal(f"contains {repeated} twice")
    return list(value)


def expand(
    networks: list[NetworkConfig], pairs: list[PairConfig], controls: list[str]
) -> ExpandedControls:
    """Expand controls into networks and pairs.

    Every pair of two trained networks gets every control. The controls of network `a` are named
    `a-untrained`, `a-class-only` and `a-logits-only`. Pairs with other networks do not get layer -1,
    because the image does not depend on the network. Existing networks and pairs are not added again,
    so expanding a result changes nothing.

    Args:
        networks: networks with distinct names.
        pairs: pairs of these networks.
        controls: names of controls.

    Raises:
        ControlError: a name is taken or would be too long, or no pair can have controls.
    """
    active = [control for control in _names() if control in controls and control != "linear_probe"]
    build_by_name = {network.name: network for network in networks}
    trained = [
        pair
        for pair in pairs
        if all(build_by_name[name].kind in _TRAINED for name in (pair.sender, pair.receiver))
    ]
    further = _make_further(trained, build_by_name, active)
    made = {network.name for pair in further for network in pair.networks}
    trained = [pair for pair in trained if not {pair.sender, pair.receiver} & made]
    if active and not trained:
        problem = "no pair joins two trained networks, so controls have nothing to compare with"
        raise ControlError([(("controls",), problem)])
    added: dict[str, NetworkConfig] = {}
    expanded = list(pairs)
    present = {pair.model_dump_json() for pair in pairs}
    unused = set(active)
    for control_pair in further:
        original = control_pair.original
        if {original.sender, original.receiver} & made:
            continue  # a pair of an expanded configuration, itself made by a control
        added |= {network.name: network for network in control_pair.networks}
        unused.discard(control_pair.control)
        if (key := control_pair.pair.model_dump_json()) not in present:
            present.add(key)
            expanded.append(control_pair.pair)
    for pair in trained:
        for control in filter(BUILT_IN.__contains__, active):
            for new in _control_pairs(pair, control):
                suffixes = _SUFFIXES.get(control, ("", ""))
                for name, suffix in zip((pair.sender, pair.receiver), suffixes, strict=True):
                    if suffix:
                        network = _control_network(build_by_name[name], suffix)
                        added[network.name] = network
                unused.discard(control)
                if (key := new.model_dump_json()) not in present:
                    present.add(key)
                    expanded.append(new)
    if any(pair.sender_layers != "all" and IMAGE_LAYER in pair.sender_layers for pair in expanded):
        unused.discard("image")
    if unused:
        problem = f"{', '.join(sorted(unused))}: no pair has sender layers for this control"
        raise ControlError([(("controls",), problem)])
    if problems := list(_find_clashes(networks, added)):
        raise ControlError(problems)
    new_networks = (network for name, network in added.items() if name not in build_by_name)
    return ExpandedControls([*networks, *new_networks], expanded)


def _names() -> list[str]:
    return [*BUILT_IN, *(entry.name for entry in CONTROLS.extensions())]


def _make_further(
    pairs: list[PairConfig], networks: Mapping[str, NetworkConfig], controls: list[str]
) -> list[_FurtherPair]:
    """Make the pairs of the registered controls.

    Raises:
        ControlError: a control fails, returns no networks, or replaces none.
    """
    made = []
    for pair in pairs:
        originals = (networks[pair.sender], networks[pair.receiver])
        for control in (name for name in controls if name not in BUILT_IN):
            try:
                replaced = CONTROLS.build(control, *originals)
            except InputError as error:
                raise ControlError([(("controls",), str(error))]) from error
            if not (
                isinstance(replaced, tuple)
                and [type(network) for network in replaced] == [NetworkConfig, NetworkConfig]
            ):
                problem = f"{control} returned no tuple of two networks"
                raise ControlError([(("controls",), problem)])
            new = [n for n, old in zip(replaced, originals, strict=True) if n.name != old.name]
            if not new:
                problem = (
                    f"{control} replaced no network; a network that it changes needs a new name"
                )
                raise ControlError([(("controls",), problem)])
            sender, receiver = (network.name for network in replaced)
            update = {"sender": sender, "receiver": receiver}
            made.append(_FurtherPair(control, pair, pair.model_copy(update=update), new))
    return made


def _control_pairs(pair: PairConfig, control: str) -> Iterator[PairConfig]:
    """Yield the control of a pair, if the pair has layers for it."""
    layers = pair.sender_layers
    if control == "image":
        if layers == "all" or IMAGE_LAYER not in layers:
            yield pair.model_copy(update={"sender_layers": [IMAGE_LAYER]})
        return
    if layers != "all":
        layers = [layer for layer in layers if layer != IMAGE_LAYER]
    if layers:
        sides = zip((pair.sender, pair.receiver), _SUFFIXES[control], strict=True)
        sender, receiver = (_control_name(name, suffix) for name, suffix in sides)
        update = {"sender": sender, "receiver": receiver, "sender_layers": layers}
        yield pair.model_copy(update=update)


def _control_name(name: str, suffix: str) -> str:
    return f"{name}-{suffix}" if suffix else name


def _control_network(network: NetworkConfig, suffix: str) -> NetworkConfig:
    """Return a network with the same layer shapes, without learned weights."""
    update = {
        "name": _control_name(network.name, suffix),
        "weights": _WEIGHTS[suffix],
        "seed": _control_seed(network, suffix),
        "noise": 1.0 if _WEIGHTS[suffix] == CLASS_ONLY else None,
        "probes_of": network.name if _WEIGHTS[suffix] == LOGITS_ONLY else None,
        # The control gets the same input images as the network.
        "expects": network.weights if network.kind == "named" else network.expects,
        "weights_key": None,
        "weights_prefix": None,
        "pretraining": None,
    }
    return network.model_copy(update=update)


def _control_seed(network: NetworkConfig, suffix: str) -> int:
    """Return a 31-bit seed that differs from the network's seed.

    With the same seed, the untrained control would equal the network before its training. The seed
    depends on the name as well, because networks with weights from files may all have the same seed.
    """
    text = f"{network.seed} {network.name} {suffix}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _find_clashes(
    networks: list[NetworkConfig], added: dict[str, NetworkConfig]
) -> Iterator[tuple[Location, str]]:
    for k, network in enumerate(networks):
        control = added.get(network.name)
        if control is not None and control.model_dump() != network.model_dump():
            yield (
                ("networks", k, "name"),
                f"{network.name!r} is the name of another network's control; choose another name",
            )
    for name in added:
        if len(name) > LONGEST_NAME:
            yield (
                ("controls",),
                f"would add a network named {name!r}, but names have at most {LONGEST_NAME} characters",
            )
