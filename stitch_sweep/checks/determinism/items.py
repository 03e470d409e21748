"""The compared items of two recordings, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stitch_sweep.checks.determinism.recording import Recording
from stitch_sweep.config.paths import flatten

_SHA256_LENGTH = 64


@dataclass(frozen=True)
class ComparedItem:
    """One compared item, and its difference.

    Attributes:
        place: where the item is.
        kind: which usual cause a difference has.
        difference: the difference as a phrase; None where the items are equal.
        tensor: name of the kept values.
        total: number of all values of the tensor.
        gap: numeric difference, for items without kept values.
    """

    place: str
    kind: str
    difference: str | None = None
    tensor: str | None = None
    total: int | None = None
    gap: float | None = None


def compare_trees(
    first: Mapping[str, Any], second: Mapping[str, Any], kind: str
) -> Iterator[ComparedItem]:
    """Compare nested plain data leaf by leaf."""
    before = dict(flatten(first, keep_empty=True))
    after = dict(flatten(second, keep_empty=True))
    for path in _union(before, after):
        yield _compare_values(path, kind, before.get(path), after.get(path))


def compare_configurations(first: Recording, second: Recording) -> Iterator[ComparedItem]:
    """Compare the settings."""
    return compare_trees(first.about["configuration"], second.about["configuration"], "setting")


def compare_environments(first: Recording, second: Recording) -> Iterator[ComparedItem]:
    """Compare the environments, without the sentences that follow from them."""
    before, after = (
        {k: v for k, v in recording.environment.items() if k != "not_deterministic"}
        for recording in (first, second)
    )
    return compare_trees(before, after, "fact")


def compare_generators(first: Recording, second: Recording) -> Iterator[ComparedItem]:
    """Compare the states of the random number generators."""
    return compare_trees(first.generators, second.generators, "generator")


def compare_data(first: Recording, second: Recording) -> Iterator[ComparedItem]:
    """Compare indices, file names, labels and pixels of the recorded batches, then the data sets."""
    for place, before, after in _match_batches(first, second):
        if before is None or after is None:
            yield _missing(place, "indices", after)
        else:
            yield from _compare_batch(place, before, after)
    # The loaders' settings belong to the configuration, and FFCV must give the same batches.
    for key in ("data_set", "splits"):
        yield from compare_trees(
            {key: first.batches[key]}, {key: second.batches[key]}, "rest of the data"
        )


def _compare_batch(
    place: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[ComparedItem]:
    sizes = len(before["indices"]), len(after["indices"])
    if sizes[0] != sizes[1]:
        yield ComparedItem(place, "indices", f"has {sizes[1]} images, had {sizes[0]}")
        return
    for kind, name in (("indices", "index"), ("files", "file"), ("labels", "label")):
        pairs = zip(before[kind] or (), after[kind] or (), strict=False)
        position = next((k for k, (old, new) in enumerate(pairs) if old != new), None)
        if position is None and (before[kind] is None) == (after[kind] is None):
            yield ComparedItem(place, kind)
        elif position is None:
            has = "has no" if after[kind] is None else "has"
            yield ComparedItem(place, kind, f"{has} names of files")
        else:
            old, new = before[kind][position], after[kind][position]
            yield ComparedItem(place, kind, f"{name} {position} is {new!r}, was {old!r}")
    yield _compare_pixels(place, "images", before, after)


def compare_transforms(first: Recording, second: Recording) -> Iterator[ComparedItem]:
    """Compare the settings of the transforms, and the transformed batches."""
    yield from compare_trees(
        first.batches["transforms"], second.batches["transforms"], "transform settings"
    )
    for place, before, after in _match_batches(first, second):
        if before is None or after is None:
            yield _missing(place, "transformed", after)
        else:
            yield _compare_pixels(place, "transformed", before, after)


def _compare_pixels(
    place: str, kind: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> ComparedItem:
    """Compare the raw (`images`) or `transformed` images of a batch."""
    shapes = before["shape"], after["shape"]
    if shapes[0] != shapes[1]:
        return _compare_values(place, "shape", *shapes, "the shape of its images ")
    if before[f"{kind}_sha256"] == after[f"{kind}_sha256"]:
        return ComparedItem(place, kind)
    hashes = zip(before[kind], after[kind], strict=True)
    changed = [k for k, (old, new) in enumerate(hashes) if old != new]
    first = f"image {changed[0]} (index {before['indices'][changed[0]]})"
    others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    values = "other pixels" if kind == "images" else "other values after transforms"
    difference = f"{first}{others} {'have' if others else 'has'} {values}"
    return ComparedItem(place, kind, difference, f"{kind}/{place}", math.prod(shapes[0]))


def compare_weights(first: Recording, second: Recording) -> Iterator[ComparedItem]:
    """Compare parameters and buffers of the networks and of the initial stitch."""
    for module in _union(first.weights, second.weights):
        before, after = first.weights.get(module), second.weights.get(module)
        if before is None or after is None:
            yield _missing(module, "shape", after)
            continue
        for name in _union(before, after):
            old, new = before.get(name), after.get(name)
            kind = "stitch" if module == "stitch" else (old or new)["kind"]
            tensor = f"weights/{module}/{name}"
            yield _compare_summaries(f"{module}: {name}", kind, old, new, tensor)


def compare_outputs(first: Recording, second: Recording) -> Iterator[ComparedItem]:
    """Compare the layers of the forward pass: which run, their modes, and their outputs."""
    before, after = (
        {(row["network"], row["position"]): row for row in recording.outputs}
        for recording in (first, second)
    )
    for key in _union(before, after):
        old, new = before.get(key), after.get(key)
        row = old or new
        assert row is not None
        place = f"{row['network']}: {row['layer']}"
        if old is None or new is None:
            yield _missing(place, "layer", new)
        elif (old["layer"], old["type"]) != (new["layer"], new["type"]):
            old_layer, new_layer = (f"{each['layer']} ({each['type']})" for each in (old, new))
            yield _compare_values(place, "layer", old_layer, new_layer, "the layer that runs here ")
        else:
            yield _compare_values(place, "mode", old["mode"], new["mode"], "its mode ")
            tensor = f"outputs/{key[0]}/{key[1]}"
            yield _compare_summaries(place, "layer", old, new, tensor)


def compare_steps(first: Recording, second: Recording) -> Iterator[ComparedItem]:
    """Compare losses, gradients, learning rates and parameters, and the evaluation after the steps."""
    before, after = first.training, second.training
    for step, old, new in _match(before["steps"], after["steps"], "step"):
        if old is None or new is None:
            yield _missing(f"step {step}", "learning rate", new)
        else:
            yield from _compare_step(step, old, new)
    totals = before["total_steps"], after["total_steps"]
    yield _compare_values("training", "learning rate", *totals, "steps in all ")
    yield ComparedItem(
        "stitch after the recorded steps",
        "end",
        None if before["stitch_sha256"] == after["stitch_sha256"] else "has other values",
    )
    place = "evaluation after the recorded steps"
    before, after = before["evaluation"], after["evaluation"]
    for name in ("accuracy", "loss"):
        yield _compare_numbers(place, "evaluation", before[name], after[name], f"{name} ")
    equal = before["predictions_sha256"] == after["predictions_sha256"]
    yield ComparedItem(place, "evaluation", None if equal else "predicts other classes")


def _compare_step(
    step: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[ComparedItem]:
    place = f"step {step}"

    def compare_all(key: str, kind: str, name: str) -> Iterator[ComparedItem]:
        for path in _union(before[key], after[key]):
            pair = before[key].get(path), after[key].get(path)
            yield _compare_summaries(f"{place}: {name}{path}", kind, *pair, f"{key}/{step}/{path}")

    yield _compare_numbers(place, "loss", before["loss"], after["loss"], "loss ")
    yield from compare_all("gradients", "gradient", "gradient of ")
    rates = before["learning_rate"], after["learning_rate"]
    yield _compare_numbers(place, "learning rate", *rates, "learning rate ")
    yield from compare_all("parameters", "step", "")


def _compare_values(place: str, kind: str, before: Any, after: Any, name: str = "") -> ComparedItem:
    if before == after:
        return ComparedItem(place, kind)
    return ComparedItem(place, kind, f"{name}is {_format(after)}, was {_format(before)}")


def _compare_numbers(
    place: str, kind: str, before: float | None, after: float | None, name: str
) -> ComparedItem:
    """Compare two measured numbers; None stands for a non-finite one."""
    item = _compare_values(place, kind, before, after, name)
    if item.difference is None:
        return item
    return replace(item, gap=math.inf if before is None or after is None else abs(before - after))


def _compare_summaries(
    place: str,
    kind: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    tensor: str,
) -> ComparedItem:
    if before is None or after is None:
        return _missing(place, "shape", after)
    for key in ("shape", "dtype"):
        if before[key] != after[key]:
            return _compare_values(place, "shape", before[key], after[key], f"{key} ")
    if before["sha256"] == after["sha256"]:
        return ComparedItem(place, kind)
    shape = before["shape"]
    sizes = shape.split("x") if isinstance(shape, str) else shape
    total = math.prod(int(size) for size in sizes)
    return ComparedItem(place, kind, "has other values", tensor, total)


def _missing(place: str, kind: str, after: object) -> ComparedItem:
    return ComparedItem(place, kind, "is missing" if after is None else "exists, was missing")


def _match_batches(
    first: Recording, second: Recording
) -> Iterator[tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    return _match(first.batches["batches"], second.batches["batches"], "place")


def _match(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], key: str
) -> Iterator[tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    """Yield pairs of entries with the same `key`, in the order of the first list."""
    before, after = ({str(entry[key]): entry for entry in entries} for entries in (first, second))
    for name in _union(before, after):
        yield name, before.get(name), after.get(name)


def _union(first: Mapping[Any, Any], second: Mapping[Any, Any]) -> list[Any]:
    """Return the keys of both, in the order of the first."""
    return list(dict.fromkeys((*first, *second)))


def _format(value: Any) -> str:
    is_text = isinstance(value, str)
    if is_text and len(value) == _SHA256_LENGTH and not set(value) - set("0123456789abcdef"):
        return f"{value[:8]}..."
    return "not set" if value is None else repr(value)
