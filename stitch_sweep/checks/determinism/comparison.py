"""Say what differs first between two recordings, by how much, and what usually causes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stitch_sweep.checks.determinism.recording import Recording, flat, read_recording
from stitch_sweep.checks.differences import largest_difference

_NAMED = 4  # settings that a cause names
_HASH = 64  # characters of a SHA-256
_SHOWN = 8  # changes of configuration and environment that the terminal gets to see

CONTEXT = ("configuration", "environment")
"""Stages that say under what was computed; where they differ, that is no finding but its cause."""
COMPUTED = ("data", "transform", "weights", "forward", "backward", "generators")
"""Stages in the order in which each rests on those before it."""

_BATCHES = ("seed", "data.", "training.batch_size")
_NETWORKS = ("networks.", "pretraining.", "data.", "resources.cpu", "resources.gpu")
_STEPS = ("seed", "loss", "training.", "resources.")
# Beginnings of the settings that decide a kind of difference by themselves, not through a kind
# before it.
_DECIDES = {
    **dict.fromkeys(("indices", "files", "labels", "images", "rest of the data"), _BATCHES),
    **dict.fromkeys(("transform settings", "transformed"), ("seed", "data.")),
    **dict.fromkeys(("parameter", "buffer"), _NETWORKS),
    "stitch": ("seed", "stitch.", "pair"),
    "shape": ("pair", "networks.", "stitch.", "data."),
    "layer": ("pair", "stitch.", "resources.cpu", "resources.gpu"),
    **dict.fromkeys(("loss", "learning rate", "gradient", "step", "end", "evaluation"), _STEPS),
}
_DECIDES_NOTHING = ("data.loader",)  # FFCV must give what torch gives
# Kinds of difference that the last bits of a sum suffice for.
_SENSITIVE = (
    *("transformed", "parameter", "buffer", "stitch", "layer", "loss", "gradient", "step"),
    *("end", "evaluation"),
)

_CAUSES = {
    "indices": "the order is drawn from the seed and the epoch alone: another seed, another number "
    "of images or another batch size, or code that shuffles on its own.",
    "files": "images were added, removed or renamed, or listed in another order, so that the same "
    "position now means another image; with equal files, another data.split_seed.",
    "labels": "another choice of images under the same positions (data.split_seed), or another set "
    "of class folders: a class gets its number from the sorted names.",
    "images": "the images themselves: changed or replaced files, another choice of images "
    "(data.split_seed), or another version of what decodes and resizes them (Pillow, torch).",
    "rest of the data": "an image or label outside the recorded batches.",
    "transform settings": "data.augment and data.image_size decide it; mean and standard deviation "
    "are those of the official training images.",
    "transformed": "equal pixels went in and others came out: the code of the augmentation or the "
    "normalisation, or random numbers that don't come from the seed and the epoch.",
    "parameter": "weights that were trained anew: another seed, recipe, thread count or version of "
    "torch, another weights file, or a zoo in which somebody changed a file.",
    "buffer": "statistics of BatchNorm that moved on: the network ran in train mode after it was "
    "trained, or it is another network.",
    "stitch": "the stitch's initial weights are drawn from seed, repeat, stitch and shapes: one of "
    "these, or torch's own initialisation, is another.",
    "shape": "another architecture: family, width, blocks, image size, or the pair.",
    "mode": "one of the two was left in train mode; call .eval() before using a network.",
    "layer": "equal inputs and weights gave another output: the code of this layer or of what is "
    "between it and the layer before, or a kernel that sums in another order (thread count, device, "
    "library version, flags).",
    "loss": "the forward pass agreed and the loss doesn't: the loss, its weights or options, or the "
    "labels it is given.",
    "learning rate": "training.optimizer.lr or the schedule; a schedule also depends on epochs and "
    "batch size, since it is spread over all steps.",
    "gradient": "equal losses gave other gradients: the backward pass of a custom function, or a "
    "kernel without a deterministic backward.",
    "step": "equal gradients moved the parameters differently: the optimizer or its options "
    "(momentum, weight decay).",
    "evaluation": "the stitch after the recorded steps is equal and its evaluation isn't: the "
    "evaluation's code, or validation images outside the recorded batches.",
    "end": "the stitch moved differently in a way that its recorded parameters don't show: a buffer "
    "of it.",
    "generator": "something drew from a global generator in one of the two: dropout, sampling, or a "
    "library that draws when it is used.",
    "setting": "two different configurations.",
    "fact": "two different machines, installations or shells; the last bits of sums follow the "
    "thread count, the device and the versions of the libraries.",
}


@dataclass(frozen=True)
class Stage:
    """One stage of the comparison.

    Attributes:
        name: one of `CONTEXT` or `COMPUTED`.
        compared: how many things were compared, and what they are.
        differing: how many of them differ.
        place: the first that differs; None, as for what follows, where nothing does.
        difference: what differs there.
        largest: the largest absolute difference of its values; infinite where a shape, a type or
            something that isn't finite differs, None where there are no numbers to subtract.
        values: over how many values that is.
        total: how many values there are.
        cause: what usually brings this about.
    """

    name: str
    compared: str
    differing: int = 0
    place: str | None = None
    difference: str | None = None
    largest: float | None = None
    values: int | None = None
    total: int | None = None
    cause: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data; infinity is the text `inf`, which JSON can hold."""
        infinite = self.largest is not None and math.isinf(self.largest)
        return {**asdict(self), "largest": "inf" if infinite else self.largest}


@dataclass(frozen=True)
class Comparison:
    """How two recordings differ.

    Attributes:
        stages: every stage, `CONTEXT` first.
        changes: what differs in configuration and environment, a sentence each.
    """

    stages: tuple[Stage, ...]
    changes: tuple[str, ...]

    @property
    def agree(self) -> bool:
        """Whether nothing differs, environment included."""
        return self.first is None

    @property
    def first(self) -> Stage | None:
        """The first stage that differs, in the order of `COMPUTED`; else configuration, environment."""
        order = {name: k for k, name in enumerate((*COMPUTED, *CONTEXT))}
        differing = [stage for stage in self.stages if stage.differing]
        return min(differing, key=lambda stage: order[stage.name], default=None)

    def to_dict(self) -> dict[str, Any]:
        """As plain data: `agree`, `first` (a stage or None), `stages`, `changes`."""
        return {
            "agree": self.agree,
            "first": None if self.first is None else self.first.to_dict(),
            "stages": [stage.to_dict() for stage in self.stages],
            "changes": list(self.changes),
        }


def compare(first: Path, second: Path) -> Comparison:
    """Compare two recordings.

    Args:
        first: folder of the one that differences are counted from.
        second: folder of the other.

    Raises:
        InputError: one of them is no whole recording.

    Example:
        >>> found = compare(Path("check1"), Path("check2"))
        >>> found.agree, found.first
        (True, None)
    """
    return compare_recordings(read_recording(first), read_recording(second))


def compare_recordings(one: Recording, other: Recording) -> Comparison:
    """Compare two recordings that have been read; see `compare`."""
    context = {
        "configuration": list(
            _plain(one.about["configuration"], other.about["configuration"], "setting")
        ),
        "environment": list(_plain(_facts(one), _facts(other), "fact")),
    }
    changed = {
        name: [check for check in checks if check.difference] for name, checks in context.items()
    }
    computed: dict[str, Iterator[_Check]] = {
        "data": _data(one, other),
        "transform": _transform(one, other),
        "weights": _weights(one, other),
        "forward": _forward(one, other),
        "backward": _backward(one, other),
        "generators": _plain(one.generators, other.generators, "generator"),
    }
    what = {
        "configuration": "settings",
        "environment": "versions, flags, facts of the device",
        "data": "indices, labels, pixels of batches",
        "transform": "settings and transformed batches",
        "weights": "parameters and buffers",
        "forward": "outputs of layers",
        "backward": "losses, gradients and parameters",
        "generators": "states",
    }
    stages = [
        _stage(name, what[name], list(checks), one, other, changed)
        for name, checks in {**context, **computed}.items()
    ]
    changes = (check for checks in changed.values() for check in checks)
    return Comparison(
        tuple(stages), tuple(_sentence(check.place, check.difference) for check in changes)
    )


def report(comparison: Comparison) -> RenderableType:
    """The comparison for a terminal: a table of the stages, then what differs first."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("compared", overflow="fold")
    for name in ("differ", "largest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    first = comparison.first
    for stage in comparison.stages:
        verdict = Text("equal", style="green")
        if stage.differing:
            verdict = Text("differs", style="yellow")
        if stage is first:
            verdict = Text("differs first", style="bold red")
        table.add_row(
            stage.name, stage.compared, str(stage.differing or ""), _number(stage.largest), verdict
        )
    if first is None:
        return Group(table, Text("The two recordings agree entirely.", style="bold"))
    lines = [Text(_sentence(first.place, first.difference), style="bold")]
    if first.values is not None:
        lines.append(Text(_extent(first)))
    if first.cause:
        lines.append(Text(f"Usual cause: {first.cause}"))
    if comparison.changes:
        lines += [Text(), Text("What was different from the outset:")]
        lines += [Text(f"  {change}") for change in comparison.changes[:_SHOWN]]
        if (more := len(comparison.changes) - _SHOWN) > 0:
            lines.append(Text(f"  and {more} more; --json has all", style="dim"))
    return Group(table, *lines)


def _sentence(place: str | None, difference: str | None) -> str:
    verb = str(difference).startswith(("is ", "has ", "had ", "predicts "))
    return f"{place}{'' if verb else ':'} {difference}"


def _extent(stage: Stage) -> str:
    """Over what the largest difference was taken."""
    assert stage.values is not None
    assert stage.total is not None
    kept = f"the first {stage.values:,} of {stage.total:,} values, which are all that is kept"
    if stage.largest == 0:
        return f"Equal in {kept}; it differs after them"
    values = f"all {stage.total:,} values" if stage.values == stage.total else kept
    return f"Largest difference {_number(stage.largest)}, over {values}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


@dataclass(frozen=True)
class _Check:
    """One thing that was compared, and how it differs if it does.

    `tensor` names the kept values behind it, of `total` values in all; `gap` is the difference where
    it is known without them.
    """

    place: str
    kind: str
    difference: str | None = None
    tensor: str | None = None
    total: int | None = None
    gap: float | None = None


def _stage(
    name: str,
    what: str,
    checks: Sequence[_Check],
    one: Recording,
    other: Recording,
    changed: Mapping[str, Sequence[_Check]],
) -> Stage:
    compared = f"{len(checks):,} {what}"
    differing = [check for check in checks if check.difference]
    if not differing:
        return Stage(name, compared)
    first = differing[0]
    largest, values, total = first.gap, None, None
    if first.tensor in one.tensors and first.tensor in other.tensors:
        kept = one.tensors[first.tensor], other.tensors[first.tensor]
        largest, values, total = largest_difference(*kept), kept[0].numel(), first.total
    return Stage(
        name,
        compared,
        len(differing),
        first.place,
        first.difference,
        largest,
        values,
        total,
        _cause(first.kind, changed),
    )


def _cause(kind: str, changed: Mapping[str, Sequence[_Check]]) -> str:
    deciding = [
        setting
        for setting in (check.place for check in changed["configuration"])
        if setting.startswith(_DECIDES.get(kind, ())) and setting not in _DECIDES_NOTHING
    ]
    text = _CAUSES[kind]
    if deciding:
        more = " and more" if len(deciding) > _NAMED else ""
        some = ", ".join(deciding[:_NAMED]) + more
        return f"the configurations differ in {some}, which is enough to bring this about."
    if changed["environment"] and kind in _SENSITIVE:
        return f"{text} The environments differ, which alone can change the last bits."
    return text


def _plain(one: Mapping[str, Any], other: Mapping[str, Any], kind: str) -> Iterator[_Check]:
    """Trees of plain data, leaf by leaf."""
    before, after = flat(one), flat(other)
    for path in _union(before, after):
        yield _leaf(path, kind, before.get(path), after.get(path))


def _facts(recording: Recording) -> dict[str, Any]:
    """The environment without the sentences that follow from it."""
    return {k: v for k, v in recording.environment.items() if k != "not_deterministic"}


def _data(one: Recording, other: Recording) -> Iterator[_Check]:
    for place, before, after in _matched(one.batches["batches"], other.batches["batches"], "place"):
        if before is None or after is None:
            yield _absent(place, "indices", after)
        else:
            yield from _batch(place, before, after)
    # Not the loader's settings: they are the configuration's, and FFCV must give the same batches.
    for key in ("data_set", "splits"):
        yield from _plain({key: one.batches[key]}, {key: other.batches[key]}, "rest of the data")


def _batch(place: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[_Check]:
    sizes = len(before["indices"]), len(after["indices"])
    if sizes[0] != sizes[1]:
        yield _Check(place, "indices", f"has {sizes[1]} images, had {sizes[0]}")
        return
    for kind, name in (("indices", "index"), ("files", "file"), ("labels", "label")):
        pairs = zip(before[kind] or (), after[kind] or (), strict=False)
        found = next((k for k, (then, now) in enumerate(pairs) if then != now), None)
        if found is None and (before[kind] is None) == (after[kind] is None):
            yield _Check(place, kind)
        elif found is None:
            yield _Check(place, kind, f"has {'no ' if after[kind] is None else ''}names of files")
        else:
            then, now = before[kind][found], after[kind][found]
            yield _Check(place, kind, f"{name} {found} is {now!r}, was {then!r}")
    yield _pixels(place, "images", before, after)


def _transform(one: Recording, other: Recording) -> Iterator[_Check]:
    yield from _plain(one.batches["transforms"], other.batches["transforms"], "transform settings")
    for place, before, after in _matched(one.batches["batches"], other.batches["batches"], "place"):
        if before is None or after is None:
            yield _absent(place, "transformed", after)
        else:
            yield _pixels(place, "transformed", before, after)


def _pixels(place: str, kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> _Check:
    """The raw (`images`) or `transformed` images of a batch."""
    shapes = before["shape"], after["shape"]
    if shapes[0] != shapes[1]:
        return _leaf(place, "shape", *shapes, "the shape of its images ")
    if before[f"{kind}_sha256"] == after[f"{kind}_sha256"]:
        return _Check(place, kind)
    hashes = zip(before[kind], after[kind], strict=True)
    changed = [k for k, (then, now) in enumerate(hashes) if then != now]
    first = f"image {changed[0]} (index {before['indices'][changed[0]]})"
    others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    what = "other pixels" if kind == "images" else "other values after transforms"
    verb = "have" if others else "has"
    said = f"{first}{others} {verb} {what}"
    return _Check(place, kind, said, f"{kind}/{place}", math.prod(shapes[0]))


def _weights(one: Recording, other: Recording) -> Iterator[_Check]:
    for module in _union(one.weights, other.weights):
        before, after = one.weights.get(module), other.weights.get(module)
        if before is None or after is None:
            yield _absent(module, "shape", after)
            continue
        for name in _union(before, after):
            then, now = before.get(name), after.get(name)
            kind = "stitch" if module == "stitch" else (then or now)["kind"]
            yield _summaries(f"{module}: {name}", kind, then, now, f"weights/{module}/{name}")


def _forward(one: Recording, other: Recording) -> Iterator[_Check]:
    before, after = (
        {(row["network"], row["position"]): row for row in recording.outputs}
        for recording in (one, other)
    )
    for key in _union(before, after):
        then, now = before.get(key), after.get(key)
        row = then or now
        assert row is not None
        place = f"{row['network']}: {row['layer']}"
        if then is None or now is None:
            yield _absent(place, "layer", now)
        elif (then["layer"], then["type"]) != (now["layer"], now["type"]):
            ran, runs = (f"{of['layer']} ({of['type']})" for of in (then, now))
            yield _leaf(place, "layer", ran, runs, "what runs here ")
        else:
            yield _leaf(place, "mode", then["mode"], now["mode"], "its mode ")
            yield _summaries(place, "layer", then, now, f"outputs/{key[0]}/{key[1]}")


def _backward(one: Recording, other: Recording) -> Iterator[_Check]:
    then, now = one.training, other.training
    for step, before, after in _matched(then["steps"], now["steps"], "step"):
        if before is None or after is None:
            yield _absent(f"step {step}", "learning rate", after)
        else:
            yield from _step(step, before, after)
    yield _leaf(
        "training", "learning rate", then["total_steps"], now["total_steps"], "steps in all "
    )
    yield _Check(
        "stitch after the recorded steps",
        "end",
        None if then["stitch_sha256"] == now["stitch_sha256"] else "has other values",
    )
    place = "evaluation after the recorded steps"
    then, now = then["evaluation"], now["evaluation"]
    for name in ("accuracy", "loss"):
        yield _figure(place, "evaluation", then[name], now[name], f"{name} ")
    equal = then["predictions_sha256"] == now["predictions_sha256"]
    yield _Check(place, "evaluation", None if equal else "predicts other classes")


def _step(step: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[_Check]:
    place = f"step {step}"

    def each(key: str, kind: str, name: str) -> Iterator[_Check]:
        for path in _union(before[key], after[key]):
            pair = before[key].get(path), after[key].get(path)
            yield _summaries(f"{place}: {name}{path}", kind, *pair, f"{key}/{step}/{path}")

    yield _figure(place, "loss", before["loss"], after["loss"], "loss ")
    yield from each("gradients", "gradient", "gradient of ")
    rates = before["learning_rate"], after["learning_rate"]
    yield _figure(place, "learning rate", *rates, "learning rate ")
    yield from each("parameters", "step", "")


def _leaf(place: str, kind: str, before: Any, after: Any, name: str = "") -> _Check:
    """Plain values, and in words what is another."""
    if before == after:
        return _Check(place, kind)
    return _Check(place, kind, f"{name}is {_shown(after)}, was {_shown(before)}")


def _figure(place: str, kind: str, before: float | None, after: float | None, name: str) -> _Check:
    """A measured number; None where it wasn't finite."""
    found = _leaf(place, kind, before, after, name)
    if found.difference is None:
        return found
    return replace(found, gap=math.inf if before is None or after is None else abs(before - after))


def _summaries(
    place: str,
    kind: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    tensor: str,
) -> _Check:
    if before is None or after is None:
        return _absent(place, "shape", after)
    for key in ("shape", "dtype"):
        if before[key] != after[key]:
            return _leaf(place, "shape", before[key], after[key], f"{key} ")
    if before["sha256"] == after["sha256"]:
        return _Check(place, kind)
    shape = before["shape"]
    sizes = shape.split("x") if isinstance(shape, str) else shape
    total = math.prod(int(size) for size in sizes)
    return _Check(place, kind, "has other values", tensor, total)


def _absent(place: str, kind: str, after: object) -> _Check:
    return _Check(place, kind, "is missing" if after is None else "is there, was missing")


def _matched(
    one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], key: str
) -> Iterator[tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    """Entries of two lists that have the same `key`, in the order of the first list."""
    before, after = ({str(entry[key]): entry for entry in entries} for entries in (one, other))
    for name in _union(before, after):
        yield name, before.get(name), after.get(name)


def _union(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> list[Any]:
    """Keys of both, in the order of the first."""
    return list(dict.fromkeys((*one, *other)))


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) == _HASH and not set(value) - set("0123456789abcdef"):
        return f"{value[:8]}..."
    return "not set" if value is None else repr(value)
