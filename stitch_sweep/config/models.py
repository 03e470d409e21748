"""Everything a YAML file may hold, as pydantic models."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    RootModel,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from stitch_sweep.config.controls import CLASS_ONLY, CONTROLS, LONGEST, ControlError, expand
from stitch_sweep.config.optimization import OptimizerConfig, ScheduleConfig
from stitch_sweep.config.paths import as_list, first_twice, replaced
from stitch_sweep.core.bounds import (
    LARGEST_COUNT,
    LARGEST_NUMBER,
    LONGEST_LIST,
    MOST_CHOICES,
    MOST_COMBINATIONS,
    MOST_NETWORKS,
    Above0,
    Epochs,
    From0,
    Images,
    ImageSize,
    Number,
    Positive,
    Seed,
    Text,
)
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.problems import NAME, Place, at_places, joined, show, wants
from stitch_sweep.core.registry import DATASETS, FAMILIES, LOSSES, STITCHES, Options, Registry

Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST)]
WEIGHTS = ("trained", "random", "random_raw", CLASS_ONLY)
"""Where weights come from, if neither from a file nor from whoever made the network."""
FROM_FACTORY = "factory"
"""Weights as a factory of the user's returns them."""
GIVEN = ("file", "named", FROM_FACTORY)
"""Kinds of weights that were trained elsewhere."""


class Component(BaseModel):
    """Settings of a registered thing: a name, our common fields, and the thing's own options."""

    model_config = ConfigDict(extra="allow", strict=True)
    registry: ClassVar[Registry]
    name_field: ClassVar[str] = "name"
    name_is_key: ClassVar[bool] = False  # the name stands before the colon, not below it

    @property
    def options(self) -> dict[str, Any]:
        """The thing's own options, validated, with defaults filled in."""
        return dict(self.model_extra or {})

    @model_validator(mode="wrap")
    @classmethod
    def _options_fit(cls, values: Any, handler: ModelWrapValidatorHandler[Component]) -> Component:
        if isinstance(values, cls):
            return handler(values)
        errors, checked = [], {}
        try:
            component = handler(values)
        except ValidationError as error:
            errors.append(error)
        try:
            checked = cls._checked_options(values)
        except ValidationError as error:
            errors.append(error)
        if errors:
            raise joined(cls.__name__, errors)
        component.__pydantic_extra__ = checked
        return component

    @classmethod
    def _checked_options(cls, values: Any) -> dict[str, Any]:
        """The options among `values`, which may be anything, with defaults filled in."""
        if not isinstance(values, Mapping):
            return {}
        name = values.get(cls.name_field, cls.model_fields[cls.name_field].default)
        if not isinstance(name, str):
            return {}
        try:
            entry = cls.registry.get(name)
        except InputError as error:
            place = () if cls.name_is_key else (cls.name_field,)
            raise at_places(cls.__name__, [(place, str(error))]) from None
        own = {key: value for key, value in values.items() if key not in cls.model_fields}
        known = {*entry.options.model_fields, *cls.model_fields}
        if cls.name_is_key:
            known.remove(cls.name_field)
        unknown = [
            ((key,), f"unknown key: {nearest(key, known)}") for key in own if key not in known
        ]
        errors = [at_places(cls.__name__, unknown)] if unknown else []
        try:
            checked = entry.options.model_validate({k: v for k, v in own.items() if k in known})
        except ValidationError as error:
            errors.append(error)
        if errors:
            raise joined(cls.__name__, errors)
        return checked.model_dump()


class DataConfig(Component):
    """Which images, how they are split, cut down, augmented and loaded."""

    registry: ClassVar[Registry] = DATASETS

    name: str
    image_size: ImageSize | None = None
    split_seed: Seed = 0
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    train_images: Images | None = None
    test_images: Images | None = None
    augment: Literal["none", "crop_flip"] = "none"
    loader: Literal["torch", "ffcv"] = "torch"
    beton_folder: Text = "beton"


def weights_kind(weights: str) -> str:
    """`trained`, `random`, `random_raw`, `class_only`, `file`, `named` or `factory`."""
    if weights in (*WEIGHTS, FROM_FACTORY):
        return weights
    return "file" if "/" in weights or "." in weights else "named"


def is_file(factory: str) -> bool:
    """Whether an import path is a file's (`./mine.py:make`) rather than a package's."""
    file = factory.rpartition(":")[0]
    return file.endswith(".py") or "/" in file


class NormalisationConfig(Options):
    """What a network expects of an image: (pixel / 255 - mean) / std, channel by channel."""

    mean: Annotated[list[Number], Field(min_length=1, max_length=16)]
    std: Annotated[
        list[Annotated[Number, Field(ge=1 / LARGEST_NUMBER)]], Field(min_length=1, max_length=16)
    ]

    @model_validator(mode="after")
    def _as_many(self) -> NormalisationConfig:
        if len(self.mean) != len(self.std):
            why = f"wants as many numbers as mean, which has {len(self.mean)}, got {len(self.std)}"
            raise at_places("normalisation", [(("std",), why)])
        return self


def _no_longer(items: list[Any], value: Any) -> Any:
    """The value, whose list of `items` is not too long."""
    if len(items) > LONGEST_LIST:
        why = wants(f"at most {LONGEST_LIST} in the list", items)
        raise PydanticCustomError("ours", "{why}", {"why": why})
    return value


def _cuts(value: Any) -> Any:
    if value is None or value == "auto":
        return value
    names = value if isinstance(value, list) else []
    wrong = [name for name in names if not isinstance(name, str)]
    if not names or wrong:
        why = wants("'auto' or a list of names of cut points", wrong[0] if wrong else value)
        raise PydanticCustomError("ours", "{why}", {"why": why})
    return _no_longer(names, value)


Cuts = Annotated[Literal["auto"] | list[str] | None, PlainValidator(_cuts)]


class PretrainingConfig(Options):
    """How the zoo trains a network."""

    epochs: Annotated[Epochs, Field(ge=1)] = 10
    batch_size: Positive = 128
    optimizer: OptimizerConfig = OptimizerConfig(name="sgd", lr=0.1)
    schedule: ScheduleConfig = ScheduleConfig()


class NetworkConfig(Component):
    """One frozen network: what it is, and where its weights come from."""

    registry: ClassVar[Registry] = FAMILIES
    name_field: ClassVar[str] = "family"

    name: Name
    source: Literal["family", "torchvision", "timm", "python"] = "family"
    family: str = "resnet"
    model: Text | None = None
    factory: Text | None = None
    arguments: dict[str, Any] | None = None
    seed: Seed = 0
    weights: Text = "trained"
    expects: Text | None = None
    weights_key: Text | None = None
    weights_prefix: Text | None = None
    normalisation: NormalisationConfig | None = None
    image_size: ImageSize | None = None
    noise: From0 | None = None
    pretraining: PretrainingConfig | None = None
    layers: Cuts = None

    @model_validator(mode="wrap")
    @classmethod
    def _resolve_family(
        cls, values: Any, handler: ModelWrapValidatorHandler[NetworkConfig]
    ) -> NetworkConfig:
        ours = isinstance(values, dict) and values.get("source", "family") == "family"
        if ours and isinstance(values.get("family"), str):
            family, implied = FAMILIES.resolve(values["family"])
            clash = [
                ((key,), f"family {values['family']!r} fixes it: leave it out or use {family!r}")
                for key in implied
                if key in values
            ]
            if clash:
                raise at_places(cls.__name__, clash)
            values = {**values, **implied, "family": family}
        return handler(values)

    @classmethod
    def _checked_options(cls, values: Any) -> dict[str, Any]:
        source = values.get("source", "family") if isinstance(values, Mapping) else "family"
        if source == "family":
            return super()._checked_options(values)
        allowed = set(cls.model_fields) - {"family"}
        unknown = [
            ((key,), f"unknown key: {nearest(key, allowed)}")
            for key in values
            if key not in cls.model_fields
        ]
        if unknown:
            raise at_places(cls.__name__, unknown)
        return {}

    @model_validator(mode="after")
    def _keys_of_the_source(self) -> NetworkConfig:
        if found := list(self._source_problems()):
            raise at_places("network", found)
        return self

    def _source_problems(self) -> Iterator[tuple[Place, str]]:
        needs = {"torchvision": "model", "timm": "model", "python": "factory"}.get(self.source)
        if self.source != "family" and "family" in self.model_fields_set:
            yield ("family",), f"source: {self.source} has none; it takes {needs}"
        for key in ("model", "factory"):
            if key != needs and getattr(self, key) is not None:
                yield (key,), f"not with source: {self.source}"
        if needs is not None and getattr(self, needs) is None:
            yield (needs,), f"is missing; source: {self.source} needs it"
        if self.factory is not None and not re.fullmatch(r"[^:]+:[A-Za-z_]\w*", self.factory):
            wanted = "package.module:function or path/to/file.py:function"
            yield ("factory",), wants(wanted, self.factory)
        for key in ("arguments", "normalisation", "image_size"):
            if self.source == "family" and getattr(self, key) is not None:
                yield (key,), "only for networks from elsewhere (source: torchvision, timm, python)"
        if self.expects is not None and self.source not in ("torchvision", "timm"):
            yield (
                ("expects",),
                "only for source: torchvision and timm, which know what weights expect",
            )
        for key in ("weights_key", "weights_prefix"):
            if self.kind != "file" and getattr(self, key) is not None:
                yield (key,), "only for weights from a file"
        wanted = f"{', '.join(map(repr, WEIGHTS))}"
        if self.kind == FROM_FACTORY and self.source != "python":
            yield ("weights",), "'factory' is only for source: python"
        elif self.kind == "named" and self.source == "family":
            yield ("weights",), wants(f"{wanted} or the path of a file", self.weights)
        elif self.kind == "named" and self.source == "python":
            wanted += f", {FROM_FACTORY!r} or the path of a file"
            yield ("weights",), wants(wanted, self.weights)

    @model_validator(mode="after")
    def _noise_is_of_class_only(self) -> NetworkConfig:
        if self.weights == CLASS_ONLY:
            self.noise = 1.0 if self.noise is None else self.noise
        elif self.noise is not None:
            raise at_places("network", [(("noise",), f"only weights: {CLASS_ONLY} has noise")])
        return self

    @model_validator(mode="after")
    def _pretraining_is_of_trained(self) -> NetworkConfig:
        if self.pretraining is not None and self.weights != "trained":
            why = "only weights: trained is trained here"
            raise at_places("network", [(("pretraining",), why)])
        return self

    @model_serializer(mode="wrap")
    def _without_what_others_have(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A description stays what it was before there were these keys.
        left_out = {"source"} if self.source == "family" else {"family"}
        left_out |= {key for key in _LATER_KEYS if getattr(self, key) is None}
        return {key: value for key, value in handler(self).items() if key not in left_out}

    @property
    def weights_file(self) -> Path | None:
        """The file the weights come from, if they come from one."""
        return Path(self.weights) if self.kind == "file" else None

    @property
    def kind(self) -> str:
        """See `weights_kind`."""
        return weights_kind(self.weights)

    @property
    def cuts(self) -> list[str] | Literal["auto"] | None:
        """Names of the layers, where they are given; None where the network itself knows them.

        One from elsewhere knows what `auto` found as soon as it is made; ours know what they name.
        """
        return self.layers if isinstance(self.layers, list) or self.source == "family" else None

    @property
    def title(self) -> str:
        """What kind of network it is: the family, `torchvision:resnet18`, `python:make`."""
        if self.source == "family":
            return self.family
        return f"{self.source}:{self.model or (self.factory or '').rpartition(':')[2]}"


_LATER_KEYS = (
    *("model", "factory", "arguments", "expects", "weights_key", "weights_prefix"),
    *("normalisation", "image_size", "noise", "pretraining"),
)


class TrainingConfig(Options):
    """How a stitch is trained. `epochs: 0` leaves it as it started."""

    epochs: Epochs = 4
    batch_size: Positive = 64
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    log_every: Positive | None = None


def _layers(value: Any) -> Any:
    if value == "all":
        return value
    indices = value if isinstance(value, list) else []
    wrong = [x for x in indices if not isinstance(x, int) or isinstance(x, bool) or x < -1]
    if not indices or wrong:
        wanted = "'all' or a list of layer indices, -1 (the image) or above"
        why = wants(wanted, wrong[0] if wrong else value)
        raise PydanticCustomError("ours", "{why}", {"why": why})
    return _no_longer(indices, value)


# Not a plain union: pydantic would report once per member.
Layers = Annotated[Literal["all"] | list[int], PlainValidator(_layers)]


class PairConfig(Options):
    """Which layers of a sender are stitched to which layers of a receiver."""

    sender: str
    receiver: str
    sender_layers: Layers = "all"
    receiver_layers: Layers = "all"


def _places(value: Any, least: int) -> Any:
    if value == "all":
        return value
    numbers = value if isinstance(value, list) else []
    wrong = [x for x in numbers if not isinstance(x, int) or isinstance(x, bool) or x < least]
    if not numbers or wrong:
        wanted = f"'all' or a list of whole numbers from {least} on"
        raise PydanticCustomError(
            "ours", "{why}", {"why": wants(wanted, wrong[0] if wrong else value)}
        )
    return _no_longer(numbers, value)


Firsts = Annotated[Literal["all"] | list[int], PlainValidator(partial(_places, least=0))]
Removals = Annotated[Literal["all"] | list[int], PlainValidator(partial(_places, least=1))]


class KnockOutConfig(Options):
    """Which layers of a network are taken out, with a stitch in their place.

    Every `removed` layers from every `first` on, as far as the network reaches. `all` begins with the
    first block: without the stem, layer 0, a stitch has nothing but the image to start from.
    """

    network: str
    first: Firsts = "all"
    removed: Removals = "all"

    def cells(self, last: int) -> list[tuple[int, int]]:
        """Layer before the stitch and layer that it stands for, of every choice.

        Removing n layers from layer f on leaves the network as it is up to layer f - 1 and from layer
        f + n - 1 on: it is the network stitched to itself in the cell (f - 1, f + n - 1).

        Args:
            last: index of the network's last layer.
        """
        firsts = range(1, last + 1) if self.first == "all" else _up_to(self.first, last)
        counts = range(1, last + 2) if self.removed == "all" else _up_to(self.removed, last + 1)
        return [(f - 1, f + n - 1) for f in firsts for n in counts if f + n - 1 <= last]


def _up_to(numbers: list[int], most: int) -> list[int]:
    """Those of them that are `most` or less, each once."""
    return [number for number in dict.fromkeys(numbers) if number <= most]


class StitchConfig(Component):
    """Which stitch, how it starts, how sparse it has to be, and its own options."""

    registry: ClassVar[Registry] = STITCHES

    name: str = "paper"
    start: Literal["random", "identity", "permutation", "least_squares", "procrustes"] = "random"
    l1: From0 = 0.0


class PartConfig(Options):
    """A part of an assembled network: a piece of a network between two places, or a stitch.

    A place is a layer's index or a cut point's name; without `start` a piece begins at the image, without
    `end` it goes to the logits.
    """

    network: str | None = None
    start: str | int | None = None
    end: str | int | None = None
    frozen: bool = True
    stitch: StitchConfig | None = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> PartConfig:
        if (self.network is None) == (self.stitch is None):
            raise at_places("part", [((), "wants a network or a stitch, and not both")])
        given = [key for key in ("start", "end", "frozen") if key in self.model_fields_set]
        if self.stitch is not None and given:
            why = "is a piece of a network's; a stitch joins what stands before and after it"
            raise at_places("part", [((key,), why) for key in given])
        return self

    @model_serializer(mode="wrap")
    def _without_what_it_is_not(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = {k: v for k, v in handler(self).items() if v is not None}
        return {"stitch": found["stitch"]} if "stitch" in found else found


class LossTerm(Component):
    """One term of the training loss: its weight, and the loss's own options."""

    registry: ClassVar[Registry] = LOSSES
    name_is_key: ClassVar[bool] = True

    name: str
    weight: Above0 = 1.0

    @property
    def label(self) -> str:
        """Name, weight unless 1, and options that aren't at their defaults."""
        usual = LOSSES.get(self.name).options().model_dump()
        changed = {key: value for key, value in self.options.items() if value != usual[key]}
        text = self.name if self.weight == 1 else f"{self.weight:g}*{self.name}"
        return text + (f"({', '.join(f'{k}={v}' for k, v in changed.items())})" if changed else "")


class LossConfig(RootModel[dict[str, LossTerm]]):
    """A weighted sum of losses, written `{task: 1.0, mse: {weight: 0.5}}` in a file."""

    model_config = ConfigDict(strict=True)
    root: Annotated[dict[str, LossTerm], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _name_terms(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if not value:
            raise PydanticCustomError("ours", "wants at least one loss, such as task: 1.0")
        terms = {}
        for name, body in value.items():
            body = body if isinstance(body, Mapping) else {"weight": body}
            if "name" in body:
                raise at_places("loss", [((name, "name"), "the term's key is its name already")])
            terms[name] = {**body, "name": name}
        return terms

    @model_serializer
    def _to_mapping(self) -> dict[str, Any]:
        return {
            term.name: {"weight": term.weight, **term.options} if term.options else term.weight
            for term in self.terms
        }

    @property
    def terms(self) -> list[LossTerm]:
        """The terms in the order of the file."""
        return list(self.root.values())

    @property
    def label(self) -> str:
        """A short text that names the sum: `task`, `task+0.5*mse`, `soft_task(temperature=8.0)`."""
        return "+".join(term.label for term in self.terms)


class Distribution(Options):
    """What Optuna may choose for one dotted path of the configuration.

    `when` makes it conditional: it is sampled only where the given paths have one of the given values.
    """

    type: Literal["float", "int", "categorical"]
    low: Number | None = None
    high: Number | None = None
    log: bool = False
    step: Above0 | None = None
    choices: Annotated[list[Any], Field(max_length=MOST_CHOICES)] | None = None
    when: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Distribution:
        if found := list(self._problems()):
            raise at_places("distribution", found)
        return self

    def _problems(self) -> Iterator[tuple[Place, str]]:
        for path, wanted in self.when.items():
            if wanted == []:
                yield ("when", path), "wants a value or a list of values, got an empty list"
            elif isinstance(wanted, list) and len(wanted) > MOST_CHOICES:
                yield ("when", path), wants(f"at most {MOST_CHOICES} in the list", wanted)
        if self.type == "categorical":
            for key in ("low", "high", "log", "step"):
                if getattr(self, key):
                    yield (key,), "categorical takes choices only"
            if not self.choices:
                yield ("choices",), "categorical wants a list of at least one choice"
            elif twice := first_twice(self.choices):
                yield ("choices",), f"has {twice} twice"
            return
        if self.choices is not None:
            yield ("choices",), f"{self.type} takes low and high, not choices"
        missing = [key for key in ("low", "high") if getattr(self, key) is None]
        for key in missing:
            yield (key,), f"is missing; {self.type} needs it"
        for key in ("low", "high", "step"):
            value = getattr(self, key)
            if self.type == "int" and value is not None and value != int(value):
                yield (key,), wants("a whole number, since type is int", value)
        if self.low is None or self.high is None:
            return
        if self.low > self.high:
            yield (), f"low is {self.low:g}, above high, which is {self.high:g}"
        steps = (self.high - self.low) / (self.step or 1)
        if (self.step or self.type == "int") and steps > LARGEST_COUNT:
            yield ("step",), f"makes {steps:g} steps from low to high, {LARGEST_COUNT} at most"
        if self.log and self.low <= 0:
            yield ("low",), wants("a number above 0, since log is true", self.low)
        if self.log and self.step is not None:
            yield ("step",), "can't go with log: true"

    def representatives(self) -> list[Any]:
        """Values that stand for all: every choice, or both ends."""
        if self.type == "categorical":
            return list(self.choices or [])
        cast = int if self.type == "int" else float
        return [cast(self.low or 0), cast(self.high or 0)]


class SamplerConfig(BaseModel):
    """`tpe`, `random`, `grid`, or the class name of another sampler of Optuna with its arguments.

    What they are is checked where Optuna is known, in `sweep.search`.
    """

    model_config = ConfigDict(extra="allow", strict=True)
    name: str = "tpe"

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the sampler's class."""
        return dict(self.model_extra or {})


class SearchConfig(Options):
    """What is crossed (run in every cell) and what is searched (sampled by Optuna)."""

    cross: dict[str, Annotated[list[Any], Field(min_length=1, max_length=MOST_CHOICES)]] = Field(
        default_factory=dict
    )
    space: dict[str, Distribution] | None = None
    samples: Positive = 1
    sampler: SamplerConfig = SamplerConfig()
    metric: Literal["val_accuracy", "val_loss"] = "val_accuracy"
    mode: Literal["max", "min"] = "max"
    objectives: dict[str, Literal["max", "min"]] = Field(default_factory=dict)
    parallel_per_study: Positive = 1

    @field_validator("space", mode="before")
    @classmethod
    def _space_is_read(cls, value: Any) -> Any:
        if value is None or isinstance(value, Mapping):
            return value
        wanted = "a file's path, or dotted paths with their distributions"
        raise PydanticCustomError("ours", "{why}", {"why": wants(wanted, value)})

    @model_validator(mode="before")
    @classmethod
    def _mode_follows_metric(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "mode" not in values:
            return {**values, "mode": "min" if values.get("metric") == "val_loss" else "max"}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> SearchConfig:
        found: list[tuple[Place, str]] = []
        if self.samples > 1 and not self.space:
            why = (
                f"is {self.samples}, but there is no space to sample from; "
                "use repeats for the same settings under other seeds"
            )
            found.append((("samples",), why))
        if self.combinations > MOST_COMBINATIONS:
            sizes = " x ".join(f"{len(values)} ({path})" for path, values in self.cross.items())
            why = f"has {sizes} = {self.combinations} combinations, {MOST_COMBINATIONS} at most"
            found.append((("cross",), why))
        if len(self.objectives) == 1:
            why = "wants two or more; for a single one use metric, or leave both out"
            found.append((("objectives",), why))
        best = "min" if self.metric == "val_loss" else "max"
        if self.mode != best:
            found.append((("mode",), wants(f"{best!r} for {self.metric}", self.mode)))
        if found:
            raise at_places("search", found)
        return self

    @property
    def distributions(self) -> dict[str, Distribution]:
        """The search space; empty without a search."""
        return self.space or {}

    @property
    def combinations(self) -> int:
        """How many combinations of crossed values there are."""
        return math.prod(len(values) for values in self.cross.values())

    @property
    def goals(self) -> dict[str, Literal["max", "min"]]:
        """What Optuna is told of a trial, {metric: mode}: the objectives, or the one metric."""
        return self.objectives or {self.metric: self.mode}


_MOST_GPUS = 1024


def _gpu(value: Any) -> Any:
    if value == "auto":
        return value
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (0 <= number <= 1 or (1 < number < math.inf and number == int(number))):
        wanted = "'auto', 0, a share of one GPU or a whole number of them"
        raise PydanticCustomError("ours", "{why}", {"why": wants(wanted, value)})
    if number > _MOST_GPUS:
        why = wants(f"a number of at most {_MOST_GPUS}", value)
        raise PydanticCustomError("ours", "{why}", {"why": why})
    return float(number)


class ResourcesConfig(Options):
    """What one trial takes. `cpu` is also torch's number of intra-op threads, everywhere.

    `gpu: auto` is a share of one GPU that is measured when a sweep starts.
    """

    cpu: Annotated[int, Field(ge=1, le=1024)] = 1
    gpu: Annotated[Literal["auto"] | float, PlainValidator(_gpu)] = 0.0
    cache_gb: From0 = 1.0

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where a trial computes."""
        return "cuda" if self.gpu_at_most > 0 else "cpu"

    @property
    def gpu_at_most(self) -> float:
        """As `gpu`; a whole one for `auto`, which is the most that it may turn out to be."""
        return 1.0 if self.gpu == "auto" else self.gpu


class TrackingConfig(Options):
    """Where MLflow keeps the runs; without `uri`, MLFLOW_TRACKING_URI or a local sqlite file."""

    experiment: Annotated[str, Field(min_length=1, max_length=200)] = "stitch-sweep"
    uri: str | None = None
    enabled: bool = True

    @field_validator("experiment")
    @classmethod
    def _stays_in_its_place(cls, value: str) -> str:
        # A leading / is how Databricks names experiments; nothing else in a name may climb.
        parts = value.removeprefix("/").split("/")
        if any(part.strip(". ") == "" for part in parts) or not value.isprintable():
            wanted = "a name of printable characters without empty parts, '.' or '..' between its /"
            raise PydanticCustomError("ours", "{why}", {"why": wants(wanted, value)})
        return value


def _controls(value: Any) -> list[str]:
    if not isinstance(value, list):
        why = wants(f"a list of controls: {', '.join(CONTROLS)}", value)
        raise PydanticCustomError("ours", "{why}", {"why": why})
    unknown = [
        ((k,), f"no control is named {show(name)}: {nearest(str(name), CONTROLS)}")
        for k, name in enumerate(value[: len(CONTROLS)])
        if name not in CONTROLS
    ]
    if unknown:
        raise at_places("controls", unknown)
    if twice := first_twice(value):
        raise PydanticCustomError("ours", "{why}", {"why": f"has {twice} twice"})
    return list(value)


class TrialSettings(Options):
    """The part of a configuration that may differ from trial to trial."""

    stitch: StitchConfig = Field(default_factory=StitchConfig)
    loss: LossConfig = Field(default_factory=lambda: LossConfig.model_validate({"task": 1.0}))
    training: TrainingConfig = TrainingConfig()


class Config(TrialSettings):
    """A whole configuration file.

    Networks and pairs of `controls` are among `networks` and `pairs` as soon as it is read.
    """

    seed: Seed = 0
    repeats: Positive = 1
    data: DataConfig
    networks: Annotated[list[NetworkConfig], Field(min_length=1, max_length=MOST_NETWORKS)]
    pretraining: PretrainingConfig = PretrainingConfig()
    pairs: Annotated[list[PairConfig], Field(max_length=LONGEST_LIST)] = Field(default_factory=list)
    knock_out: Annotated[list[KnockOutConfig], Field(max_length=LONGEST_LIST)] = Field(
        default_factory=list
    )
    parts: Annotated[list[PartConfig], Field(max_length=LONGEST_LIST)] = Field(default_factory=list)
    order: Literal["together", "in_turn"] = "together"
    controls: Annotated[list[str], PlainValidator(_controls)] = Field(default_factory=list)
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()
    keep_stitches: Literal["all", "best", "none"] = "best"
    zoo: Text = "zoo"

    @model_validator(mode="wrap")
    @classmethod
    def _names_fit(cls, values: Any, handler: ModelWrapValidatorHandler[Config]) -> Config:
        # On the raw values, so that these problems are found beside all others.
        errors = []
        if isinstance(values, Mapping) and (found := list(_name_problems(values))):
            errors.append(at_places(cls.__name__, found))
        try:
            config = handler(values)
        except ValidationError as error:
            errors.insert(0, error)
        if errors:
            raise joined(cls.__name__, errors)
        for network in config.networks:
            if (own := network.pretraining) is not None:
                given = {key: getattr(own, key) for key in own.model_fields_set}
                network.pretraining = config.pretraining.model_copy(update=given)
        try:
            config.networks, config.pairs = expand(config.networks, config.pairs, config.controls)
        except ControlError as error:
            raise at_places(cls.__name__, error.problems) from None
        return config

    @model_serializer(mode="wrap")
    def _without_what_others_have(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A description stays what it was before there were these keys.
        late = {"controls": [], "knock_out": [], "parts": [], "order": "together"}
        return {k: v for k, v in handler(self).items() if not (k in late and v == late[k])}

    @property
    def settings(self) -> dict[str, Any]:
        """The trial settings as plain data, before factors and searched values."""
        return self.model_dump(include=set(TrialSettings.model_fields))

    def factor_combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination of the crossed factors, as {dotted path: value}."""
        paths = list(self.search.cross)
        for values in itertools.product(*self.search.cross.values()):
            yield dict(zip(paths, values, strict=True))


def trial_settings(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> TrialSettings:
    """Settings with dotted paths replaced, a whole section before what lies in it.

    Raises:
        pydantic.ValidationError: the result is no valid setting.
        InputError: a path leads nowhere.
    """
    return TrialSettings.model_validate(replaced(base, overrides))


def label(value: Any) -> str | int | float | bool:
    """A factor's or setting's value as one cell of a table: a loss as `task+0.5*mse`."""
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        try:
            return LossConfig.model_validate(value).label
        except ValidationError:
            pass
    return json.dumps(value, sort_keys=True)


def _name_problems(tree: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Networks named alike, and pairs of networks that aren't there; the values may be anything."""
    networks = [
        network.get("name") if isinstance(network, Mapping) else None
        for network in as_list(tree.get("networks"))
    ]
    names = list(dict.fromkeys(name for name in networks if isinstance(name, str)))
    only_send = {
        network.get("name")
        for network in as_list(tree.get("networks"))
        if isinstance(network, Mapping)
        and network.get("weights") == CLASS_ONLY
        and isinstance(network.get("name"), str)
    }
    first: dict[str, int] = {}
    for i, name in enumerate(networks):
        if isinstance(name, str) and first.setdefault(name, i) < i:
            yield ("networks", i, "name"), f"{show(name)} is the name of networks[{first[name]}]"
    if not any(tree.get(key) for key in ("pairs", "knock_out", "parts")):
        yield ("pairs",), "is missing; a configuration needs it, or knock_out, or parts"
    yield from _part_problems(as_list(tree.get("parts")), names, only_send)
    for i, part in enumerate(as_list(tree.get("knock_out"))):
        if why := _no_network(part, "network", names, only_send, "it has no layers to take out"):
            yield ("knock_out", i, "network"), why
    for i, pair in enumerate(as_list(tree.get("pairs"))):
        if why := _no_network(pair, "sender", names, (), ""):
            yield ("pairs", i, "sender"), why
        if why := _no_network(pair, "receiver", names, only_send, "it can send, not receive"):
            yield ("pairs", i, "receiver"), why


def _no_network(
    section: Any, key: str, names: list[str], only_send: Collection[Any], lacks: str
) -> str:
    """Why a section can't have the network that it names; empty where nothing is wrong.

    Args:
        section: of a configuration, as it was read.
        key: where it names a network.
        names: of all networks.
        only_send: of those that know only the class and won't do here.
        lacks: why not.
    """
    wanted = section.get(key) if isinstance(section, Mapping) else None
    if not isinstance(wanted, str):
        return ""
    if names and wanted not in names:
        return f"no network is named {show(wanted)}: {nearest(wanted, names)}"
    if wanted in only_send:
        return f"{wanted!r} knows only the class (weights: {CLASS_ONLY}): {lacks}"
    return ""


def _part_problems(
    parts: list[Any], names: list[str], only_send: set[Any]
) -> Iterator[tuple[Place, str]]:
    """Parts of networks that aren't there, and parts in an order in which they join nothing."""
    stitches = [isinstance(part, Mapping) and part.get("stitch") is not None for part in parts]
    for k, part in enumerate(parts):
        if why := _no_network(part, "network", names, only_send, "it has no parts"):
            yield ("parts", k, "network"), why
        if stitches[k] and (k in (0, len(parts) - 1) or stitches[k - 1]):
            yield ("parts", k), "a stitch wants a piece of a network before it and after it"
        elif k == 0 and isinstance(part, Mapping) and part.get("start", -1) not in (-1, None):
            yield ("parts", k, "start"), "the first part begins at the image: leave it out"
        elif k == len(parts) - 1 and isinstance(part, Mapping) and part.get("end") is not None:
            yield ("parts", k, "end"), "the last part goes to the logits: leave it out"
