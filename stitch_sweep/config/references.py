"""Checks of the network names that the sections of a configuration refer to, on raw values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stitch_sweep.config.networks import LOGITS_ONLY, SENDERS_ONLY
from stitch_sweep.config.paths import as_list
from stitch_sweep.core.errors import nearest
from stitch_sweep.core.problems import Location, show


def reference_problems(tree: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Find repeated network names, references to unknown networks, and misplaced parts.

    Args:
        tree: a raw configuration, whose values may have any type.

    Yields:
        Location and message of each problem.
    """
    sections = as_list(tree.get("networks"))
    networks = [entry.get("name") if isinstance(entry, Mapping) else None for entry in sections]
    names = list(dict.fromkeys(name for name in networks if isinstance(name, str)))
    only_senders = {
        name: entry.get("weights")
        for name, entry in zip(networks, sections, strict=True)
        if isinstance(name, str) and entry.get("weights") in SENDERS_ONLY
    }
    first: dict[str, int] = {}
    for i, name in enumerate(networks):
        if isinstance(name, str) and first.setdefault(name, i) < i:
            yield ("networks", i, "name"), f"{show(name)} is the name of networks[{first[name]}]"
    for i, entry in enumerate(sections):
        if not isinstance(entry, Mapping) or entry.get("weights") != LOGITS_ONLY:
            continue
        if problem := _check_reference(
            entry, "probes_of", names, only_senders, "it has no layers to probe"
        ):
            yield ("networks", i, "probes_of"), problem
    if not any(tree.get(key) for key in ("pairs", "knock_out", "parts")):
        yield ("pairs",), "is missing; set pairs, knock_out or parts"
    yield from _part_problems(as_list(tree.get("parts")), names, only_senders)
    for i, knock_out in enumerate(as_list(tree.get("knock_out"))):
        limit = "it has no layers to remove"
        if problem := _check_reference(knock_out, "network", names, only_senders, limit):
            yield ("knock_out", i, "network"), problem
    for i, pair in enumerate(as_list(tree.get("pairs"))):
        if problem := _check_reference(pair, "sender", names, {}, ""):
            yield ("pairs", i, "sender"), problem
        limit = "it can be a sender, but not a receiver"
        if problem := _check_reference(pair, "receiver", names, only_senders, limit):
            yield ("pairs", i, "receiver"), problem


def _check_reference(
    section: Any, key: str, names: list[str], excluded: Mapping[str, str], limit: str
) -> str:
    """Return the problem with the network that a section names; empty without problem.

    Args:
        section: raw section of a configuration.
        key: key of the network's name.
        names: names of all networks.
        excluded: names and weights of controls that only send, if they are not allowed.
        limit: reason why they are not allowed.
    """
    name = section.get(key) if isinstance(section, Mapping) else None
    if not isinstance(name, str):
        return ""
    if names and name not in names:
        return f"no network is named {show(name)}: {nearest(name, names)}"
    if name in excluded:
        return f"{name!r} is a control that only sends (weights: {excluded[name]}): {limit}"
    return ""


def _part_problems(
    parts: list[Any], names: list[str], only_senders: Mapping[str, str]
) -> Iterator[tuple[Location, str]]:
    """Find parts of unknown networks, and parts whose order makes joining them impossible."""
    is_stitch = [isinstance(part, Mapping) and part.get("stitch") is not None for part in parts]
    last = len(parts) - 1
    for k, part in enumerate(parts):
        if problem := _check_reference(part, "network", names, only_senders, "it has no parts"):
            yield ("parts", k, "network"), problem
        if is_stitch[k] and (k in (0, last) or is_stitch[k - 1]):
            yield ("parts", k), "a stitch needs a piece of a network before it and after it"
        elif k == 0 and isinstance(part, Mapping) and part.get("start", -1) not in (-1, None):
            yield ("parts", k, "start"), "the first part begins at the image; remove start"
        elif k == last and isinstance(part, Mapping) and part.get("end") is not None:
            yield ("parts", k, "end"), "the last part ends at the logits; remove end"
