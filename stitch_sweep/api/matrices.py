"""`matrix`: stitch every layer of one network to every layer of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stitch_sweep.api.experiment import SweepExperiment
from stitch_sweep.api.settings import (
    TRIAL_SECTIONS,
    expand_settings,
    network_section,
    to_plain,
)
from stitch_sweep.api.stitching import Network
from stitch_sweep.api.sweeping import sweep
from stitch_sweep.core.errors import InputError

_SECTIONS = (*TRIAL_SECTIONS, "repeats", "controls", "search", "tracking", "keep_stitches")
_SIDES = ("sender", "receiver")


def matrix(
    net_a: Network,
    net_b: Network,
    *,
    data: Any,
    layers: Sequence[int | str] | Mapping[str, Sequence[int | str]] | None = None,
    losses: Sequence[str | Mapping[str, Any]] | None = None,
    workers: int | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    names: tuple[str, str] = ("a", "b"),
    **settings: Any,
) -> SweepExperiment:
    """Stitch every layer of `net_a` to every layer of `net_b`, as a sweep on this machine.

    Args:
        net_a: the sender; see `stitch`.
        net_b: the receiver; see `stitch`. If it is the same object as `net_a`, the network is stitched
            to itself.
        data: the images; docs/reference/api.md lists all forms.
        layers: indices of layers, or names of cut points in the order of computation, of both networks;
            or a mapping with `sender` and `receiver`. By default all layers.
        losses: list of losses, with one matrix per loss. A loss is a name, or a mapping from names to
            weights such as `{"task": 1, "mse": 0.1}`. By default the `loss` of the settings, or `task`.
        workers: maximum number of workers at the same time; by default as many as CPUs and GPUs allow.
        folder: the experiment folder; by default a temporary folder, which is removed together with the
            returned object.
        resume: whether to resume the sweep in `folder`.
        names: names of the two networks.
        **settings: sections of a configuration, and `recipe`; see `stitch`. Furthermore `repeats`,
            `controls`, `search`, `keep_stitches`, and `tracking`, which is off by default.

    Returns:
        The experiment: `matrices`, `verdict()`, `plot()`, `results` and more.

    Raises:
        InputError: see `sweep`.
        StoppedError: see `sweep`.

    Example:
        >>> result = ss.matrix(a, b, data="digits", losses=["task", "mse"])  # doctest: +SKIP
        >>> result.verdict()["label"]  # doctest: +SKIP
    """
    tree = expand_settings(settings, _SECTIONS, "matrix")
    tree.setdefault("tracking", {"enabled": False})
    if losses is not None:
        _cross_losses(tree, losses)
    chosen = _layers_by_side(layers)
    named = {side: any(isinstance(k, str) for k in chosen[side] or ()) for side in _SIDES}
    is_same = net_a is net_b and (chosen["sender"] == chosen["receiver"] or not any(named.values()))
    if not is_same and names[0] == names[1]:
        raise InputError(f"names: both networks are named {names[0]!r}; give two names")
    name_of = {"sender": names[0], "receiver": names[0] if is_same else names[1]}
    pair: dict[str, Any] = dict(name_of)
    networks = {}
    for side, network in zip(_SIDES, (net_a, net_b), strict=True):
        section = network_section(network, name_of[side])
        if named[side]:
            section["layers"] = list(chosen[side] or ())
        elif chosen[side] is not None:
            pair[f"{side}_layers"] = list(chosen[side] or ())
        networks[name_of[side]] = section
    tree |= {"networks": list(networks.values()), "pairs": [pair]}
    if folder is not None:
        return sweep(tree, data=data, folder=folder, resume=resume, workers=workers)
    temporary = TemporaryDirectory(prefix="stitch-sweep-")
    try:
        sweep(tree, data=data, folder=temporary.name, workers=workers)
        return SweepExperiment(temporary.name, temporary)
    except BaseException:
        temporary.cleanup()
        raise


def _cross_losses(tree: dict[str, Any], losses: Sequence[str | Mapping[str, Any]]) -> None:
    """Set the losses of a configuration: one for all cells, or several that are crossed."""
    if isinstance(losses, str | Mapping) or not losses:
        raise InputError("matrix: losses must be a list of losses, such as ['task', 'mse']")
    if "loss" in tree:
        raise InputError("matrix: give either loss or losses")
    sections = to_plain(losses)
    if len(sections) == 1:
        tree["loss"] = sections[0]
        return
    search = tree.setdefault("search", {})
    cross = search.setdefault("cross", {}) if isinstance(search, dict) else None
    if not isinstance(cross, dict) or "loss" in cross:
        raise InputError("matrix: give either losses or search with the crossed loss")
    cross["loss"] = sections


def _layers_by_side(
    layers: Sequence[int | str] | Mapping[str, Sequence[int | str]] | None,
) -> dict[str, Sequence[int | str] | None]:
    if isinstance(layers, Mapping):
        if unknown := sorted(set(layers) - set(_SIDES)):
            raise InputError(f"layers: unknown key {unknown[0]!r}; allowed: sender, receiver")
        sides = {side: layers.get(side) for side in _SIDES}
    else:
        sides = dict.fromkeys(_SIDES, layers)
    for side, chosen in sides.items():
        if chosen is None:
            continue
        kinds = {isinstance(layer, str) for layer in chosen if not isinstance(chosen, str)}
        if len(kinds) != 1:
            raise InputError(
                f"layers of the {side}: {chosen!r} must be a list of indices, or of names of cut points"
            )
    return sides
