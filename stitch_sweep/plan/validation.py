"""The checks of cells and networks before anything trains.

Networks and stitches are checked for every cell: shapes that no stitch can join, receivers for other
classes, senders whose logits a loss can't use, receivers that pass no gradient.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stitch_sweep.config.root import Config
from stitch_sweep.config.stitch import StitchConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.data.images import Data
from stitch_sweep.losses.base import CombinedLoss, explain_missing_teacher
from stitch_sweep.plan.outlines import Outline
from stitch_sweep.plan.settings import settings_per_loss, settings_per_stitch
from stitch_sweep.stitches.building import misfit
from stitch_sweep.storage.study import Study, format_cell


def find_cell_problems(
    config: Config, studies: list[Study], outlines: Mapping[str, Outline], data: Data
) -> list[str]:
    """List the reasons why cells of a configuration can't be trained.

    Args:
        config: the configuration.
        studies: its studies.
        outlines: of its networks, by name.
        data: the images.
    """
    problems = list(dict.fromkeys(_stitch_problems(config, studies, outlines)))
    problems += dict.fromkeys(_teacher_problems(config, studies, outlines, data))
    problems += _gradient_problems(config, studies, outlines)
    return problems


def find_head_problems(
    config: Config, outlines: Mapping[str, Outline], data: Data
) -> Iterator[str]:
    """Iterate over the networks that end a cell or an assembly and have logits for other classes."""
    ends = [(f"pairs[{i}].receiver", pair.receiver) for i, pair in enumerate(config.pairs)]
    ends += [(f"knock_out[{i}].network", part.network) for i, part in enumerate(config.knock_out)]
    if config.parts:
        last = len(config.parts) - 1
        ends.append((f"parts[{last}].network", str(config.parts[last].network)))
    for place, name in ends:
        if (problem := explain_wrong_head(name, outlines[name], data)) is not None:
            yield f"{place}: {problem}"


def explain_wrong_head(name: str, outline: Outline, data: Data) -> str | None:
    """Explain that a network can't receive, because its logits are for other classes; None if it can."""
    if outline.outputs in (None, data.num_classes):
        return None
    return (
        f"{name!r} has a head for {outline.outputs} classes, and the data has {data.num_classes}, so "
        "its predictions can't be compared with the labels. It can be a sender; to receive it needs a "
        "head for these classes: weights trained for them (arguments: {num_classes: "
        f"{data.num_classes}}}), or a factory that adds such a head"
    )


def explain_no_gradient(name: str, outline: Outline, layers: Iterable[int]) -> str:
    """Explain why the logits of a network can't train a stitch into these of its layers."""
    last = outline.gradients.last_blocked
    remedy = (
        f"its layers from {last + 1} on can receive"
        if last + 1 < len(outline.layers)
        else "none of its layers can receive"
    )
    return (
        f"{name!r} can't receive at layer {', '.join(map(str, layers))}: its forward passes no gradient "
        f"back {outline.gradients.place} (for example because of detach(), no_grad() or "
        f"inference_mode()), so an earlier stitch learns nothing from the logits; {remedy}, and "
        "a loss of representations alone, such as mse, does not need this gradient"
    )


def explain_untrainable(
    outline: Outline, name: str, layer: int, settings: TrialSettings
) -> str | None:
    """Explain why these settings can't train a stitch into a receiver's layer; None if they can."""
    if layer > outline.gradients.last_blocked:
        return None
    if not _needs_receiver(CombinedLoss.from_config(settings.loss)):
        return None
    return explain_no_gradient(name, outline, [layer])


def _stitch_problems(
    config: Config, studies: list[Study], outlines: Mapping[str, Outline]
) -> Iterator[str]:
    """Iterate over the cells that one of their stitches can't join."""
    # There are many cells, but few pairs of shapes and few combinations of factors.
    misfits: dict[Any, str | None] = {}
    stitches: dict[str, list[StitchConfig]] = {}
    for study in studies:
        factors = json.dumps(study.factors, sort_keys=True)
        if factors not in stitches:
            stitches[factors] = [settings.stitch for settings in settings_per_stitch(config, study)]
        shapes = (
            outlines[study.sender].shape(study.sender_layer),
            outlines[study.receiver].shape(study.receiver_layer),
        )
        for stitch in stitches[factors]:
            key = (shapes, stitch.name, stitch.start, str(stitch.options))
            if key not in misfits:
                misfits[key] = misfit(stitch, *shapes)
            if (problem := misfits[key]) is not None:
                yield f"{format_cell(study.key)}: {problem}"


def _teacher_problems(
    config: Config, studies: list[Study], outlines: Mapping[str, Outline], data: Data
) -> Iterator[str]:
    """Iterate over the senders that can't teach one of their losses."""
    not_teaching = {
        name for name, outline in outlines.items() if outline.outputs != data.num_classes
    }
    needs_teacher: dict[str, bool] = {}  # by factors: there are few combinations, and many cells
    for study in studies:
        if study.sender in not_teaching:
            factors = json.dumps(study.factors, sort_keys=True)
            if factors not in needs_teacher:
                needs_teacher[factors] = any(
                    "sender" in loss.teachers for loss in _losses(config, study)
                )
            if needs_teacher[factors]:
                is_network = outlines[study.sender].outputs is not None
                yield explain_missing_teacher(f"network {study.sender!r}", network=is_network)


def _gradient_problems(
    config: Config, studies: list[Study], outlines: Mapping[str, Outline]
) -> Iterator[str]:
    """Iterate over the receivers with layers into which one of their losses can't train a stitch."""
    needs_receiver: dict[str, bool] = {}  # by factors: there are few combinations, and many cells
    layers: dict[str, set[int]] = {}
    for study in studies:
        if study.receiver_layer > outlines[study.receiver].gradients.last_blocked:
            continue
        factors = json.dumps(study.factors, sort_keys=True)
        if factors not in needs_receiver:
            needs_receiver[factors] = any(map(_needs_receiver, _losses(config, study)))
        if needs_receiver[factors]:
            layers.setdefault(study.receiver, set()).add(study.receiver_layer)
    for name, blocked in layers.items():
        yield explain_no_gradient(name, outlines[name], sorted(blocked))


def _losses(config: Config, study: Study) -> Iterator[CombinedLoss]:
    return (CombinedLoss.from_config(s.loss) for s in settings_per_loss(config, study))


def _needs_receiver(loss: CombinedLoss) -> bool:
    """Return whether a loss needs values that the receiver computes after the cut."""
    return loss.needs_logits or loss.needs_hints
