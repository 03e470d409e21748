"""The studies of a configuration: every cell under every factor combination and every repeat."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from stitch_sweep.config.knock_out import KnockOutConfig
from stitch_sweep.config.pairs import PairConfig
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.outlines import Outline
from stitch_sweep.plan.sizes import check_sweep_size
from stitch_sweep.storage.study import Study


def enumerate_studies(config: Config, outlines: Mapping[str, Outline]) -> list[Study]:
    """List the studies of a configuration, sender by sender.

    Args:
        config: the configuration.
        outlines: of its networks, by name.

    Raises:
        InputError: layers that a network doesn't have, or too many studies, trials or checks.
    """
    problems = []
    studies: dict[str, Study] = {}
    cells: list[tuple[str, str, int, int]] = []
    grids: dict[tuple[tuple[str, str], tuple[int, ...], tuple[int, ...]], None] = {}
    for i, pair in enumerate(config.pairs):
        chosen = {}
        for side in ("sender", "receiver"):
            try:
                chosen[side] = _layers(pair, side, outlines)
            except InputError as error:
                problems += [f"pairs[{i}].{side}_layers: {problem}" for problem in error.problems]
        if len(chosen) < 2:
            continue
        grids[(pair.sender, pair.receiver), tuple(chosen["sender"]), tuple(chosen["receiver"])] = (
            None
        )
    check_sweep_size(config, sum(len(rows) * len(columns) for _, rows, columns in grids))
    for ends, rows, columns in grids:
        cells += [(*ends, i, j) for i, j in itertools.product(rows, columns)]
    for i, part in enumerate(config.knock_out):
        last = len(outlines[part.network].layers) - 1
        problems += [f"knock_out[{i}].{problem}" for problem in _knock_out_problems(part, last)]
        cells += [(part.network, part.network, *cell) for cell in part.cells(last)]
        check_sweep_size(config, len(cells))
    if problems:
        raise InputError(*problems)
    for sender, receiver, *cell in cells:
        for factors in config.factor_combinations():
            for repeat in range(config.repeats):
                study = Study(sender, cell[0], receiver, cell[1], factors, repeat)
                studies.setdefault(study.id, study)
    # Sender by sender, so that a worker can reuse a sender's activations for several trials.
    order = {network.name: k for k, network in enumerate(config.networks)}
    return sorted(studies.values(), key=lambda s: (order[s.sender], s.sender_layer))


def _knock_out_problems(part: KnockOutConfig, last: int) -> Iterator[str]:
    """Iterate over the layers of a knock-out beyond its network, whose last layer is `last`."""
    stem = part.first != "all" and 0 in part.first  # the stem is one layer more
    for key, most, allowed in (
        ("first", last, f"layers 0 (the stem) to {last} to remove"),
        ("removed", last + stem, f"at most {last + stem} removable layers"),
    ):
        numbers = getattr(part, key)
        if numbers != "all" and (beyond := [str(k) for k in numbers if k > most]):
            yield f"{key}: {part.network} has {allowed}, not {', '.join(beyond)}"
    if not part.cells(last):
        yield f"removed: {part.network} ends at layer {last}, so this many layers can't be removed"


def _layers(pair: PairConfig, side: str, outlines: Mapping[str, Outline]) -> list[int]:
    """Return the layer indices of one side of a pair, sorted."""
    outline = outlines[getattr(pair, side)]
    layers = getattr(pair, f"{side}_layers")
    if layers == "all":
        return list(range(len(outline.layers)))
    outline.check_layers(getattr(pair, side), layers)
    return sorted(set(layers))
